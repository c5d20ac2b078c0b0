"""What holds for every plugin: it has a name, says what it is, and its options survive a recipe."""

from __future__ import annotations

import inspect

from ..checking import check, options, plain
from ..docstrings import meanings
from ..options import Plugin


class Unfit(AssertionError):
    """A plugin breaks its contract."""


def expect(holds: bool, message: str) -> None:
    """Raise Unfit with the message unless it holds."""
    if not holds:
        raise Unfit(message)


def check_plugin(plugin: Plugin) -> None:
    """Name, docstring, readable option types with their meaning, and options that a recipe can write and read again."""
    cls, kind = type(plugin), type(plugin).__name__
    expect(isinstance(getattr(cls, "name", None), str) and bool(cls.name), f'{kind}: write `name = "..."` in its body')
    expect(cls.name == "".join(cls.name.split()), f"{kind}.name is '{cls.name}'; expected a word without spaces")
    expect("name" not in {option.name for option in options(cls)}, f"{kind}.name has a type; write it without one")
    first = (inspect.getdoc(plugin) or "").partition("\n")[0]
    expect(first.endswith("."), f"{kind}'s docstring begins with '{first}'; expected one sentence that says what it is")
    silent = [option.name for option in options(cls) if option.name not in meanings(cls)]
    expect(not silent, f"{kind}'s docstring says nothing about {', '.join(silent)}; write `option: what it means.`")
    written = plain(plugin)
    values = {key: value for key, value in written.items() if key != "uses"}
    again, mistakes = check(cls, values)
    expect(not mistakes, f"{kind}'s options, written to a recipe, are refused: {[m.message for m in mistakes]}")
    expect(again is not None and plain(again) == written, f"{kind}'s options change on the way through a recipe")
