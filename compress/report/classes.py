"""A report's scores class by class in, a table and the curves worth a look out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from .charts import curve_chart
from .figures import Figure, metric_title, score

DRAWN = 12
"""Classes whose curves are drawn: of more, those that lost most."""


@dataclass(frozen=True)
class ClassTable:
    """Every network's score on each class alone.

    metric: its title. rows: (class, one figure a network). curves: class -> its chart, of every class or of the
    `DRAWN` that lost most between the first network and the last.
    """

    metric: str
    rows: tuple[tuple[str, tuple[Figure, ...]], ...]
    curves: Mapping[str, Markup]


def class_table(report: Mapping[str, Any], curves: Mapping[str, Mapping[str, Any]]) -> ClassTable | None:
    """None where no network was scored class by class. curves: `name/class` -> role -> curve, beside others."""
    networks = [row.get("classes", {}) for row in report["rows"]]
    scored = {name: metrics for classes in networks for name, metrics in classes.items()}
    if not scored:
        return None
    metric = next(iter(next(iter(scored.values()))))
    table = {name: [classes.get(name, {}).get(metric) for classes in networks] for name in scored}
    rows = tuple(
        (name, tuple(score(metric, after, values[0], place > 0) for place, after in enumerate(values)))
        for name, values in table.items()
    )
    lost = sorted(table, key=lambda name: (table[name][-1] or 0) - (table[name][0] or 0))[:DRAWN]
    drawn = {title.partition("/")[2]: curve for title, curve in curves.items() if "/" in title}
    charts = {name: curve_chart(drawn[name], 250, 150) for name in table if name in lost and name in drawn}
    return ClassTable(metric_title(metric), rows, charts)
