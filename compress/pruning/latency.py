"""A network and this device in, a table of its layers' times at several widths - and so of any cut of it - out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import CompressError
from ..graph.graph import DependencyGraph
from ..graph.inputs import call_model
from ..graph.tape import plain_math
from ..measure.latency import Latency, measure_latency
from .features import CONVOLUTIONS, Layer, Watch
from .masked import copy_with

if TYPE_CHECKING:
    from .apply import Pruned
    from .resources import Meter

ATTEMPTS = 3
NEAR = 0.1
"""A measured latency this close to its budget, as a fraction of it, meets it."""

MULTIPLES = (1, 2, 4, 8, 16, 32)
"""What `round_to: auto` chooses from."""

WIDTHS = (0.125, 0.25, 0.5, 0.75, 1.0)
"""Fractions of a layer's channels at which it is timed."""


@dataclass(frozen=True)
class LayerTimes:
    """Milliseconds of one call of a layer. name: its weight's. outs, ins: (a,), (b,) channels. ms: (a, b)."""

    name: str
    outs: np.ndarray
    ins: np.ndarray
    ms: np.ndarray

    def at(self, outs: float, ins: float) -> float:
        """Between the widths that were timed, linear in both."""
        by_out = [np.interp(ins, self.ins, row) for row in self.ms]
        return float(np.interp(outs, self.outs, by_out))


@dataclass(frozen=True)
class LatencyTable:
    """Times of a network's convolutions and linear layers on one device, and of everything else together.

    layers: each call of each. whole: of the network, measured. rest: milliseconds of whatever is no such layer, which
    shrinks with the elements that the layers put out. scale: what the layers take within the network, as a fraction of
    what they take alone.
    """

    layers: tuple[LayerTimes, ...]
    whole: Latency
    rest: float
    scale: float

    def meter(self, graph: DependencyGraph) -> Meter:
        """The units and blocks that survive -> milliseconds."""
        from .resources import meter

        outputs = meter(graph, "activations")
        dense = outputs(np.ones(graph.n_units, dtype=bool))

        def read(alive: np.ndarray) -> float:
            labels = graph.alive_labels(alive)
            there = [t for t in self.layers if all(labels[b].all() for b in graph.blocks_of_tensor(t.name))]
            layers = sum(times.at(*_widths(graph, times.name, labels)) for times in there)
            return self.scale * layers + self.rest * outputs(alive) / dense

        return read


def measure_layers(
    model: nn.Module, graph: DependencyGraph, threads: int | None = None, seconds: float = 2.0
) -> LatencyTable:
    """Time every convolution and linear layer of a traced network at several widths, for the example inputs.

    Each layer's widths are timed in turns, in one run, at least 10 times each; medians count, made to grow with the
    width. threads: CPU threads, None leaves torch's setting. seconds: for the whole network's own time.
    Raises CompressError where the example inputs are more than one tensor.
    """
    seen = _layers(model, graph)
    known: dict[Any, LayerTimes] = {}
    layers = []
    for layer in seen:
        key = (layer.call, tuple(layer.weight.shape), tuple(layer.inputs.shape), str(layer.options))
        if key not in known:
            known[key] = _time(layer, threads)
        layers.append(replace(known[key], name=layer.name))
    whole = measure_latency({"whole": model}, graph.example_inputs, threads, seconds, channels_last=False)["whole"]
    dense = sum(float(times.ms[-1, -1]) for times in layers)
    scale = min(1.0, whole.median / dense) if dense else 1.0
    return LatencyTable(tuple(layers), whole, whole.median - scale * dense, scale)


def cut_to_latency(
    cut: Callable[[Mapping[str, float], LatencyTable], Pruned],
    budgets: Mapping[str, float],
    model: nn.Module,
    graph: DependencyGraph,
    threads: int | None = None,
) -> tuple[Pruned, str]:
    """Cut by the table, time the whole network, and cut again where the table was wrong; what came of it in a line.

    cut: budgets and a table -> the cut network. budgets: with `latency` among them. Both networks are timed in turns,
    in one run. Where the cut one misses its budget by more than 10%, the budget asked of the table is moved by as much;
    one that is faster because of another budget misses nothing.
    Raises CompressError where three cuts do not meet it.
    """
    table = measure_layers(model, graph, threads)
    asked = dict(budgets)
    wanted = budgets["latency"] if budgets["latency"] <= 1 else budgets["latency"] / table.whole.median
    for _ in range(ATTEMPTS):
        pruned = cut(asked, table)
        timed = measure_latency({"whole": model, "cut": pruned.model}, graph.example_inputs, threads, 2.0, False)
        found = timed["cut"].median / timed["whole"].median
        line = f"latency {timed['whole'].median:.2f} -> {timed['cut'].median:.2f} ms, {found:.0%}; asked {wanted:.0%}"
        if found <= (1 + NEAR) * wanted and (found >= (1 - NEAR) * wanted or len(budgets) > 1):
            return pruned, line
        moved = asked["latency"] * wanted / found
        asked["latency"] = min(moved, 1.0) if budgets["latency"] <= 1 else moved
    raise CompressError(f"{line}: {ATTEMPTS} cuts did not come within {NEAR:.0%}; is the device busy with other work?")


