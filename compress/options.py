"""A plugin class in, the same class with typed options out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, dataclass_transform


@dataclass_transform(kw_only_default=True, eq_default=False)
class Plugin:
    """Something registered by name whose options are the typed fields of its class.

    A subclass states `name` and its options; it becomes a keyword-only dataclass by itself:

    >>> class Blur(Plugin):
    ...     name = "blur"
    ...     sigma: float = 1.0
    >>> Blur(sigma=2.0)
    Blur(sigma=2.0)

    Values from a recipe are checked against the fields' types (`compress.checking`); an unknown option is an error
    there. A field whose type contains `Path` is a path, and a recipe's relative path is made absolute for it; a field
    of type `str | Path` is a name or a path: it becomes an absolute path (a str) where such a file exists. The class
    docstring's first line is what `compress plugins` shows.
    """

    name: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "arbitrary_types_allowed": True}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclass(kw_only=True, eq=False)(cls)


@dataclass(frozen=True)
class Uses:
    """Marks an option that names another plugin, so that a recipe is checked through it.

    The value is a registered name, or `{uses: name, option: value}`, or a list of either:
    `criterion: Annotated[str | dict[str, Any], Uses("criteria")] = "l2"`.
    kind: a field of `compress.plugins.Registry`. given: options that the owner passes itself when it makes the plugin.
    """

    kind: str
    given: tuple[str, ...] = ()
