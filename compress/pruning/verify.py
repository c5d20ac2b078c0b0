"""Cut network and masked network in, proof that they compute the same - or the groups to blame - out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CompressError
from ..graph.graph import DependencyGraph
from ..graph.inputs import map_tensors
from ..graph.uncollected import uncollected
from ..graph.walk import named_tensors
from .decisions import Decisions, finite_part
from .exact import takes_over
from .masked import copy_with, mask, randomise, write_over
from .noise import Noise, NotAsRecorded, can_be_small
from .plan import Plan
from .replay import Blame, difference, find_difference, run, run_masked
from .surgery import Edits, scaled, select
from .wide import InFloat64

TOLERANCE = {torch.float64: 1e-9, torch.float32: 3e-6, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest difference, relative to the largest output, that rounding explains; above float32's, float64 decides."""

DOUBTFUL = 1e-3
"""Largest relative difference that may be rounding, in a network that makes much of a little (`_swing`)."""

NO_STEP = Blame(None, "without it the network does not compute what it computes with the branch at zero")


@dataclass(frozen=True)
class Verification:
    """How far the cut network is from the masked one.

    max_abs, rel: largest difference on the real weights, absolute and relative to the largest output; zero where each
    weight is taken over as it is, so that random weights prove it for the real ones. randomised_rel: the same on random
    weights. tolerance: what the differences had to stay below, for `dtype`.
    """

    passed: bool
    max_abs: float
    rel: float
    tolerance: float
    dtype: str
    randomised_rel: float

    def __str__(self) -> str:
        word = "equal to the masked network" if self.passed else "NOT equal to the masked network"
        own = f"relative difference {self.rel:.1e}" if self.rel else "no difference"
        return (
            f"{word}: {own} on its weights, {self.randomised_rel:.1e} on random weights "
            f"(tolerance {self.tolerance:.0e}, {self.dtype})"
        )


def worse(one: Verification | None, other: Verification | None) -> Verification | None:
    """Two comparisons as one, each figure the larger of both."""
    if one is None or other is None:
        return one or other
    coarse = max(one, other, key=lambda each: each.tolerance)
    return Verification(
        one.passed and other.passed,
        max(one.max_abs, other.max_abs),
        max(one.rel, other.rel),
        coarse.tolerance,
        coarse.dtype,
        max(one.randomised_rel, other.randomised_rel),
    )


@dataclass(frozen=True)
class _Comparison:
    """tolerance: what `rel` had to stay below. hollow: decisions left some op nothing to work on, as where no box of a
    detector survived."""

    max_abs: float
    rel: float
    dtype: torch.dtype
    tolerance: float
    blame: Blame | None
    hollow: bool = False


@uncollected
def verify(
    model: nn.Module, new: nn.Module, graph: DependencyGraph, plan: Plan, edits: Edits
) -> tuple[Verification, Blame | None]:
    """Compare cut and masked network, first with random parameters and norm statistics, then with the real ones.

    Both run on noise like the example inputs, on smaller images where these prove as much (see `Noise`). new: what the
    edits make of the model. Returns what was measured and, where they differ, the first op that does; a plan with
    blocks is not replayed op by op, for the ops are not the same. Raises CompressError for a model on the meta device,
    which holds no values.
    """
    if any(tensor.is_meta for tensor in named_tensors(model).values()):
        raise CompressError(
            "a model on the meta device holds no values to verify; load its weights, or pass verify=False"
        )
    if can_be_small(graph):
        with suppress(NotAsRecorded):
            return _verify(model, new, graph, plan, edits, Noise(graph, small=True))
    return _verify(model, new, graph, plan, edits, Noise(graph, small=False))


def _verify(
    model: nn.Module, new: nn.Module, graph: DependencyGraph, plan: Plan, edits: Edits, noise: Noise
) -> tuple[Verification, Blame | None]:
    roles = {name: role for (name, _), role in _roles(graph).items()}
    randomised: _Comparison | None = None
    for gain in (1.0, 0.5, 0.2):
        masked, smaller = randomise(model, new, edits, roles, gain)
        found = _compare(masked, smaller, graph, plan, edits, noise)
        if found is not None and (randomised is None or found.rel > randomised.rel):
            randomised = found
        if found is not None and not (found.hollow and found.blame is None):
            break
    if randomised is None:
        raise CompressError(
            f"{type(model).__name__} gives no finite output with random weights, so nothing can be verified; "
            "pass verify=False to go on without"
        )
    real = None
    if randomised.blame is None and graph.on_meta and not graph.decides and takes_over(model, new, edits):
        real = _Comparison(0.0, 0.0, randomised.dtype, randomised.tolerance, None)
    elif randomised.blame is None:
        masked, smaller = write_over(masked, model, edits), write_over(smaller, new, Edits({}))
        real = _compare(masked, smaller, graph, plan, edits, noise)
        if real is None:  # weights that are not finite, and go, do no harm
            real = _compare(mask(model, edits), copy_with(new, {}), graph, plan, edits, noise)
    if real is None and randomised.blame is None:
        raise CompressError(f"{type(model).__name__} gives no finite output with its own weights; are they loaded?")
    last = real or randomised
    passed = randomised.blame is None and last.blame is None
    measured = Verification(
        passed,
        last.max_abs,
        last.rel,
        last.tolerance,
        str(last.dtype).removeprefix("torch."),
        randomised.rel,
    )
    return measured, randomised.blame or last.blame


