"""Darknet cfg text in, a tuple of Sections that know where they stand out - and back to text."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from compress import CompressError, nearest

from .vocabulary import ALIASES, VOCABULARY

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Section:
    """One `[kind]` block of a cfg.

    options: key -> text, in the file's order, whatever the keys are. line: of the header, from 1. lines: key -> line.
    index: Darknet's layer index, the number that `layers=` and `from=` use; -1 for [net]. source: the file, for errors.
    """

    kind: str
    options: Mapping[str, str]
    line: int
    index: int
    source: str = "cfg"
    lines: Mapping[str, int] = field(default_factory=dict)

    def mistake(self, what: str, key: str = "") -> CompressError:
        """The error that points at this section, or at one of its keys."""
        number = "" if self.index < 0 else f" {self.index}"
        return CompressError(f"{self.source}:{self.lines.get(key, self.line)}: section{number} [{self.kind}]: {what}")

    def word(self, key: str, default: str | None = None) -> str:
        """The text of a key. Raises CompressError where it is missing and has no default."""
        if key in self.options:
            return self.options[key]
        if default is None:
            raise self.mistake(f"'{key}=' is missing")
        return default

    def integers(self, key: str, default: str | None = None) -> tuple[int, ...]:
        """A comma-separated list of whole numbers."""
        return tuple(self._number(key, item, int) for item in self._items(key, default))

    def numbers(self, key: str, default: str | None = None) -> tuple[float, ...]:
        """A comma-separated list of finite numbers."""
        return tuple(self._number(key, item, float) for item in self._items(key, default))

    def integer(self, key: str, default: int | None = None, at_least: int | None = None) -> int:
        """One whole number. Raises CompressError where it is missing, not one, or below `at_least`."""
        value = self._number(key, self.word(key, None if default is None else str(default)), int)
        if at_least is not None and value < at_least:
            raise self.mistake(f"{key}={value}: expected at least {at_least}", key)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """One finite number."""
        return self._number(key, self.word(key, None if default is None else str(default)), float)

    def revised(self, **changes: object) -> Section:
        """This section with some options set anew; keys keep their place, new ones go to the end."""
        return replace(self, options={**self.options, **{key: str(value) for key, value in changes.items()}})

    def _items(self, key: str, default: str | None) -> list[str]:
        items = self.word(key, default).split(",")
        return items[:-1] if len(items) > 1 and not items[-1].strip() else items

    def _number(self, key: str, text: str, kind: type[Number]) -> Number:
        try:
            value = kind(text.replace("_", "?"))  # Python reads 1_0 as 10, nobody else does
        except ValueError:
            wanted, found = "a whole number" if kind is int else "a number", self.options.get(key, text)
            raise self.mistake(f"{key}={found}: expected {wanted}, found '{text.strip()}'", key) from None
        if not math.isfinite(value):
            raise self.mistake(f"{key}={text}: expected a finite number", key)
        return value


def read_cfg(path: Path) -> tuple[Section, ...]:
    """The sections of a cfg file, [net] first. Raises CompressError where it cannot be read or understood."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CompressError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise CompressError(f"{path}: byte {error.start} is not UTF-8 text; is it a cfg file?") from None
    return parse_cfg(text, path.name)


def parse_cfg(text: str, source: str = "cfg") -> tuple[Section, ...]:
    """The sections of a cfg, [net] first, options as text.

    Lines are `[kind]`, `key=value`, comments (`#` or `;`) or blank. A key that Darknet does not know is kept, unless it
    looks like a misspelling of one that it knows.

    Raises: CompressError with one line a mistake: file, line, section number and what was expected.

    >>> parse_cfg("[net]\\nwidth=32\\nheight=32\\nchannels=3\\n[upsample]\\nstride=2")[1].integer("stride")
    2
    """
    sections: list[Section] = []
    mistakes: list[str] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        if line.startswith("["):
            kind = line[1:].partition("]")[0].strip().lower()
            section = Section(ALIASES.get(kind, kind), {}, number, len(sections) - 1, source, {})
            sections.append(section)
            mistakes += _header_mistakes(section, closed="]" in line)
        elif not sections:
            mistakes.append(f"{source}:{number}: expected '[net]' before '{line}'")
        else:
            section, mistake = _with_line(sections[-1], line, number)
            sections[-1] = section
            mistakes += mistake
    if not sections:
        mistakes.append(f"{source}: no section found; expected '[net]' and layers")
    elif len(sections) == 1 and sections[0].kind == "net":
        mistakes.append(f"{source}:{sections[0].line}: no layer follows [net]")
    if mistakes:
        raise CompressError("\n".join(mistakes))
    return tuple(sections)


def format_cfg(sections: Iterable[Section]) -> str:
    """Text that `parse_cfg` reads as the same sections (line numbers aside).

    >>> print(format_cfg(parse_cfg("[net]\\nwidth = 8\\n# a comment\\n[dropout]\\nmine=1")), end="")
    [net]
    width=8
    <BLANKLINE>
    [dropout]
    mine=1
    """
    blocks = ("".join([f"[{s.kind}]\n", *(f"{key}={value}\n" for key, value in s.options.items())]) for s in sections)
    return "\n".join(blocks)


def _header_mistakes(section: Section, closed: bool) -> list[str]:
    found = []
    if not closed:
        found.append("expected ']' after the section's name")
    if section.kind not in VOCABULARY:
        found.append(f"unknown kind of section{nearest(section.kind, VOCABULARY)}")
    elif (section.kind == "net") != (section.index < 0):
        second = "a second [net]; expected one, at the top of the file"
        found.append("the first section must be [net]" if section.index < 0 else second)
    return [str(section.mistake(what)) for what in found]


def _with_line(section: Section, line: str, number: int) -> tuple[Section, list[str]]:
    """The section with one more `key=value`, and what is wrong with that line."""
    key, equals, value = (part.strip() for part in line.partition("="))
    value = value.split(" #")[0].split(" ;")[0].rstrip()
    here = replace(section, lines={**section.lines, key: number})
    if not equals or not key or not value:
        return section, [str(here.mistake(f"expected key=value, found '{line}'", key))]
    if section.options.get(key, value) != value:
        first = f"line {section.lines[key]} says {key}={section.options[key]}"
        return section, [str(here.mistake(f"{key}={value}, but {first}; expected it once", key))]
    known = VOCABULARY.get(section.kind, ())
    close = () if key in known else difflib.get_close_matches(key, known, n=1, cutoff=0.8)
    if close:
        return section, [str(here.mistake(f"unknown key '{key}'; did you mean '{close[0]}'?", key))]
    return replace(here, options={**section.options, key: value}), []
