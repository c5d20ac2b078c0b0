"""A network, its graph and a metric in, what each group alone costs at several ratios out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..errors import CompressError
from ..files import write_json
from .apply import apply
from .criteria import describe, find_criterion
from .masked import copy_with
from .plan import Plan
from .question import fraction
from .selection import plan

if TYPE_CHECKING:
    from ..graph.graph import DependencyGraph
    from .calibration import Bars

RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class Sensitivity:
    """What is left of a metric when one group alone is cut, by several ratios.

    metric: its name; higher is better. base: of the whole network. ratios: of a group's units that went, ascending.
    values: the groups that were cut together (one, or several that are linked) -> the metric at each ratio, in the
    network's order. left_out: group -> why it was not measured. settings: how it was measured, plain JSON values.
    """

    metric: str
    base: float
    ratios: tuple[float, ...]
    values: Mapping[tuple[str, ...], tuple[float, ...]]
    left_out: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def drops(self) -> dict[tuple[str, ...], tuple[float, ...]]:
        """The same groups -> base less the metric at each ratio."""
        return {names: tuple(self.base - value for value in row) for names, row in self.values.items()}

    def tolerated(self, max_drop: float) -> dict[str, float]:
        """Group name -> the largest measured ratio up to which the metric falls by at most `max_drop`: `plan`'s ratios.

        A group whose metric falls by more at the smallest ratio gets 0, as does one that could not be measured.
        """
        ratios = dict.fromkeys(self.left_out, 0.0)
        for names, row in self.drops().items():
            exceeding = next((k for k, drop in enumerate(row) if drop > max_drop), len(row))
            ratios |= dict.fromkeys(names, self.ratios[exceeding - 1] if exceeding else 0.0)
        return ratios

    def unmeasured(self, graph: DependencyGraph) -> dict[str, str]:
        """Group name -> why nothing is known of it. Raises CompressError where the graph is of another network."""
        known = {name for names in self.values for name in names} | set(self.left_out)
        for group in graph.groups:
            if group.name not in known:
                raise CompressError(f"sensitivity: was measured on another network, without a group '{group.name}'")
        return {name: f"its sensitivity was not measured: {why}" for name, why in self.left_out.items()}

    def expected(self, graph: DependencyGraph, scores: np.ndarray) -> np.ndarray:
        """(n_units,) scores that count within groups -> the drop of the metric once a unit and all before it are gone.

        Between the ratios that were measured it is a straight line, which starts at nothing and ends, with the whole
        group gone, at the whole metric. More that goes never counts for less; where it counts for no more either,
        groups go in step (a billionth of the share that is gone is added). NaN where the scores are, or unmeasured.
        """
        drops = np.full(len(scores), np.nan)
        for names, row in self.drops().items():
            known = np.maximum.accumulate([0.0, *row])
            known = np.append(known, max(known[-1], self.base))
            for name in names:
                units = slice(graph.start(name), graph.start(name) + graph[name].size)
                gone = (np.argsort(np.argsort(scores[units], kind="stable")) + 1) / graph[name].size
                lost = np.interp(gone, [0, *self.ratios, 1], known) + 1e-9 * gone
                drops[units] = np.where(np.isnan(scores[units]), np.nan, lost)
        return drops

    def as_json(self) -> dict[str, Any]:
        """Plain values; `read` makes an equal object of them."""
        rows = [{"groups": list(names), "values": list(row)} for names, row in self.values.items()]
        return {
            "metric": self.metric,
            "base": self.base,
            "ratios": list(self.ratios),
            "rows": rows,
            "left_out": dict(self.left_out),
            "settings": dict(self.settings),
        }

    def __str__(self) -> str:
        wide = max((len(name) for names in self.values for name in names), default=5)
        head = f"{'group':<{wide}}" + "".join(f"{ratio:>9.0%}" for ratio in self.ratios)
        lines = [f"{self.metric} {self.base:.4f} with nothing cut; what it loses with one group cut by", head]
        for names, row in self.drops().items():
            lines.append(f"{names[0]:<{wide}}" + "".join(f"{drop:>9.4f}" for drop in row))
            lines += [f"  with {name}" for name in names[1:]]
        return "\n".join(lines + [f"not measured: {name}: {why}" for name, why in self.left_out.items()])


def read(file: Path) -> Sensitivity:
    """What `sensitivity` kept in a file. Raises CompressError where there is no such file, or another."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        values = {tuple(row["groups"]): tuple(row["values"]) for row in kept["rows"]}
        ratios = tuple(kept["ratios"])
        return Sensitivity(kept["metric"], kept["base"], ratios, values, kept["left_out"], kept["settings"])
    except OSError as error:
        raise CompressError(f"{file}: {error.strerror}; expected what a sensitivity analysis left") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CompressError(f"{file}: not a sensitivity analysis ({type(error).__name__}: {error})") from None


