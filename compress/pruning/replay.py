"""Masked and cut networks running, in lockstep where that is asked: what verification compares."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..graph.graph import DependencyGraph, Step
from ..graph.inputs import call_model, collect_tensors
from ..graph.labels import Array, Layout
from ..graph.tape import DispatchMode, op_name, plain_math
from .decisions import Decisions
from .surgery import narrowed, surviving_index


class MaskedRun(DispatchMode):
    """Runs the ops that reduce or normalise over channels on the survivors, so that masked channels do not take part.

    Where a residual block is gone, its branch is zero at the addition that ends it. Calls are matched to the graph's
    steps by op name and order. kept: per call (its name, outputs), if asked for.
    """

    def __init__(self, graph: DependencyGraph, alive: Array, keep: bool = False) -> None:
        super().__init__()
        self.graph, self.alive = graph, alive
        self.steps = number_steps(graph)
        self.silent = dead_branches(graph, alive)
        self.seen: Counter[str] = Counter()
        self.turns: Counter[str] = Counter()
        self.kept: list[tuple[str, int, tuple[Tensor, ...]]] | None = [] if keep else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = op_name(func)
        number = self.seen[name]
        self.seen[name] += 1
        step = self.steps.get((name, number))
        narrowed = step is not None and any(not self.alive[labels].all() for _, _, labels in step.reducers)
        branch = self._branch(name, args) if self.silent else None
        if branch is not None:
            result = func(*_without_branch(args, branch, func._schema.is_mutable), **(kwargs or {}))
        elif narrowed:
            assert step is not None
            result = self._on_survivors(func, step, list(args), kwargs or {})
        else:
            result = func(*args, **(kwargs or {}))
        if self.kept is not None:
            self.kept.append((name, number, tuple(t.clone() for t in collect_tensors(result))))
        return result

    def _branch(self, name: str, args: Any) -> int | None:
        """Which argument of an addition is the branch of a block that is gone; None where it is none."""
        pair = args[:2]
        if name not in ("add", "add_") or not all(isinstance(arg, Tensor) for arg in pair):
            return None
        if pair[0].shape != pair[1].shape:
            return None
        self.turns[name] += 1
        return self.silent.get((name, self.turns[name] - 1))

    def _on_survivors(self, func: Any, step: Step, args: list[Any], kwargs: Mapping[str, Any]) -> Any:
        full: dict[int, tuple[int, np.ndarray, int]] = {}
        for position, dim, labels in step.reducers:
            index = np.flatnonzero(self.alive[labels])
            if position < 0:
                full[-1 - position] = (dim, index, len(labels))
            elif isinstance(args[position], Tensor):
                there = torch.as_tensor(index, device=args[position].device)
                args[position] = args[position].index_select(dim, there)
        if step.op == "native_layer_norm" or step.op == "_fused_rms_norm":
            args[1] = list(args[0].shape[len(args[0].shape) - len(args[1]) :])
        if step.op == "native_group_norm":
            args[:7] = _narrow_group_norm(args, self.graph.options.get("groups", "whole"))
        result = func(*args, **kwargs)
        outs = list(result) if isinstance(result, (tuple, list)) else [result]
        for k, (dim, index, n) in full.items():
            shape = list(outs[k].shape)
            shape[dim] = n
            wide = outs[k].new_zeros(shape)
            outs[k] = wide.index_copy(dim, torch.as_tensor(index, device=wide.device), outs[k])
        return tuple(outs) if isinstance(result, (tuple, list)) else outs[0]


def _without_branch(args: Any, branch: int, writes: bool) -> Any:
    """The arguments of an addition with zeros for the branch; one that is added to in place is zeroed in place."""
    changed = list(args)
    if branch == 0:
        changed[0] = args[0].zero_() if writes else torch.zeros_like(args[0])
    else:
        changed[1] = torch.zeros_like(args[1])
    return changed


def _narrow_group_norm(args: list[Any], option: str) -> list[Any]:
    """native_group_norm(x, weight, bias, N, C, HxW, groups) for fewer channels: fewer groups, or narrower ones."""
    x, weight, bias, n, channels, space, groups = args[:7]
    left = x.shape[1]
    whole = groups == channels or (option == "whole" and groups != 1)
    return [x.contiguous(), weight, bias, n, left, space, groups * left // channels if whole else groups]


def dead_branches(graph: DependencyGraph, alive: Array) -> dict[tuple[str, int], int]:
    """(op, turn) of each addition that ends a block which is gone -> the branch's argument.

    alive: (labels + blocks,).
    """
    blocks = [graph.blocks[k] for k in np.flatnonzero(~alive[len(graph.unit_of_label) :])]
    return {(graph.steps[block.addition].op, block.turn): block.branch for block in blocks}


def number_steps(graph: DependencyGraph) -> dict[tuple[str, int], Step]:
    """(op, how many of that op came before) -> step."""
    seen: Counter[str] = Counter()
    numbered = {}
    for step in graph.steps:
        numbered[step.op, seen[step.op]] = step
        seen[step.op] += 1
    return numbered


def run(model: nn.Module, inputs: Any, *modes: contextlib.AbstractContextManager[Any] | None) -> list[Tensor]:
    """The model's output tensors, in order. modes: what sees its calls, the last one first."""
    with contextlib.ExitStack() as stack:
        for mode in (plain_math(), *modes):
            if mode is not None:
                stack.enter_context(mode)
        return collect_tensors(call_model(model, inputs))


