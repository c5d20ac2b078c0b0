"""Plain option values in, a plugin object or its mistakes out."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from .errors import CompressError, nearest
from .options import Plugin, Uses

PluginT = TypeVar("PluginT", bound=Plugin)

_PLAIN = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}


@dataclass(frozen=True)
class Option:
    """One typed option of a plugin class. type: its annotation. default: None also where it is `required`."""

    name: str
    type: Any
    required: bool
    default: Any

    @property
    def uses(self) -> Uses | None:
        """The kind of plugin that this option names, if it does."""
        return next((m for m in _layers(self.type) if isinstance(m, Uses)), None)

    @property
    def is_path(self) -> bool:
        """Whether every text in it is a path."""
        return Path in _layers(self.type) and str not in _layers(self.type)

    @property
    def may_be_path(self) -> bool:
        """Whether a text in it is a name or a path."""
        return Path in _layers(self.type) and str in _layers(self.type)


@dataclass(frozen=True)
class OptionMistake:
    """What is wrong with one option.

    path: from the plugin's mapping to the value, e.g. ("lr",) or ("names", 2); () where there is no value.
    kind: `unknown`, `missing` or `wrong`. option: its name, "" for several options together.
    """

    path: tuple[str | int, ...]
    message: str
    kind: str = "wrong"
    option: str = ""


def options(cls: type[Plugin]) -> tuple[Option, ...]:
    """The options of a plugin class, in the order of its fields. Raises CompressError where a type cannot be read."""
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError as error:
        raise CompressError(
            f"{cls.__module__}.{cls.__name__}: the type of an option cannot be read ({error}); "
            "import it at run time, not only under TYPE_CHECKING"
        ) from None
    return tuple(
        Option(each.name, hints[each.name], _required(each), None if _required(each) else _default(each))
        for each in fields(cls)
        if each.init
    )


def check(cls: type[PluginT], values: Mapping[str, Any]) -> tuple[PluginT | None, list[OptionMistake]]:
    """The plugin object made of plain (JSON) values, or None and every mistake at once.

    Strict: no text for a number, no 3.0 for a whole number; text for a path and a list for a tuple are right.

    >>> class Blur(Plugin):
    ...     name = "blur"
    ...     sigma: float = 1.0
    >>> check(Blur, {"sigma": 2})
    (Blur(sigma=2.0), [])
    >>> check(Blur, {"sgma": "wide"})[1][0].message
    "unknown option 'sgma' of blur; did you mean 'sigma'?"
    """
    from pydantic import ValidationError

    known, none = {option.name: option for option in options(cls)}, "; it has none"
    mistakes = [
        OptionMistake((key,), f"unknown option '{key}' of {cls.name}{nearest(key, known) or none}", "unknown")
        for key in values
        if key not in known
    ]
    rest = {key: value for key, value in values.items() if key in known}
    try:
        made = _adapter(cls).validate_json(json.dumps(rest), strict=True)
        return (None, mistakes) if mistakes else (made, [])
    except ValidationError as errors:
        found: dict[tuple[str, tuple[str | int, ...]], OptionMistake] = {}
        for error in errors.errors(include_url=False):
            mistake = _explain(cls.name, known, values, error)
            found.setdefault((mistake.option, mistake.path), mistake)
        return None, [*mistakes, *found.values()]
    except CompressError as error:
        return None, [*mistakes, OptionMistake((), f"{cls.name}: {error}")]


def plain(plugin: Plugin) -> dict[str, Any]:
    """`{uses: name, every option: its value}` as plain JSON values; `check` makes an equal object of it."""
    return {"uses": plugin.name, **_adapter(type(plugin)).dump_python(plugin, mode="json")}


def describe(kind: Any) -> str:
    """A type in a user's words.

    >>> describe(int | None)
    'a whole number or null'
    >>> from pydantic import Field
    >>> describe(Annotated[float, Field(ge=0, le=1)])
    'a number from 0 to 1'
    >>> describe(Literal["keep", "merge"])
    "'keep' or 'merge'"
    >>> describe(tuple[int, int])
    'a list [a whole number, a whole number]'
    """
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return " ".join(filter(None, (describe(args[0]), _bounds(args[1:]))))
    if origin in (Union, types.UnionType):
        return " or ".join(describe(arg) for arg in args)
    if origin is Literal:
        return " or ".join(repr(arg) for arg in args)
    if kind in _PLAIN:
        return _PLAIN[kind]
    if origin is tuple and Ellipsis not in args:
        return f"a list [{', '.join(describe(arg) for arg in args)}]"
    if origin in (list, tuple, set, frozenset) or (isinstance(origin, type) and issubclass(origin, typing.Sequence)):
        return f"a list of {describe(args[0])}"
    if isinstance(origin or kind, type):
        if issubclass(origin or kind, Path):
            return "a path"
        if issubclass(origin or kind, Mapping):
            return f"a mapping to {describe(args[1])}" if args else "a mapping"
    return "any value" if kind is Any else getattr(kind, "__name__", str(kind))


def _bounds(marks: tuple[Any, ...]) -> str:
    """What pydantic's `Field` lets a number be, e.g. 'above 0'; '' for any."""
    limits: dict[str, float] = {}
    for limit in (each for mark in marks for each in getattr(mark, "metadata", ())):
        limits |= {key: getattr(limit, key) for key in ("gt", "ge", "lt", "le") if hasattr(limit, key)}
    for low, high, both in (("ge", "le", "from {:g} to {:g}"), ("gt", "lt", "between {:g} and {:g}")):
        if set(limits) == {low, high}:
            return both.format(limits[low], limits[high])
    words = {"gt": "above", "ge": "of at least", "lt": "below", "le": "of at most"}
    return " and ".join(f"{words[key]} {value:g}" for key, value in limits.items())