def sensitivity(
    model: nn.Module,
    graph: DependencyGraph,
    metric: Callable[[nn.Module], float],
    criterion: Any = "l1",
    ratios: Sequence[float] = RATIOS,
    *,
    name: str = "metric",
    file: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    bars: Bars | None = None,
    **options: Any,
) -> Sensitivity:
    """Cut each group alone, by each of the ratios, and measure what that leaves. Nothing is trained or kept.

    Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, section 3.2 and figure 2. The network is really cut,
    by `apply`, so that it is as exact as any cut and the faster the more goes; the largest cut of each group is
    verified. Groups that must keep equally many units (links) go together.

    metric: network in eval mode -> a number, the higher the better, the same each time; name: what it is called.
    ratios: of the units that go. file: where results are kept after each group; a call that finds some there goes on
    with them. settings: plain values to keep with the result, e.g. how many images the metric looks at. bars: where
    progress is shown. options: `plan`'s, which groups may be cut and by what their units are ranked; batches for a
    criterion that looks at data as a list, which is gone through once a ratio.

    Raises CompressError for ratios out of range, a metric that is not finite, or a file of another analysis.
    """
    asked = _ascending(ratios)
    chosen = find_criterion(criterion)
    how = json.loads(json.dumps({"criterion": describe(chosen), **(settings or {})}))  # as it will be read again
    plans = [plan(graph, chosen, ratio, model=model, **options) for ratio in asked]
    frozen = {g.name: str(g.frozen) for g in graph.groups if g.frozen} | dict(plans[-1].frozen)
    sets = _sets(graph, [g.name for g in graph.groups if g.name not in frozen])
    base = _measured(metric, copy_with(model, {}), name, "the whole network")
    found = _known(file, Sensitivity(name, base, asked, {}, frozen, how))
    values, left_out = dict(found.values), dict(found.left_out)
    todo = [names for names in sets if names not in values and not left_out.keys() & set(names)]
    bar: AbstractContextManager[Callable[[int], None]] = nullcontext(_ignore)
    with bar if bars is None else bars.bar("sensitivity", len(todo) * len(asked)) as advance:
        for names in todo:
            row, why = _row(model, graph, names, plans, metric, found)
            if why:
                left_out |= dict.fromkeys(names, why)
            else:
                values[names] = row
            ordered = {each: values[each] for each in sets if each in values}
            found = Sensitivity(name, base, asked, ordered, left_out, how)
            if file is not None:
                write_json(file, found.as_json())
            advance(len(asked))
    return found


def _row(
    model: nn.Module,
    graph: DependencyGraph,
    names: tuple[str, ...],
    plans: Sequence[Plan],
    metric: Callable[[nn.Module], float],
    so_far: Sensitivity,
) -> tuple[tuple[float, ...], str]:
    """The metric at each ratio, and why there is none. The largest cut is the first, and the one that is verified."""
    values: dict[tuple[tuple[int, ...], ...], float] = {}
    row = []
    for ratio, each in reversed(list(zip(so_far.ratios, plans, strict=True))):
        removed = {name: each.removed[name] for name in names if name in each.removed}
        key = tuple(tuple(units.tolist()) for units in removed.values())
        if removed and key not in values:
            pruned = apply(model, graph, Plan(removed), verify=not values)
            stays = [name for name in removed if name not in pruned.plan.removed]
            if stays:
                return (), str(pruned.frozen[stays[0]])
            values[key] = _measured(metric, pruned.model.eval(), so_far.metric, f"{names[0]} cut by {ratio:.0%}")
        row.append(values[key] if removed else so_far.base)
    return tuple(reversed(row)), "" if values else "no ratio asks for a whole unit of it"


def _measured(metric: Callable[[nn.Module], float], model: nn.Module, name: str, what: str) -> float:
    with torch.no_grad():
        value = float(metric(model))
    if not math.isfinite(value):
        raise CompressError(f"sensitivity: {name} of {what} is {value}; expected a finite number")
    return value


def _ascending(ratios: Sequence[float]) -> tuple[float, ...]:
    """The ratios as numbers. Raises CompressError where they are none, out of range, or not ascending."""
    for ratio in ratios:
        fraction("ratios", ratio)
    asked = tuple(map(float, ratios))
    if not asked or asked[0] <= 0 or any(a >= b for a, b in pairwise(asked)):
        raise CompressError(f"ratios: expected ascending fractions between 0 and 1, found {list(ratios)}")
    return asked


def _sets(graph: DependencyGraph, names: Sequence[str]) -> list[tuple[str, ...]]:
    """The groups that may be cut, those that are linked to each other together; in the network's order."""
    of = {name: name for name in names}  # group -> the first of its set

    def first(name: str) -> str:
        while of[name] != name:
            name = of[name]
        return name

    for name in names:
        for link in graph[name].links:
            for other, _ in link.slots:
                if other in of:
                    a, b = sorted((first(name), first(other)), key=names.index)
                    of[b] = a
    return [tuple(other for other in names if first(other) == name) for name in names if of[name] == name]


def _known(file: Path | None, fresh: Sensitivity) -> Sensitivity:
    """What an earlier call left in the file, or the analysis that has measured nothing yet.

    Raises CompressError where the file is about something else.
    """
    if file is None or not file.exists():
        return fresh
    kept = read(file)
    for what in ("metric", "ratios", "settings", "base"):
        mine, theirs = getattr(fresh, what), getattr(kept, what)
        if not (math.isclose(mine, theirs, rel_tol=1e-6) if what == "base" else mine == theirs):
            raise CompressError(
                f"{file}: is another analysis: its {what} is {theirs}, here it is {mine}; remove it or name another"
            )
    return kept


def _ignore(n: int) -> None:
    """Where progress goes that nobody watches."""