def run_masked(
    model: nn.Module,
    inputs: Any,
    graph: DependencyGraph,
    alive: Array,
    decisions: Decisions | None = None,
    watch: contextlib.AbstractContextManager[Any] | None = None,
) -> list[Tensor]:
    """The masked model's output tensors; plain where no op reduces over cut channels and no block is gone.

    watch: a mode that sees the calls as the model makes them.
    """
    narrowed = any(not alive[labels].all() for step in graph.steps for _, _, labels in step.reducers)
    gone = not alive[len(graph.unit_of_label) :].all()
    return run(model, inputs, decisions, MaskedRun(graph, alive) if narrowed or gone else None, watch)


@dataclass(frozen=True)
class Blame:
    """The first op whose result differs between cut and masked network; step is None where no recorded op matches."""

    step: Step | None
    what: str


def find_difference(
    masked: nn.Module, cut: nn.Module, inputs: Any, graph: DependencyGraph, alive: Array, apart: float
) -> Blame:
    """Run both networks and compare op by op: the cut one's result must be the masked one's survivors.

    apart: the relative difference from which on two results are not the same.
    """
    reference, decisions = MaskedRun(graph, alive, keep=True), Decisions()
    with plain_math(), decisions, reference:
        call_model(masked, inputs)
    follower = MaskedRun(graph, np.ones_like(alive), keep=True)
    failure = None
    try:
        with plain_math(), Decisions(follow=decisions), follower:
            call_model(cut, inputs)
    except Exception as error:
        failure = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    assert reference.kept is not None and follower.kept is not None
    rescaled = {graph.steps[number] for scale, _ in narrowed(graph, alive) for number in scale.calls}
    last: Step | None = None
    for (name, number, expected), (other, _, found) in zip(reference.kept, follower.kept, strict=False):
        step = reference.steps.get((name, number))
        last = step or last
        if name != other:
            return Blame(step or last, f"the cut network calls aten.{other} where the original calls aten.{name}")
        if step is None or len(step.outs) != len(expected) or step in rescaled:
            continue
        for k, ((shape, layout), want, have) in enumerate(zip(step.outs, expected, found, strict=True)):
            if not _fits(want, shape, layout) or (k > 0 and not layout):
                continue  # another way through the network; or statistics that a norm returns beside its result
            for dim in range(want.dim()):
                index = surviving_index(shape, layout, dim, alive)
                if index is not None:
                    want = want.index_select(dim, torch.as_tensor(index, device=want.device))
            if want.shape != have.shape:
                return Blame(step, f"{step} gives the shape {tuple(have.shape)}, not {tuple(want.shape)}")
            if want.is_floating_point() and difference(want, have)[1] > apart:
                return Blame(step, f"{step} gives other values")
    if failure is not None:
        k = len(follower.kept)
        after = reference.kept[k][:2] if k < len(reference.kept) else None
        return Blame(reference.steps.get(after, last) if after else last, f"the cut network fails: {failure}")
    return Blame(last, "the outputs differ")


def _fits(tensor: Tensor, shape: tuple[int, ...], layout: Layout) -> bool:
    """Whether it can carry the layout of a value of this shape; batches and numbers of boxes may differ."""
    return tensor.dim() == len(shape) and all(tensor.shape[d] == shape[d] for block in layout for d in block.dims)


def difference(want: Tensor, have: Tensor) -> tuple[float, float]:
    """Largest absolute difference, and the same relative to the largest |want|; infinite where not finite."""
    if want.shape != have.shape or not (torch.isfinite(want).all() and torch.isfinite(have).all()):
        return float("inf"), float("inf")
    if want.numel() == 0:
        return 0.0, 0.0
    gap = float((want.double() - have.double()).abs().max())
    scale = float(want.double().abs().max())
    return gap, gap / scale if scale > 0 else (0.0 if gap == 0 else float("inf"))