def best_multiple(model: nn.Module, graph: DependencyGraph, threads: int | None = None) -> int:
    """The multiple to which widths are best rounded up on this device, for `round_to`.

    The layer with the most multiply-adds is timed at odd widths between half and all of its output channels, each
    rounded up to a multiple of 1, 2, 4, 8, 16 and 32. The smallest multiple counts whose mean is within 2% of the best:
    rounding pays only where odd widths are so slow that more channels take less time.
    Raises CompressError where the example inputs are more than one tensor, or no layer can be timed.
    """
    layers = [layer for layer in _layers(model, graph) if layer.groups == 1]
    if not layers:
        raise CompressError("round_to: 'auto' found no convolution or linear layer to time; give a number")
    layer = max(layers, key=lambda each: each.weight[0].numel() * each.weight.shape[0] * each.inputs[:, 0].numel())
    outs, ins = layer.weight.shape[:2]
    odd = sorted({min(outs, max(1, round(outs * share)) | 1) for share in (0.55, 0.65, 0.75, 0.85, 0.95)})
    rounded = {m: [min(outs, -(-width // m) * m) for width in odd] for m in MULTIPLES}
    variants = {str(width): _Alone(layer, width, ins) for width in {w for widths in rounded.values() for w in widths}}
    found = measure_latency(variants, layer.inputs[:1], threads, seconds=0.0, channels_last=False)
    mean = {m: sum(found[str(width)].median for width in widths) for m, widths in rounded.items()}
    return next(m for m in MULTIPLES if mean[m] <= 1.02 * min(mean.values()))


def _layers(model: nn.Module, graph: DependencyGraph) -> list[Layer]:
    """Every call of a convolution or linear layer, with its inputs, on the example inputs."""
    if not isinstance(graph.example_inputs, Tensor):
        raise CompressError("layers can be timed only where the example input is one tensor")
    seen: list[Layer] = []
    quiet = copy_with(model, {})
    with plain_math(), Watch(quiet, lambda layer, output: seen.append(layer)):
        call_model(quiet, graph.example_inputs)
    return seen


def _time(layer: Layer, threads: int | None) -> LayerTimes:
    """One layer at every pair of widths; a layer with groups keeps its channels a group: both widths go together."""
    outs = _steps(layer.weight.shape[0])
    ins = _steps(layer.weight.shape[1]) if layer.groups == 1 else np.array([layer.weight.shape[1]])
    variants = {f"{o} {i}": _Alone(layer, int(o), int(i)) for o in outs for i in ins}
    found = measure_latency(variants, layer.inputs[:1], threads, seconds=0.0, channels_last=False)
    ms = np.array([[found[f"{o} {i}"].median for i in ins] for o in outs])
    return LayerTimes(layer.name, outs, ins, np.maximum.accumulate(np.maximum.accumulate(ms, 0), 1))


def _steps(width: int) -> np.ndarray:
    """The widths to time, ascending, each once."""
    return np.unique(np.maximum(1, np.round(np.array(WIDTHS) * width))).astype(np.int64)


class _Alone(nn.Module):
    """A layer of other widths by itself, on inputs of its own."""

    def __init__(self, layer: Layer, outs: int, ins: int) -> None:
        super().__init__()
        whole, weight = layer.inputs, layer.weight
        groups = layer.groups
        channel = whole.dim() - 1 - (weight.dim() - 2)
        if groups > 1:  # whole groups go
            groups = max(1, round(outs * groups / weight.shape[0]))
            outs = groups * (weight.shape[0] // layer.groups)
        shape = list(whole.shape)
        shape[channel] = ins * groups
        self.call, self.options = layer.call, {**layer.options, "groups": groups}
        self.register_buffer("x", torch.rand(shape, dtype=whole.dtype, device=whole.device))
        self.weight = nn.Parameter(torch.rand(outs, ins, *weight.shape[2:], dtype=weight.dtype, device=weight.device))

    def forward(self, _: Tensor) -> Tensor:
        if self.call == "linear":
            return F.linear(self.x, self.weight)  # type: ignore[arg-type]
        return CONVOLUTIONS[self.call](self.x, self.weight, None, **self.options)


def _widths(graph: DependencyGraph, name: str, alive_labels: np.ndarray) -> Sequence[int]:
    """Output and input channels of a weight after a cut."""
    found = []
    for dim in (0, 1):
        place = graph.places.get((name, dim))
        found.append(graph.shapes[name][dim] if place is None else int(alive_labels[place].sum()))
    return found
