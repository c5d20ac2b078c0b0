"""A report in, the published table as plain text out, for the terminal and for logs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .figures import lines


def table(report: Mapping[str, Any]) -> str:
    """Parameters, size, MACs, latency and accuracy of every network, with what changed against the first."""
    rows = lines(report)
    grid = [["", *(figure.column for figure in rows[0].figures)]]
    for row in rows:
        grid.append([row.title, *(f"{f.text} ({f.note})" if f.note else f.text for f in row.figures)])
        if any(f.change for f in row.figures):
            grid.append(["", *(f.change for f in row.figures)])
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    head, *body = ("   ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in grid)
    rule = "─" * (sum(widths) + 3 * (len(widths) - 1))
    return "\n".join([*_head(report), rule, head, rule, *body, rule, measured(report)])


def measured(report: Mapping[str, Any]) -> str:
    """How the figures were taken, in one line."""
    latency = report["rows"][0]["latency_ms"]
    size = report.get("image_size")
    pixels = f", {size[1]} × {size[0]} px" if size else ""
    threads = f"{latency['threads']} thread{'s' if latency['threads'] != 1 else ''}"
    return (
        f"Latency: median (10th–90th percentile), all networks in turns, batch {latency['batch']}{pixels}, "
        f"{threads}, {latency['device']}"
    )


def synthetic_mark(report: Mapping[str, Any]) -> str | None:
    """The line that every figure from drawn data has to carry; None for real data."""
    if not report["data"]["synthetic"]:
        return None
    return f"Synthetic data ({report['data']['name']}): these figures say nothing about real images."


def _head(report: Mapping[str, Any]) -> list[str]:
    data = report["data"]
    profile = f"profile {report['profile']}, " if report["profile"] else ""
    images = f"{data['name']} ({data['train']} train, {data['val']} val)"
    about = f"{report['name']}: {profile}seed {report['seed']}, {images}"
    mark = synthetic_mark(report)
    return [about, f"!! {mark}"] if mark else [about]
