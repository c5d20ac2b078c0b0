"""A criterion, a graph and weights in, one float64 score a unit out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CompressError, nearest
from .criteria import Criterion, Part

if TYPE_CHECKING:
    from ..graph.graph import DependencyGraph, Group, Member


def score(
    graph: DependencyGraph,
    criterion: Criterion,
    weights: Mapping[str, Tensor],
    model: nn.Module | None = None,
    gradients: Mapping[str, Tensor] | None = None,
    skip: Collection[str] = (),
) -> np.ndarray:
    """How much each unit matters, (graph.n_units,) float64; NaN where the criterion says nothing.

    Each place (parameter, dimension) is scored once, whatever groups share it; what the places say is added up for
    each unit, and a unit that occurs several times in a place adds up as often.

    weights: parameter name -> tensor, one at a time where the criterion scores places. model: whose modules own the
    parameters. gradients: parameter name -> gradient. skip: names of groups to leave out.

    Raises CompressError, naming the parameter or group, where a tensor is missing, has another shape or no values, or
    where a score has the wrong shape or is not finite.
    """
    modules = dict(model.named_modules()) if model is not None else {}
    total = np.full(graph.n_units, np.nan)
    load = partial(_load, graph, weights) if criterion.needs_weights else partial(_outline, graph)

    def part(name: str, tensor: Tensor, dim: int, role: str) -> Part:
        grad = (gradients or {}).get(name)
        if tensor.ndim == 1:
            tensor, grad = tensor[:, None], None if grad is None else grad[:, None]  # (n,) -> (n, 1)
        return Part(tensor, dim, name, modules.get(name.rpartition(".")[0]), role, grad)

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
                start, where = graph.start(group.name), f"group '{group.name}'"
                values = _values(scores, group.size, criterion, where)
                total[start : start + group.size] = _finite(values, criterion, where)

        if not left or (whole and type(criterion).score is Criterion.score):
            return total
        for name, uses in _places(graph, left).items():
            tensor = load(name)
            for (dim, role), occurrences in uses.items():
                scores = criterion.score(part(name, tensor, dim, role))
                if scores is None:
                    continue
                where = f"'{name}' dimension {dim}"
                values = _values(scores, tensor.shape[dim], criterion, where)
                for start, member in occurrences:
                    said = total[start + member.unit]
                    total[start + member.unit] = np.where(np.isnan(said), 0.0, said)
                    np.add.at(total, start + member.unit, _finite(values[member.index], criterion, where))
    return total


def gradients(
    model: nn.Module, calibration: Iterable[Any] | None, loss: Callable[[nn.Module, Any], Tensor] | None
) -> dict[str, Tensor]:
    """The loss's gradient for each floating-point parameter, mean over the batches, at the weights of the model.

    calibration: batches; loss: (model, batch) -> scalar. A copy of the model runs, in eval mode: the model keeps its
    weights, running statistics and `.grad` fields.

    Raises CompressError where one of the two is missing, there is no batch or the loss is not one finite number.
    """
    if calibration is None or loss is None:
        raise CompressError("this criterion needs gradients; pass calibration=batches and loss=function(model, batch)")
    copy = deepcopy(model).eval()
    parameters = {n: p.requires_grad_() for n, p in copy.named_parameters() if p.is_floating_point()}
    sums: dict[str, Tensor] = {}
    batches = 0
    for batches, batch in enumerate(calibration, start=1):
        with torch.enable_grad():
            value = loss(copy, batch)
            if value.numel() != 1 or not torch.isfinite(value).all():
                raise CompressError(f"loss of calibration batch {batches}: expected one finite number, found {value}")
            found = torch.autograd.grad(value.sum(), list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, found, strict=True):
            if gradient is not None:
                sums[name] = sums[name] + gradient if name in sums else gradient
    if not batches:
        raise CompressError("calibration holds no batches")
    return {name: total / batches for name, total in sums.items()}


def _places(
    graph: DependencyGraph, groups: Iterable[Group]
) -> dict[str, dict[tuple[int, str], list[tuple[int, Member]]]]:
    """Parameter name -> (dimension, role) -> where units occur: (the group's first unit number, member)."""
    places: dict[str, dict[tuple[int, str], list[tuple[int, Member]]]] = defaultdict(lambda: defaultdict(list))
    for group in groups:
        for member in group.members:
            if not member.buffer:
                places[member.name][member.dim, member.role].append((graph.start(group.name), member))
    return places


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
