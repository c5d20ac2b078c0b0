"""A sensitivity analysis in, a picture of it out: a row a group, a column a ratio, the darker the more it costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import replaced
from .figures import metric_title

if TYPE_CHECKING:
    from ..pruning.analysis import Sensitivity

ROW, HEAD, WIDTH = 0.2, 0.9, 7.4
"""Inches: the height of a row, that of everything above, the whole width."""

LONGEST = 34
"""Characters of a group's name that are shown."""

INK, PALE = "#3d4451", "#ffffff"
STYLE: Any = {  # given to rc_context, so nobody else's figures change
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "path",
    "svg.hashsalt": "compress",  # the same numbers make the same file
}


def draw_sensitivity(found: Sensitivity, file: Path) -> Path:
    """Write the SVG, groups in the network's order from top to bottom; its path.

    A cell says how the metric changes when that group alone is cut by that ratio, and nothing where it does not. The
    darker, the more it falls; the colours end at the largest fall.
    """
    import numpy as np
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm
    from matplotlib.figure import Figure

    shades = LinearSegmentedColormap.from_list("cost", ["#f4f6f5", "#f3d9a4", "#dd7f4e", "#a5273f", "#4a1030"])
    drops = np.array(list(found.drops().values())).reshape(-1, len(found.ratios))  # (groups, ratios)
    most = max(float(drops.max(initial=0)), 1e-9)
    scale = PowerNorm(0.6, 0, most, clip=True)  # small falls are the ones to choose by
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEAD + ROW * max(len(drops), 1)), layout="constrained")
        axes = figure.add_subplot()
        axes.pcolormesh(drops, cmap=shades, norm=scale, edgecolors="white", linewidth=1.2)
        for (row, column), drop in np.ndenumerate(drops):
            axes.text(
                column + 0.5, row + 0.5, _said(-drop), ha="center", va="center_baseline", fontsize=6.8,
                color=PALE if scale(drop) > 0.55 else INK,
            )  # fmt: skip
        axes.invert_yaxis()
        axes.set_yticks(np.arange(len(drops)) + 0.5, [_label(names) for names in found.values], fontsize=7.2)
        axes.set_xticks(np.arange(len(found.ratios)) + 0.5, [f"{ratio:.0%}" for ratio in found.ratios])
        axes.xaxis.set_ticks_position("top")
        axes.xaxis.set_label_position("top")
        axes.set_xlabel("of the group's channels removed", labelpad=6)
        figure.suptitle(_title(found), x=0.01, ha="left", fontsize=9)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        with replaced(file) as beside:
            FigureCanvasSVG(figure).print_svg(str(beside), metadata={"Date": None})
    return file


def _said(change: float) -> str:
    """-0.034 as −.034; nothing for what rounds to zero."""
    text = f"{abs(change):.3f}"
    return "" if float(text) == 0 else f"{'−' if change < 0 else '+'}{text.removeprefix('0')}"


def _label(names: tuple[str, ...]) -> str:
    first = names[0] if len(names[0]) <= LONGEST else f"…{names[0][1 - LONGEST :]}"
    return first if len(names) == 1 else f"{first} and {len(names) - 1} more"


def _title(found: Sensitivity) -> str:
    """What is shown, and of which images, where that is known."""
    used = found.settings
    images = f"; {used['images']} of {used['of']} {used['split']} images" if "images" in used else ""
    return (
        f"Change of {metric_title(found.metric)} when one group alone is cut, nothing trained\n"
        f"{found.base:.3f} with nothing cut{images}"
    )
