"""Surviving units in, what the network then takes - parameters, multiply-adds, bytes, activations, time - out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from ..errors import CompressError, nearest
from ..graph.cost import tensor_term
from ..graph.labels import Array, Term
from ..graph.rules.contraction import PRODUCTS
from ..graph.walk import named_tensors

if TYPE_CHECKING:
    from ..graph.graph import DependencyGraph, Step
    from .latency import LatencyTable

RESOURCES = ("params", "macs", "bytes", "activations", "latency")

Meter = Callable[[np.ndarray], float]
"""The units (and blocks) that survive, as from `DependencyGraph.alive` -> how much of a resource the network takes."""


def meter(
    graph: DependencyGraph,
    resource: str,
    model: nn.Module | None = None,
    weights: Mapping[str, Tensor] | None = None,
    latency: LatencyTable | None = None,
) -> Meter:
    """What a network takes of a resource after any cut; exact, without building anything (latency: from a table).

    `params`: elements of parameters. `macs`: multiply-adds of convolutions, linear layers and matmuls. `bytes`: of
    parameters and buffers, what a safetensors file holds beside its header. `activations`: elements of the outputs of
    convolutions, linear layers and matmuls for the example inputs (Radosavovic et al., Designing Network Design
    Spaces, CVPR 2020, section 3.1; fvcore counts the same). `latency`: milliseconds, from a LatencyTable.

    Raises CompressError for any other, and where what it takes to tell is missing.
    """
    if resource in ("params", "macs"):
        return lambda alive: getattr(graph.cost_of(alive), resource)
    if resource == "bytes":
        if model is None:
            raise CompressError("keep bytes: the traced model is gone, so its types are not known; pass model=")
        return _sum(graph, _storage(graph, model, weights or {}))
    if resource == "activations":
        steps = enumerate(graph.steps)
        return _sum(graph, [_outputs(graph, number, step) for number, step in steps if step.op in PRODUCTS])
    if resource == "latency":
        if latency is None:
            raise CompressError("keep latency: pass latency=compress.measure_layers(model, graph)")
        return latency.meter(graph)
    raise CompressError(f"keep: there is no resource '{resource}'{nearest(resource, RESOURCES)}")


def _storage(graph: DependencyGraph, model: nn.Module, weights: Mapping[str, Tensor]) -> list[Term]:
    """Bytes of each parameter and buffer."""
    return [
        tensor_term(graph, name, weights.get(name, tensor).element_size())
        for name, tensor in named_tensors(model).items()
    ]


def _outputs(graph: DependencyGraph, number: int, step: Step) -> Term:
    """Elements of a step's first output."""
    shape, layout = step.outs[0]
    labelled = {dim for block in layout for dim in block.dims}
    free = math.prod(n for dim, n in enumerate(shape) if dim not in labelled)
    return Term(free, (*(block.labels.ravel() for block in layout), *graph.blocks_of_call(number)))


@dataclass(frozen=True)
class _Sum:
    """Terms with their factors' labels laid end to end, so that one pass over the labels adds them up."""

    labels: Array
    bounds: Array
    terms: tuple[tuple[int, tuple[int, ...]], ...]

    def __call__(self, alive_labels: np.ndarray) -> int:
        none = np.zeros(0, np.int64)
        alive = alive_labels[self.labels]
        counts: np.ndarray = np.add.reduceat(alive, self.bounds, dtype=np.int64) if len(self.bounds) else none
        return sum(c * math.prod(int(counts[f]) for f in factors) for c, factors in self.terms)


def _sum(graph: DependencyGraph, terms: list[Term]) -> Meter:
    """The meter that adds up terms. No factor is empty: a dimension of size 0 carries no labels."""
    arrays: dict[int, tuple[int, Array]] = {}
    numbered = []
    for term in terms:
        for factor in term.factors:
            arrays.setdefault(id(factor), (len(arrays), factor))
        numbered.append((term.coefficient, tuple(arrays[id(factor)][0] for factor in term.factors)))
    factors = [array for _, array in arrays.values()]
    starts = np.concatenate([[0], np.cumsum([len(array) for array in factors])[:-1]]) if factors else np.zeros(0)
    joined = np.concatenate(factors) if factors else np.zeros(0, dtype=np.int64)
    total = _Sum(joined, starts.astype(np.int64), tuple(numbered))
    return lambda alive: total(graph.alive_labels(alive))


def closest(dense: float, least: float, value: float) -> float:
    """The smallest budget that can be met, in the terms - fraction or amount - of the one that was asked."""
    return math.ceil(1e4 * least / dense) / 1e4 if value <= 1 else least
