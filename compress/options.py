"""A plugin class in, the same class with typed, checked options out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, dataclass_transform


@dataclass_transform(kw_only_default=True)
class Plugin:
    """Something registered by name whose options are the typed fields of its class.

    A subclass states `name` and its options; it becomes a keyword-only dataclass by itself:

    >>> class Blur(Plugin):
    ...     name = "blur"
    ...     sigma: float = 1.0
    >>> Blur(sigma=2.0)
    Blur(sigma=2.0)

    Values from a recipe are checked against the fields' types (pydantic) by `compress.recipes`; an unknown option
    is an error there. The class docstring's first line is what `compress plugins` shows.
    """

    name: ClassVar[str]
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "arbitrary_types_allowed": True}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclass(kw_only=True, eq=False)(cls)
