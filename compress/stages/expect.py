"""A report and what the recipe expects of it in, nothing out - or every expectation that it misses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import CompressError, ExpectationError, nearest

BEFORE = ("baseline", "sparse")


def numbers(report: Mapping[str, Any]) -> dict[str, float]:
    """Everything that can be expected of a report, by name.

    Of the final network (the fine-tuned one, else the pruned one, else the last): every metric (`map50`), `params`,
    `macs`, `bytes`, `latency_ms`. Of it against the better of baseline and sparse: `<metric>_drop`. Against the first
    network: `params_removed`, `macs_removed`, `bytes_removed` (fractions), `speedup`. Of any row:
    `<role>_<metric>` (`baseline_map50`). Metrics of a subset: `<subset>.<name>` (`ego.map50_drop`).
    """
    rows = {row["role"]: row for row in report["rows"]}
    final = rows.get("finetuned") or rows.get("pruned") or report["rows"][-1]
    first = report["rows"][0]
    found: dict[str, float] = {name: final[name] for name in ("params", "macs", "bytes")}
    found["latency_ms"] = final["latency_ms"]["median"]
    found["speedup"] = first["latency_ms"]["median"] / final["latency_ms"]["median"]
    found |= {f"{name}_removed": 1 - final[name] / first[name] for name in ("params", "macs", "bytes")}
    for role, row in rows.items():
        found |= {f"{role}_{name}": value for name, value in _metrics(row).items()}
    before = [_metrics(rows[role]) for role in BEFORE if role in rows] or [_metrics(first)]
    for name, value in _metrics(final).items():
        found[name] = value
        found[f"{name}_drop"] = max(metrics[name] for metrics in before) - value
    return found


def hold(report: Mapping[str, Any], expect: Mapping[str, Mapping[str, float]]) -> None:
    """Raise ExpectationError, one line each, for what the report misses; CompressError for a name it does not know."""
    found = numbers(report)
    unknown = [name for name in expect if name not in found]
    if unknown:
        raise CompressError("\n".join(f"expect: the report has no '{n}'{nearest(n, found)}" for n in unknown))
    missed = []
    for name, bounds in expect.items():
        value = found[name]
        if "min" in bounds and not value >= bounds["min"]:
            missed.append(f"expect: {name} is {value:.6g}, expected at least {bounds['min']:.6g}")
        if "max" in bounds and not value <= bounds["max"]:
            missed.append(f"expect: {name} is {value:.6g}, expected at most {bounds['max']:.6g}")
    if missed:
        raise ExpectationError("\n".join(missed))


def _metrics(row: Mapping[str, Any]) -> dict[str, float]:
    parts = {f"{subset}.{name}": v for subset, metrics in row["subsets"].items() for name, v in metrics.items()}
    return {**row["metrics"], **parts}
