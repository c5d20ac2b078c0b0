"""Channel counts, scores and curves in, SVG that takes its colours from the page out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from .figures import TITLES, metric_title, milliseconds

POINTS = 240
"""Points of a curve that are drawn; more cannot be seen."""

STEP = 14.0
"""Units of the channel chart that one layer takes."""


def channel_chart(channels: Sequence[Mapping[str, Any]]) -> Markup:
    """One column a layer: channels before, and what is left of them in front; grey where nothing went.

    The SVG fills the page's width between 10 and 20 pixels a layer; the page scrolls it where it does not fit.
    """
    top, height, left = 10.0, 230.0, 40.0
    width = left + STEP * len(channels) + 6
    names = short_names([str(entry["layer"]) for entry in channels])
    total = top + height + 12 + 5.6 * max(map(len, names), default=0)
    full = _round_up(max((entry["before"] for entry in channels), default=1))
    parts = []
    for quarter in range(5):
        y = top + height * (1 - quarter / 4)
        parts += [_line(left, y, width - 6, y), _text(left - 7, y + 3.5, f"{full * quarter // 4}", "end")]
    for place, (entry, name) in enumerate(zip(channels, names, strict=True)):
        x, low = left + STEP * place, top + height
        kind = "whole" if entry["after"] == entry["before"] else "cut"
        kept = f"{entry['layer']}: {entry['after']} of {entry['before']} channels"
        bars = [
            f'<rect class="{shade}" x="{x + 1.5:.1f}" y="{low - part:.1f}" width="{STEP - 3:.1f}" height="{part:.1f}"/>'
            for shade, part in (("was", height * entry["before"] / full), ("now", height * entry["after"] / full))
        ]
        label = _text(x + STEP / 2 + 3, low + 7, name, "end", turned=True)
        parts.append(f'<g class="{kind}"><title>{escape(kept)}</title>{"".join(bars)}{label}</g>')
    style = f"min-width:{width * 10 / STEP:.0f}px;max-width:{width * 20 / STEP:.0f}px"
    return _svg("channels", width, total, "Channels of each layer before and after the cut", parts, style)


def score_chart(rows: Sequence[Mapping[str, Any]], headline: str) -> Markup:
    """The headline metric of every network: a line of dots for all of the data and one for each subset."""
    sets = ["", *dict.fromkeys(name for row in rows for name in row["subsets"])]
    scores = [
        {row["role"]: (row["subsets"].get(name, {}) if name else row["metrics"]).get(headline) for row in rows}
        for name in sets
    ]
    start, ticks = _axis([score for each in scores for score in each.values() if score is not None])
    left, top, width, pitch = 92.0, 8.0, 420.0, 22.0 + 9.0 * len(rows)
    low = top + pitch * len(sets)
    parts = []
    for tick in ticks:
        x = left + width * (tick - start) / (1 - start)
        parts += [_line(x, top, x, low), _text(x, low + 16, f"{tick:.1f}", "middle")]
    for place, (name, each) in enumerate(zip(sets, scores, strict=True)):
        middle = top + pitch * (place + 0.5)
        band = f'x="{left}" width="{width}" y="{middle - pitch / 2 + 4:.1f}" height="{pitch - 8:.1f}" rx="4"'
        parts += [f'<rect class="band" {band}/>', _text(left - 14, middle + 4, name or "all", "end", "part")]
        for turn, (role, score) in enumerate(each.items()):
            if score is None:
                continue
            x = left + width * (min(max(score, start), 1.0) - start) / (1 - start)
            y = middle + 9.0 * (turn - (len(each) - 1) / 2)
            said = escape(f"{TITLES[role]}, {name or 'all'}: {score:.4f}")
            parts.append(f'<circle class="dot {role}" cx="{x:.1f}" cy="{y:.1f}" r="4.2"><title>{said}</title></circle>')
    return _svg("scores", left + width + 14, low + 24, f"{metric_title(headline)} of every network", parts)


def latency_chart(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """The latency of every network on an axis from 0: a bar from 10th to 90th percentile, marked at the median."""
    left, top, width, pitch = 92.0, 8.0, 420.0, 26.0
    ticks = _ticks(max(row["latency_ms"]["p90"] for row in rows), least=0)
    low = top + pitch * len(rows)
    parts = []
    for tick in ticks:
        x = left + width * tick / ticks[-1]
        parts += [_line(x, top, x, low), _text(x, low + 16, f"{tick:g}", "middle")]
    for place, row in enumerate(rows):
        latency, middle = row["latency_ms"], top + pitch * (place + 0.5)
        p10, median, p90 = (left + width * latency[key] / ticks[-1] for key in ("p10", "median", "p90"))
        spread = f'x="{p10:.1f}" width="{max(p90 - p10, 1):.1f}" y="{middle - 5:.1f}" height="10" rx="2"'
        mark = f'x="{median - 2:.1f}" width="4" y="{middle - 9:.1f}" height="18" rx="1"'
        said = f"{TITLES[row['role']]}: {milliseconds(latency['median'])}, "
        said += f"{milliseconds(latency['p10'])} to {milliseconds(latency['p90'])}"
        bars = f'<rect class="spread" {spread}/><rect {mark}/>'
        parts.append(f'<g class="time {row["role"]}"><title>{escape(said)}</title>{bars}</g>')
        parts.append(_text(left - 14, middle + 4, TITLES[row["role"]], "end", "part"))
    parts.append(_text(left + width / 2, low + 34, "milliseconds", "middle", "axis"))
    return _svg("scores", left + width + 14, low + 40, "Latency of every network, with its spread", parts)


def curve_chart(curves: Mapping[str, Mapping[str, Any]], width: float = 420.0, height: float = 280.0) -> Markup:
    """One curve a role on common axes from 0. curves: role -> {"x", "y", "xlabel", "ylabel"}, nothing negative.

    width, height: of the space between the axes; text keeps its size.
    """
    left, top = 46.0, 8.0
    across, up = (_ticks(max(max(curve[axis], default=0) for curve in curves.values())) for axis in ("x", "y"))
    parts = []
    for tick in up:
        y = top + height * (1 - tick / up[-1])
        parts += [_line(left, y, left + width, y), _text(left - 8, y + 3.5, f"{tick:g}", "end")]
    for tick in across:
        parts.append(_text(left + width * tick / across[-1], top + height + 17, f"{tick:g}", "middle"))
    for role, curve in curves.items():
        every = max(1, -(-len(curve["x"]) // POINTS))
        points = list(zip(curve["x"], curve["y"], strict=True))
        path = " ".join(
            f"{left + width * x / across[-1]:.1f},{top + height * (1 - y / up[-1]):.1f}"
            for x, y in [*points[:-1:every], *points[-1:]]
        )
        title = escape(TITLES.get(role, role))
        parts.append(f'<polyline class="curve {escape(role)}" points="{path}"><title>{title}</title></polyline>')
    one = next(iter(curves.values()))
    parts.append(_text(left + width / 2, top + height + 36, one["xlabel"], "middle", "axis"))
    parts.append(_text(12, top + height / 2, one["ylabel"], "middle", "axis", turned=True))
    said = f"{one['ylabel']} over {one['xlabel']} of {', '.join(TITLES.get(role, role) for role in curves)}"
    return _svg("curves", left + width + 10, top + height + 42, said, parts)


def short_names(names: Sequence[str]) -> list[str]:
    """Names without the parts that all of them share: layers.0.conv, layers.1.conv -> 0, 1."""
    split = [name.split(".") for name in names]
    for end in (0, -1):
        while len(split) > 1 and all(len(parts) > 1 for parts in split) and len({parts[end] for parts in split}) == 1:
            for parts in split:
                parts.pop(end)
    return [".".join(parts) for parts in split]


def _svg(kind: str, width: float, height: float, said: str, parts: Sequence[str], style: str = "") -> Markup:
    """The texts in `parts` are escaped already."""
    styled = f' style="{style}"' if style else ""
    head = f'<svg class="chart {kind}" viewBox="0 0 {width:.0f} {height:.0f}"{styled} role="img"'
    return Markup(f'{head} aria-label="{escape(said)}">{"".join(parts)}</svg>')


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="grid" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick", turned: bool = False) -> str:
    place = f'transform="translate({x:.1f} {y:.1f}) rotate(-90)"' if turned else f'x="{x:.1f}" y="{y:.1f}"'
    return f'<text class="{kind}" text-anchor="{anchor}" {place}>{escape(text)}</text>'


def _axis(values: Sequence[float]) -> tuple[float, list[float]]:
    """Where an axis up to 1 begins, a little below the smallest value, and its ticks."""
    room = 1 - min([*values, 0.9]) + 0.03
    step = 0.1 if room <= 0.5 else 0.2
    count = min(math.ceil(room / step), round(1 / step))
    return round(1 - step * count, 1), [round(1 - step * n, 1) for n in range(count, -1, -1)]


def _ticks(most: float, least: float = 1) -> list[float]:
    """About five round numbers from 0 to a little above `most`: 0, 50, ... 250 for 224; 0 to 1 where `least` is 1."""
    if most <= least:
        return [0, 0.2, 0.4, 0.6, 0.8, 1]
    scale = 10 ** math.floor(math.log10(most / 5))
    step = next(scale * times for times in (1, 2, 2.5, 5, 10) if scale * times * 5 >= most)
    return [step * n for n in range(math.ceil(most / step) + 1)]


def _round_up(most: int) -> int:
    """The smallest of 4, 8, 12, 16, 24, 32, 48, ... that is not below `most`: quarters of it are whole numbers."""
    scale = 4
    while scale * 2 < most:
        scale *= 2
    return next(full for full in (scale, scale * 3 // 2, scale * 2) if full >= most and full % 4 == 0)