def _adapter(cls: type[Plugin]) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def _required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _layers(kind: Any) -> list[Any]:
    """The type, what it is made of and its marks: `Annotated[list[Path], m]` -> [itself, list[Path], Path, m]."""
    return [kind, *(inner for arg in get_args(kind) for inner in _layers(arg))]


def _explain(
    name: str, known: Mapping[str, Option], values: Mapping[str, Any], error: Mapping[str, Any]
) -> OptionMistake:
    """One of pydantic's errors in a user's words."""
    if not error["loc"]:
        return OptionMistake((), f"{name}: {error.get('ctx', {}).get('error', error['msg'])}")
    option = known[error["loc"][0]]
    if error["type"] == "missing" and len(error["loc"]) == 1:
        needs = f"{name} needs the option '{option.name}' ({describe(option.type)})"
        return OptionMistake((), needs, "missing", option.name)
    where, hint = f"'{option.name}' of {name}", ""
    path, value = _follow(error["loc"], values)
    inside_union = path != tuple(error["loc"])
    if inside_union or (len(path) == 1 and error["type"].endswith("_type")):
        path, value, expected = (option.name,), values[option.name], f"expected {describe(option.type)}"
    elif error["type"] == "literal_error":
        expected = f"expected {error['ctx']['expected']}"
        words = [arg for kind in _layers(option.type) if get_origin(kind) is Literal for arg in get_args(kind)]
        close = nearest(value, [word for word in words if isinstance(word, str)]) if isinstance(value, str) else ""
        hint = close if "did you mean" in close else ""
    else:
        expected = error["msg"].removeprefix("Value error, ").replace("Input should be", "expected", 1)
    return OptionMistake(path, f"{where}: {expected}, got {_shown(value)}{hint}", "wrong", option.name)


def _follow(loc: tuple[str | int, ...], values: Any) -> tuple[tuple[str | int, ...], Any]:
    """As far along `loc` as the values go (pydantic also puts the branches of a union in it)."""
    path: tuple[str | int, ...] = ()
    for step in loc:
        inside = (isinstance(values, Mapping) and step in values) or (
            isinstance(values, list) and isinstance(step, int) and step < len(values)
        )
        if not inside:
            break
        path, values = (*path, step), values[step]
    return path, values


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
