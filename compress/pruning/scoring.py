"""A criterion, a graph and weights in, one float64 score a unit out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CompressError, nearest
from ..graph.walk import named_modules
from .aggregate import aggregate, normalize
from .calibration import Calibration, gradients
from .criteria import Criterion, Part

if TYPE_CHECKING:
    from ..graph.graph import DependencyGraph, Group, Member


def score(
    graph: DependencyGraph,
    criterion: Criterion,
    weights: Mapping[str, Tensor],
    model: nn.Module | None = None,
    found: Found | None = None,
    skip: Collection[str] = (),
) -> np.ndarray:
    """How much each unit matters, (graph.n_units,) float64; NaN where the criterion says nothing.

    Each place (parameter, dimension) is scored once, whatever groups share it; a unit that occurs several times in a
    place adds up as often; the places' scores are put together and groups made comparable as the criterion's
    `aggregate` and `normalize` say.

    weights: parameter name -> tensor, one at a time where the criterion scores places. model: whose modules own the
    parameters. found: what calibration told. skip: names of groups to leave out.

    Raises CompressError, naming the parameter or group, where a tensor is missing, has another shape or no values, or
    where a score has the wrong shape or is not finite.
    """
    total = np.full(graph.n_units, np.nan)
    load = partial(_load, graph, weights) if criterion.needs_weights else partial(_outline, graph)
    part = partial(_part, named_modules(model) if model is not None else {}, found or Found())

    def settle(group: Group, scores: np.ndarray) -> None:
        start = graph.start(group.name)
        total[start : start + group.size] = normalize(scores, criterion.normalize, lambda: _weights(graph, group))

    with torch.no_grad():
        left = []
        whole = type(criterion).score_group is not Criterion.score_group
        for group in graph.groups:
            if group.name in skip:
                continue
            scores = None
            if whole:
                places = dict.fromkeys((m.name, m.dim, m.role) for m in group.members if not m.buffer)
                tensors = {name: load(name) for name, _, _ in places}
                scores = criterion.score_group(group, [part(n, tensors[n], dim, role) for n, dim, role in places])
            if scores is None:
                left.append(group)
            else:
                where = f"group '{group.name}'"
                settle(group, _finite(_values(scores, group.size, criterion, where), criterion, where))

        if not left or (whole and type(criterion).score is Criterion.score):
            return total
        said: dict[str, list[tuple[bool, np.ndarray]]] = defaultdict(list)
        for name, uses in _places(left).items():
            tensor = load(name)
            for (dim, role), occurrences in uses.items():
                scores = criterion.score(part(name, tensor, dim, role))
                if scores is None:
                    continue
                where = f"'{name}' dimension {dim}"
                values = _values(scores, tensor.shape[dim], criterion, where)
                finite = np.isfinite(values).all()
                for group, member in occurrences:
                    here = values[member.index] if finite else _finite(values[member.index], criterion, where)
                    here = np.bincount(member.unit, weights=here, minlength=group.size)  # -> (group.size,)
                    said[group.name].append((role != "out", here))
        for group in left:
            if said[group.name]:
                makers_first = sorted(said[group.name], key=lambda place: place[0])
                settle(group, aggregate([scores for _, scores in makers_first], criterion.aggregate))
    return total


def score_blocks(
    graph: DependencyGraph,
    criterion: Criterion,
    weights: Mapping[str, Tensor],
    model: nn.Module | None = None,
    found: Found | None = None,
    skip: Collection[str] = (),
) -> np.ndarray:
    """How much each residual block matters, (n_blocks,) float64; NaN where it stays or the criterion says nothing.

    The criterion's `score_block` sees the places that make the block's output. `normalize` takes all blocks for one
    group, so that they are as comparable with units as other groups' units are. Arguments and errors: see `score`.
    """
    scores = np.full(len(graph.blocks), np.nan)
    load = partial(_load, graph, weights) if criterion.needs_weights else partial(_outline, graph)
    part = partial(_part, named_modules(model) if model is not None else {}, found or Found())
    roles = {(member.name, member.dim): member.role for group in graph.groups for member in group.members}
    with torch.no_grad():
        for number, block in enumerate(graph.blocks):
            if block.frozen or block.name in skip:
                continue
            places = [(name, dim) for name, dim in block.makers if name in graph.parameters]
            tensors = {name: load(name) for name, _ in places}
            parts = [part(name, tensors[name], dim, roles.get((name, dim), "other")) for name, dim in places]
            said = criterion.score_block(block, parts)
            if said is not None:
                scores[number] = _finite(np.array([float(said)]), criterion, f"block '{block.name}'")[0]
    spoken = ~np.isnan(scores)
    sizes = [sum(math.prod(graph.shapes[n]) for n in b.tensors & graph.parameters) for b in graph.blocks]
    if spoken.any():
        scores[spoken] = normalize(scores[spoken], criterion.normalize, lambda: np.array(sizes)[spoken])
    return scores


def _part(modules: Mapping[str, nn.Module], found: Found, name: str, tensor: Tensor, dim: int, role: str) -> Part:
    """A place as a criterion sees it; a vector as a column."""
    grad = found.gradients.get(name)
    if tensor.ndim == 1:
        tensor, grad = tensor[:, None], None if grad is None else grad[:, None]  # (n,) -> (n, 1)
    owner = modules.get(name.rpartition(".")[0])
    return Part(tensor, dim, name, owner, role, grad, found.observed.get(name))


@dataclass(frozen=True)
class Found:
    """What calibration told: parameter name -> mean gradient, and -> whatever the criterion observed."""

    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    observed: Mapping[str, Any] = field(default_factory=dict)


def look(criterion: Criterion, model: nn.Module | None, calibration: Calibration | None) -> Found:
    """What a criterion wants to know from data. A copy of the model runs, in eval mode: the given one keeps its
    weights, running statistics and `.grad` fields.

    Raises CompressError where data, a loss or the model is missing or given in vain.
    """
    wants = "gradients" if criterion.needs_gradients else "batches" if criterion.needs_batches else ""
    if not wants:
        if calibration is not None:
            raise CompressError(f"criterion '{criterion.name}' needs no data; leave out calibration= and loss=")
        return Found()
    if model is None:
        raise CompressError(f"criterion '{criterion.name}' needs {wants} and the traced model is gone; pass model=")
    if calibration is None or (criterion.needs_gradients and calibration.loss is None):
        both = "calibration=batches and loss=function(model, batch)"
        cure = both if criterion.needs_gradients else "calibration=batches"
        raise CompressError(f"criterion '{criterion.name}' needs {wants}; pass {cure}")
    copy = deepcopy(model).eval()
    for parameter in copy.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return Found(
        gradients(copy, calibration) if criterion.needs_gradients else {},
        criterion.observe(copy, calibration) if criterion.needs_batches else {},
    )


def _places(groups: Iterable[Group]) -> dict[str, dict[tuple[int, str], list[tuple[Group, Member]]]]:
    """Parameter name -> (dimension, role) -> where units occur."""
    places: dict[str, dict[tuple[int, str], list[tuple[Group, Member]]]] = defaultdict(lambda: defaultdict(list))
    for group in groups:
        for member in group.members:
            if not member.buffer:
                places[member.name][member.dim, member.role].append((group, member))
    return places


def _weights(graph: DependencyGraph, group: Group) -> np.ndarray:
    """(group.size,) how many elements of parameters each unit has."""
    counts = np.zeros(group.size)
    for member in group.members:
        if not member.buffer:
            shape = graph.shapes[member.name]
            counts += np.bincount(member.unit, minlength=group.size) * (math.prod(shape) // shape[member.dim])
    return counts


def _load(graph: DependencyGraph, weights: Mapping[str, Tensor], name: str) -> Tensor:
    """The parameter's tensor, with values, in the traced shape; integers as float32."""
    if name not in weights:
        raise CompressError(f"weights: no parameter '{name}'{nearest(name, weights)}")
    tensor, expected = weights[name], tuple(graph.shapes[name])
    if tuple(tensor.shape) != expected:
        raise CompressError(f"weights: '{name}' is {tuple(tensor.shape)}, the traced model's is {expected}")
    if tensor.is_meta:
        raise CompressError(f"'{name}' is on the meta device and has no values to score; pass weights=")
    return tensor if tensor.is_floating_point() or tensor.is_complex() else tensor.float()


def _outline(graph: DependencyGraph, name: str) -> Tensor:
    """A tensor of the parameter's shape without values."""
    return torch.empty(graph.shapes[name], device="meta")


def _values(scores: Tensor, n: int, criterion: Criterion, where: str) -> np.ndarray:
    """The criterion's answer as (n,) float64."""
    if not isinstance(scores, Tensor) or scores.numel() != n or scores.shape[:1] != (n,):
        found = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise CompressError(f"criterion '{criterion.name}': expected scores of shape ({n},) for {where}, found {found}")
    return scores.detach().reshape(n).to("cpu", torch.float64).numpy()


def _finite(values: np.ndarray, criterion: Criterion, where: str) -> np.ndarray:
    if not np.isfinite(values).all():
        bad = float(values[~np.isfinite(values)][0])
        raise CompressError(f"criterion '{criterion.name}': the score of {where} is {bad}; are the weights finite?")
    return values
