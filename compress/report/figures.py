"""Report rows in, the published table's lines out: numbers with units and their change against the first network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TITLES = {"baseline": "Baseline", "sparse": "Sparse", "pruned": "Pruned", "finetuned": "Fine-tuned"}
METRICS = {
    "map50": "mAP@0.5",
    "map": "mAP@0.5:0.95",
    "map75": "mAP@0.75",
    "ap50": "AP@0.5",
    "precision50": "Precision@0.5",
    "recall50": "Recall@0.5",
    "threshold50": "Score threshold",
    "accuracy": "Accuracy",
    "accuracy5": "Top-5 accuracy",
    "recall": "Mean recall",
}
SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


@dataclass(frozen=True)
class Figure:
    """One number of the table. text: with its unit; note: its spread; change: against the first row, '' there."""

    column: str
    text: str
    note: str = ""
    change: str = ""
    better: bool | None = None


@dataclass(frozen=True)
class Line:
    """One network of the table."""

    role: str
    title: str
    stage: str
    figures: tuple[Figure, ...]


def lines(report: Mapping[str, Any]) -> tuple[Line, ...]:
    """The main table: parameters, bytes, MACs, latency, the headline metric and the same on each subset."""
    rows = report["rows"]
    subsets = list(dict.fromkeys(name for row in rows for name in row["subsets"]))
    return tuple(_line(row, rows[0], report.get("headline", "map50"), subsets) for row in rows)


def _line(row: Mapping[str, Any], first: Mapping[str, Any], headline: str, subsets: Sequence[str]) -> Line:
    latency, base = row["latency_ms"], first["latency_ms"]
    here = row is not first
    figures = [
        _size("Parameters", row["params"], first["params"], "", here),
        _size("Size", row["bytes"], first["bytes"], "B", here),
        _size("MACs", row["macs"], first["macs"], "", here),
        _time(latency, base, here),
        score(metric_title(headline), row["metrics"].get(headline), first["metrics"].get(headline), here),
    ]
    for name in subsets:
        value, before = (each["subsets"].get(name, {}).get(headline) for each in (row, first))
        figures.append(score(name, value, before, here))
    return Line(row["role"], TITLES[row["role"]], row["stage"], tuple(figures))


def score(column: str, after: float | None, before: float | None, here: bool) -> Figure:
    """A metric with four digits and what it changed against `before`; here: whether this is a later row than that."""
    if after is None:
        return Figure(column, "–")
    if before is None or not here:
        return Figure(column, f"{after:.4f}")
    change = after - before
    text = f"{change:+.4f}".replace("-", "−") if abs(change) >= 0.00005 else "±0.0000"
    return Figure(column, f"{after:.4f}", "", text, None if text == "±0.0000" else change > 0)


def metric_title(name: str) -> str:
    """The field's way to write a metric's name: 'map50' -> 'mAP@0.5'."""
    return METRICS.get(name, name)


def number(value: float, unit: str = "", like: float | None = None) -> str:
    """Three significant digits and a decimal prefix: 61523734 -> '61.5 M', 246400000, 'B' -> '246 MB'.

    like: the number whose prefix to take, so that a column can be compared at a glance: 812455 -> '0.812 M'.
    """
    size = value if like is None else like
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= 0.9995 * factor:
            return f"{_digits(value / factor)} {prefix}{unit}"
    return f"{_digits(value)} {unit}".rstrip()


def milliseconds(value: float) -> str:
    """Three significant digits: 7.0912 -> '7.09 ms'."""
    return f"{_digits(value)} ms"


def scientific(value: float) -> str:
    """Two significant digits and a power of ten: 3.2e-06 -> '3.2 × 10⁻⁶'."""
    if value == 0:
        return "0"
    mantissa, power = f"{value:.1e}".split("e")
    return f"{mantissa} × 10{str(int(power)).translate(SUPERSCRIPTS)}"


def percent(after: float, before: float) -> str:
    """The relative change with a true minus sign: (1, 4) -> '−75.0 %'; '' where there is nothing to compare with."""
    if not before:
        return ""
    change = 100 * (after - before) / before
    text = f"{change:+.1f}\u202f%" if abs(change) >= 0.05 else "±0.0\u202f%"
    return text.replace("-", "−")


def _digits(value: float) -> str:
    for least, digits in ((99.95, 0), (9.995, 1), (0.9995, 2)):
        if value >= least:
            return f"{value:.{digits}f}"
    return f"{value:.3f}" if value else "0"


def _size(column: str, after: float, before: float, unit: str, here: bool) -> Figure:
    return Figure(column, number(after, unit, before), "", *_ratio(after, before, here))


def _time(after: Mapping[str, Any], before: Mapping[str, Any], here: bool) -> Figure:
    """A change that lies within the first row's own spread is neither better nor worse."""
    change, better = _ratio(after["median"], before["median"], here)
    if before["p10"] <= after["median"] <= before["p90"]:
        better = None
    spread = f"{_digits(after['p10'])}–{_digits(after['p90'])}"
    return Figure("Latency", milliseconds(after["median"]), spread, change, better)


def _ratio(after: float, before: float, here: bool) -> tuple[str, bool | None]:
    if not here:
        return "", None
    text = percent(after, before)
    return text, None if text in ("", "±0.0\u202f%") else after < before
