"""Ops that turn real numbers into integers or truth values (topk, nms, `>`): noted in one run, followed in another.

Rounding alone can turn such a decision, and then everything behind it differs. So what enters each of them is compared,
and the cut network goes on with the masked one's decision: the comparison reaches the end of a detector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..graph.inputs import collect_tensors
from ..graph.tape import DispatchMode, op_name


@dataclass(frozen=True)
class Decision:
    """One op's name, the real numbers that entered it, and what came out."""

    op: str
    weighed: tuple[Tensor, ...]
    result: Any


class Decisions(DispatchMode):
    """Notes the decisions of a run in `taken`; with `follow`, another run's, takes those where they have its shapes.

    pairs: while it follows, (what the other run weighed, what this one did) for each decision; shapes may differ
    where it is about channels, of which a cut network has fewer - then it decides by itself and nothing is noted.
    """

    def __init__(self, follow: Decisions | None = None) -> None:
        super().__init__()
        self.taken: list[Decision] = []
        self.follow = follow
        self.pairs: list[tuple[Tensor, Tensor]] = []

    @property
    def hollow(self) -> bool:
        """Whether a decision was about nothing, because earlier ones left nothing over."""
        return any(tensor.numel() == 0 for decision in self.taken for tensor in decision.weighed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        weighed = [tensor for tensor in args if isinstance(tensor, Tensor) and tensor.is_floating_point()]
        before = tuple(tensor.clone() for tensor in weighed) if weighed and func._schema.is_mutable else tuple(weighed)
        result = func(*args, **(kwargs or {}))
        if not weighed or all(t.is_floating_point() or t.is_complex() for t in collect_tensors(result)):
            return result
        decision = Decision(op_name(func), tuple(tensor.clone() for tensor in before), result)
        self.taken.append(decision)
        model = self._counterpart(len(self.taken) - 1)
        if model is None or not _alike(model, decision):
            return result
        self.pairs += zip(model.weighed, decision.weighed, strict=True)
        return model.result

    def _counterpart(self, number: int) -> Decision | None:
        return self.follow.taken[number] if self.follow is not None and number < len(self.follow.taken) else None


def _alike(a: Decision, b: Decision) -> bool:
    shapes = [[tuple(t.shape) for t in (*d.weighed, *collect_tensors(d.result))] for d in (a, b)]
    return a.op == b.op and shapes[0] == shapes[1]


def finite_part(want: Tensor, have: Tensor) -> tuple[Tensor, Tensor]:
    """Both with zeros where both are infinite or NaN alike (scores masked by -inf)."""
    same = ~torch.isfinite(want) & ((want == have) | (torch.isnan(want) & torch.isnan(have)))
    return want.masked_fill(same, 0), have.masked_fill(same, 0)
