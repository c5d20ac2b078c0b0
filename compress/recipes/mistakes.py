"""What is wrong with a recipe, where: one line a mistake."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import CompressError


@dataclass(frozen=True)
class Place:
    """Where a value was written. source: the file as the user named it, or the `key=value` of the command line.

    line, column: from 1; 0 on the command line. base: what relative paths written here are relative to.
    """

    source: str
    line: int
    column: int
    base: Path

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong, and where."""

    place: Place
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {' '.join(self.message.split())}"


class RecipeError(CompressError):
    """Every mistake of a recipe, in the order of their places; prints one line a mistake."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        unique = dict.fromkeys(mistakes)
        self.mistakes = sorted(unique, key=lambda m: (m.place.line == 0, m.place.source, m.place.line, m.place.column))
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))