def _roles(graph: DependencyGraph) -> dict[tuple[str, int], str]:
    return {(member.name, member.dim): member.role for group in graph.groups for member in group.members}


def _compare(
    model: nn.Module, new: nn.Module, graph: DependencyGraph, plan: Plan, edits: Edits, noise: Noise
) -> _Comparison | None:
    """Both networks in float32; where that leaves doubt, in float64; in the model's own types where neither runs.

    model: the masked network; what a cut leaves of it is what it leaves of the original. new: the cut network, which
    runs as it is where the types are its own. None where the masked network is not finite.
    """
    alive = graph.alive_labels(graph.alive(plan))
    failures: list[str] = []
    for dtype in (torch.float32, torch.float64, None):
        as_it_is = dtype is None or _all_of(model, dtype)
        masked = model if as_it_is else copy_with(model, {}, dtype)
        noted = Decisions() if graph.decides else None
        followed = Decisions(follow=noted) if noted is not None else None
        whole = partial(run_masked, masked, graph=graph, alive=alive, decisions=noted)
        try:
            with _arithmetic(dtype):
                inputs, want = noise.run(whole, dtype)
        except RuntimeError as error:  # types that the forward writes out do not mix with every other
            failures.append(str(error).splitlines()[0])
            continue
        if not all(torch.isfinite(t).all() for t in want if t.is_floating_point()):
            return None
        smaller = new if as_it_is else copy_with(new, _unrounded(masked, new, edits), dtype)
        kind = dtype or _coarsest(model)
        most = TOLERANCE[kind]
        apart = 10 * most  # results of one op that rounding does not explain
        try:
            with _arithmetic(dtype):
                have = run(smaller, inputs, followed)
        except Exception:  # whatever the cut network stumbles over is found and named in lockstep
            if dtype == torch.float32:
                continue  # unless it is a decision that rounding has turned: then it runs in float64
            with _arithmetic(dtype):
                blame = NO_STEP if plan.blocks else find_difference(masked, smaller, inputs, graph, alive, apart)
            return _Comparison(float("inf"), float("inf"), kind, most, blame)
        pairs = [finite_part(w, h) for w, h in followed.pairs] if followed is not None else []
        gaps = [difference(w, h) for w, h in [*zip(want, have, strict=True), *pairs]]
        max_abs, rel = (max(gap[k] for gap in gaps) for k in (0, 1))
        if most < rel < DOUBTFUL and dtype == torch.float64:
            whole = partial(whole, decisions=Decisions(follow=noted) if noted is not None else None)
            with _arithmetic(dtype):
                most = max(most, 100 * _swing(whole, inputs, want))
        if rel <= most:
            return _Comparison(max_abs, rel, kind, most, None, noted is not None and noted.hollow)
        if kind != torch.float32 or dtype is None:
            with _arithmetic(dtype):
                blame = NO_STEP if plan.blocks else find_difference(masked, smaller, inputs, graph, alive, apart)
            return _Comparison(max_abs, rel, kind, most, blame)
    raise CompressError(f"{type(model).__name__} does not run on noise shaped like the example inputs: {failures[-1]}")


def _unrounded(masked: nn.Module, new: nn.Module, edits: Edits) -> dict[str, Tensor]:
    """The cut network's scaled weights in the finer type of the masked one, where rounding is all they differ by."""
    whole, found = named_tensors(masked), {}
    for name, tensor in named_tensors(new).items() if edits.scale else ():
        if name in edits.scale and name in whole:
            fine = scaled(select(whole[name], edits.select.get(name, {})), edits.scale[name])
            if torch.allclose(fine, tensor.to(fine.dtype), rtol=2 * torch.finfo(tensor.dtype).eps, atol=0):
                found[name] = fine
    return found


def _swing(whole: Callable[[Any], list[Tensor]], inputs: Any, want: Sequence[Tensor]) -> float:
    """How far a network's answer moves, relative to its largest element, when its inputs move by a few roundings.

    A deep network with random weights may carry the last digit of float64 up to the fifth.
    """
    generator = torch.Generator().manual_seed(2)

    def moved(tensor: Tensor) -> Tensor:
        noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device)
        return tensor * (1 + 1e-15 * (2 * noise - 1)) if tensor.is_floating_point() else tensor

    return max(difference(w, h)[1] for w, h in zip(want, whole(map_tensors(inputs, moved)), strict=True))


def _arithmetic(dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """float64 throughout where it is to decide, whatever types the code writes out."""
    return InFloat64() if dtype == torch.float64 else nullcontext()


def _all_of(model: nn.Module, dtype: torch.dtype) -> bool:
    return all(t.dtype == dtype for t in named_tensors(model).values() if t.is_floating_point())


def _coarsest(model: nn.Module) -> torch.dtype:
    """The model's floating-point type of the least precision."""
    kinds = {t.dtype for t in named_tensors(model).values() if t.is_floating_point()}
    return max(kinds & set(TOLERANCE), key=lambda kind: TOLERANCE[kind], default=torch.float32)
