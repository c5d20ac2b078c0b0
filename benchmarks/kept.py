"""Measured rows in, a JSON file that a killed measurement goes on from out - and mean and spread of what is in it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.files import write_json

Row = dict[str, Any]
"""What was asked and what came out, plain JSON values; `failed` says why nothing came out."""

WHOLE, REMOVED = "whole", "removed"
"""In place of a compensation's or criterion's name: the network before the cut, and what goes in one."""
ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "build" / "comparisons"
"""Where results are kept unless told otherwise."""
PAGE = ROOT / "docs" / "comparisons.md"


def read_rows(file: Path) -> list[Row]:
    """The rows that are there already."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else []


def add_row(file: Path, row: Row) -> None:
    """Append a row; the file is replaced as a whole."""
    write_json(file, [*read_rows(file), row])


def find_rows(rows: Sequence[Row], question: Mapping[str, Any]) -> list[Row]:
    """The rows that answer a question: those in which all its keys have its values."""
    return [row for row in rows if all(row.get(key) == value for key, value in question.items())]


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean and, where there are several, the smallest and the largest."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f}-{max(values):.{digits}f})"
