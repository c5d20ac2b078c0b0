"""YAML text in, a tree of values out in which every value knows where it was written; and plain values to YAML text.

The YAML is the strict part of YAML 1.2 (core schema) that a recipe needs: `1e-3` and `11.0e6` are numbers, `yes` and
`12:30` are text, `010` is ten; a key twice is a mistake; there are no tags, anchors or aliases, so no text can make
anything but numbers, texts, true, false, null, lists and mappings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from .mistakes import Mistake, Place, RecipeError

DEEPEST = 50

Value: TypeAlias = "bool | int | float | str | tuple[Node, ...] | Mapping[str, Node] | None"

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"[-+]?\.(inf|Inf|INF)")
_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


@dataclass(frozen=True)
class Node:
    """A value and where it was written: a scalar, a tuple of nodes, or a mapping key -> node with the keys' places."""

    value: Value
    place: Place
    keys: Mapping[str, Place] = field(default_factory=dict)

    @property
    def mapping(self) -> Mapping[str, Node]:
        """The entries where it is a mapping, else none."""
        return self.value if isinstance(self.value, Mapping) else {}

    @property
    def items(self) -> tuple[Node, ...]:
        """The items where it is a list, else none."""
        return self.value if isinstance(self.value, tuple) else ()

    def plain(self) -> Any:
        """The same as dict, list and scalars."""
        if isinstance(self.value, Mapping):
            return {key: node.plain() for key, node in self.value.items()}
        return [node.plain() for node in self.value] if isinstance(self.value, tuple) else self.value

    def at(self, path: tuple[str | int, ...]) -> Place:
        """Where the value at `path` was written, as far as the path goes."""
        if path and isinstance(path[0], str) and path[0] in self.mapping:
            return self.mapping[path[0]].at(path[1:])
        if path and isinstance(path[0], int) and path[0] < len(self.items):
            return self.items[path[0]].at(path[1:])
        return self.place


def scalar(text: str) -> bool | int | float | str | None:
    """A plain (unquoted) YAML 1.2 core scalar.

    >>> [scalar(text) for text in ("1e-3", "11.0e6", "010", "0x1F", "yes", "12:30", "~", "True")]
    [0.001, 11000000.0, 10, 31, 'yes', '12:30', None, True]
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITY.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def parse(text: str, source: str, base: Path, line: bool = True) -> tuple[Node, list[Mistake]]:
    """The tree of one YAML document, and its doubled keys. Raises RecipeError where the text is no such YAML.

    source, base: as in Place. line=False: the text is an argument of the command line and has no lines.
    """

    def place(mark: Any) -> Place:
        return Place(source, mark.line + 1, mark.column + 1, base) if line and mark else Place(source, 0, 0, base)

    mistakes: list[Mistake] = []
    try:
        events = yaml.parse(text, Loader=yaml.SafeLoader)
        next(events)  # the stream starts
        first = next(events)
        if isinstance(first, yaml.StreamEndEvent):
            return Node(None, place(first.start_mark)), mistakes
        node = _node(next(events), events, place, mistakes, 0)
        next(events)  # the document ends
        after = next(events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise RecipeError([Mistake(place(after.start_mark), "expected one YAML document, found a second")])
        return node, mistakes
    except yaml.MarkedYAMLError as error:
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise RecipeError([Mistake(place(error.problem_mark or error.context_mark), f"no YAML: {problem}")]) from None
    except yaml.YAMLError as error:
        raise RecipeError([Mistake(place(None), f"no YAML: {error}")]) from None


def dump(values: Mapping[str, Any]) -> str:
    """Plain values as YAML text that `parse` reads as the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _node(event: Any, events: Iterator[Any], place: Any, mistakes: list[Mistake], depth: int) -> Node:
    here = place(event.start_mark)
    if isinstance(event, yaml.AliasEvent) or event.anchor:
        raise RecipeError([Mistake(here, "recipes have no anchors (&) and aliases (*); write the value out")])
    if event.tag is not None:
        raise RecipeError([Mistake(here, f"recipes have no tags ({event.tag}); write a plain value")])
    if depth > DEEPEST:
        raise RecipeError([Mistake(here, f"nested more than {DEEPEST} deep")])
    if isinstance(event, yaml.ScalarEvent):
        try:
            return Node(scalar(event.value) if event.style is None else event.value, here)
        except ValueError:
            raise RecipeError([Mistake(here, f"a number of {len(event.value)} digits")]) from None
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_node(event, events, place, mistakes, depth + 1))
        return Node(tuple(items), here)
    entries: dict[str, Node] = {}
    keys: dict[str, Place] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        key, there = _key(event, place)
        node = _node(next(events), events, place, mistakes, depth + 1)
        if key in keys:
            mistakes.append(Mistake(there, f"key '{key}' is there twice, first at {keys[key]}"))
            continue
        entries[key], keys[key] = node, there
    return Node(entries, here, keys)


def _key(event: Any, place: Any) -> tuple[str, Place]:
    there = place(event.start_mark)
    if not isinstance(event, yaml.ScalarEvent) or event.tag is not None or event.anchor:
        raise RecipeError([Mistake(there, "expected a plain word as key")])
    return event.value, there


class _Dumper(yaml.SafeDumper):
    """Quotes a text that YAML 1.2 would read as something else; never makes an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = '"' if not text.isprintable() else None if isinstance(scalar(text), str) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
