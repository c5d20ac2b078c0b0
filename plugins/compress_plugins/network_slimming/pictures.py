"""Records of |gamma| in, three SVG pictures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

MOST_POINTS = 120
"""Records drawn along a line; more would only make the file larger."""
MOST_LINES = 32
"""Channels, or epochs, drawn in one picture, spread evenly over all."""
INK, GRID, ACCENT = "#3d4451", "#e3e6ea", "#3a6ea5"
DEPTH = LinearSegmentedColormap.from_list("depth", colormaps["viridis_r"](np.linspace(0.35, 1, 64)))
"""Viridis without its yellows and light greens, which are hard to see on white."""
STYLE: Any = {  # given to rc_context, so nobody else's figures change
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "compress",  # the same numbers make the same file
}


def draw(records: Sequence[Mapping[str, Any]], quantiles: Sequence[float], folder: Path) -> list[Path]:
    """gamma-quantiles.svg, gamma-first-layer.svg and, where an epoch ended, gamma-by-epoch.svg; their paths.

    records: lines of gamma.jsonl in order (see GammaTelemetry). quantiles: what the "quantiles" of a record are.
    """
    if not records:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    shown = [records[i] for i in _spread(len(records), MOST_POINTS)]
    steps = np.array([r["step"] for r in shown])
    epochs = [r for r in records if "distribution" in r]
    with rc_context(STYLE):
        files = [
            _quantiles(steps, np.array([r["quantiles"] for r in shown]), quantiles, folder / "gamma-quantiles.svg"),
            _first_layer(steps, np.array([r["first"] for r in shown]), folder / "gamma-first-layer.svg"),
        ]
        if epochs:
            files.append(_by_epoch(epochs, folder / "gamma-by-epoch.svg"))
    return files


def _quantiles(steps: np.ndarray, values: np.ndarray, quantiles: Sequence[float], file: Path) -> Path:
    """values: (records, quantiles); the bands between mirrored quantiles are filled, the median is a line."""
    figure, axes = _canvas("|γ| of all channels that may be cut", "step")
    half = len(quantiles) // 2
    for i in range(half):
        low, high = quantiles[i], quantiles[-1 - i]
        axes.fill_between(
            steps, values[:, i], values[:, -1 - i], color=ACCENT, alpha=0.18 + 0.17 * i, lw=0,
            label=f"{low:.0%} to {high:.0%} of channels",
        )  # fmt: skip
    axes.plot(steps, values[:, half], color=ACCENT, lw=1.8, label="median")
    for i in range(len(quantiles)):
        if i != half:
            axes.plot(steps, values[:, i], color=ACCENT, lw=0.6)
    axes.legend(loc="best")
    return _write(figure, axes, file)


def _first_layer(steps: np.ndarray, values: np.ndarray, file: Path) -> Path:
    """values: (records, channels); one line a channel, coloured by where it ends."""
    channels = _spread(values.shape[1], MOST_LINES)
    figure, axes = _canvas(f"|γ| of the first layer's {values.shape[1]} channels", "step")
    last = values[-1, channels]
    colour = Normalize(0, max(float(last.max()), 1e-6))
    for i in channels[np.argsort(last)]:
        axes.plot(steps, values[:, i], color=DEPTH(colour(values[-1, i])), lw=0.9)
    return _write(figure, axes, file)


def _by_epoch(records: Sequence[Mapping[str, Any]], file: Path) -> Path:
    """One line an epoch: |gamma| of the channels in rising order."""
    figure, axes = _canvas("|γ| of all channels, smallest first, at the end of each epoch", "share of the channels")
    colour = Normalize(records[0]["epoch"], max(records[-1]["epoch"], records[0]["epoch"] + 1))
    for i in _spread(len(records), MOST_LINES):
        curve = records[i]["distribution"]
        axes.plot(np.linspace(0, 1, len(curve)), curve, color=DEPTH(colour(records[i]["epoch"])), lw=1)
    axes.xaxis.set_major_formatter("{x:.0%}")
    if len(records) > 1:
        whole = MaxNLocator(integer=True)
        bar = figure.colorbar(ScalarMappable(colour, DEPTH), ax=axes, pad=0.02, aspect=30, label="epoch", ticks=whole)
        bar.outline.set_visible(False)  # type: ignore[operator]
    return _write(figure, axes, file)


def _canvas(title: str, xlabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.set_xlabel(xlabel)
    axes.set_ylabel("|γ|")
    return figure, axes


def _write(figure: Figure, axes: Axes, file: Path) -> Path:
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    FigureCanvasSVG(figure).print_svg(str(file), metadata={"Date": None})
    return file


def _spread(n: int, most: int) -> np.ndarray:
    """At most `most` indices of n, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))
