"""A mapping {uses: name, option: value} in, the plugin object that it speaks of out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checking import Option, OptionMistake, check, options
from ..errors import CompressError
from .mistakes import Mistake, Place
from .nodes import Node

if TYPE_CHECKING:
    from ..options import Plugin
    from ..registry import Registry

MUST_EXIST = ("architectures", "tasks", "policies", "criteria", "regularizers", "distillations", "compensations")
"""Kinds whose paths are read; datasets say themselves what is missing, stages and exporters may write."""


def make(node: Node, kind: str, registry: Registry, mistakes: list[Mistake], beside: tuple[str, ...] = ()) -> Any:
    """The plugin object that `name` or `{uses: name, option: value}` speaks of, or None where there is a mistake.

    beside: keys of the mapping that are no options.
    """
    cls = _class(node, kind, registry, mistakes)
    if cls is None:
        return None
    before = len(mistakes)
    values = _values(node, cls, kind, registry, mistakes, ("uses", *beside))
    try:
        made, wrong = check(cls, values)
    except CompressError as error:
        mistakes.append(Mistake(_uses_place(node), str(error)))
        return None
    mistakes.extend(Mistake(_place(node, each), each.message) for each in wrong)
    return made if len(mistakes) == before else None


def _class(node: Node, kind: str, registry: Registry, mistakes: list[Mistake]) -> type[Plugin] | None:
    uses = node.mapping.get("uses", node)
    if not isinstance(uses.value, str):
        mistakes.append(Mistake(uses.place, "expected {uses: name, option: value, ...}"))
        return None
    try:
        return registry.find(kind, uses.value)
    except CompressError as error:
        mistakes.append(Mistake(uses.place, str(error)))
        return None


def _uses_place(node: Node) -> Place:
    return node.mapping["uses"].place if "uses" in node.mapping else node.place


def _place(node: Node, mistake: OptionMistake) -> Place:
    """The unknown key, the wrong value, or the plugin's name where something is missing."""
    if mistake.kind == "unknown":
        return node.keys[str(mistake.path[0])]
    return node.at(mistake.path) if mistake.path else _uses_place(node)


def _values(
    node: Node, cls: type[Plugin], kind: str, registry: Registry, mistakes: list[Mistake], beside: tuple[str, ...]
) -> dict[str, Any]:
    """A plugin's options as plain values: paths absolute, other plugins that they name checked."""
    known = {option.name: option for option in options(cls)}
    return {
        key: _value(child, known[key], kind, registry, mistakes) if key in known else child.plain()
        for key, child in node.mapping.items()
        if key not in beside
    }


def _value(node: Node, option: Option, kind: str, registry: Registry, mistakes: list[Mistake]) -> Any:
    if option.uses is not None and node.value is not None:
        uses = option.uses
        if isinstance(node.value, tuple):
            return [_named(item, uses.kind, uses.given, registry, mistakes) for item in node.items]
        return _named(node, uses.kind, uses.given, registry, mistakes)
    if option.is_path or option.may_be_path:
        return _rooted(node, option.is_path, kind in MUST_EXIST, mistakes)
    return node.plain()


def _named(node: Node, kind: str, given: tuple[str, ...], registry: Registry, mistakes: list[Mistake]) -> Any:
    """The value of an option that names another plugin, after that plugin's own options were checked."""
    cls = _class(node, kind, registry, mistakes)
    if cls is None:
        return node.plain()
    values = _values(node, cls, kind, registry, mistakes, ("uses",))
    try:
        _, wrong = check(cls, values)
    except CompressError as error:
        mistakes.append(Mistake(_uses_place(node), str(error)))
        return node.plain()
    mistakes.extend(
        Mistake(_place(node, each), each.message)
        for each in wrong
        if not (each.kind == "missing" and each.option in given)
    )
    return {"uses": cls.name, **values} if node.mapping else node.value


def _rooted(node: Node, sure: bool, must_exist: bool, mistakes: list[Mistake]) -> Any:
    """Every text in it as an absolute path; where it is not `sure` to be one, only if there is such a file."""
    if isinstance(node.value, Mapping):
        return {key: _rooted(child, sure, must_exist, mistakes) for key, child in node.mapping.items()}
    if isinstance(node.value, tuple):
        return [_rooted(child, sure, must_exist, mistakes) for child in node.items]
    if not isinstance(node.value, str):
        return node.value
    path = Path(os.path.abspath(node.place.base / Path(node.value).expanduser()))
    if sure and must_exist and not path.exists():
        mistakes.append(Mistake(node.place, f"no such file: {path}"))
    return str(path) if sure or path.is_file() else node.value
