"""The smallest channels of each group, chosen once, pulled to zero by a penalty that grows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import Tensor, nn, optim

from .regularizers import Regularizer
from .units import Shrinking, Units, find_units

if TYPE_CHECKING:
    from ..graph.graph import DependencyGraph


class Growing(Regularizer):
    """An L2 penalty on the smallest channels alone that grows, so that the others can take over their work.

    Chosen once, at the start: of each group the `ratio` of units with the smallest sum of |w|. The penalty is
    (lambda / 2) * sum_u ||w_u||^2 over the chosen units u; lambda rises evenly from 0 to `strength` over the first
    `rise` of the steps and stays. It acts after each step of the optimizer as decoupled weight decay,
    w_u <- w_u * max(0, 1 - lr * lambda), lr divided by 1 - momentum for an optimizer that has it.
    Source: Wang, Qin, Zhang, Fu, Neural Pruning via Growing Regularization (ICLR 2021), section 3.1, GReg-1, where
    lambda grows by small amounts up to 1. Go on with the criterion `l1` or `l2`, scope `local` and the same ratio.

    strength: what lambda rises to. ratio: share of each group's units that are pulled to zero. rise: fraction of the
    training over which lambda grows.
    """

    name = "growing"

    strength: Annotated[float, Field(ge=0)] = 1.0
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5
    rise: Annotated[float, Field(gt=0, le=1)] = 0.7

    def attach(
        self, graph: DependencyGraph, model: nn.Module, optimizer: optim.Optimizer, frozen: Mapping[str, str]
    ) -> GrowingPenalty:
        """Hook `optimizer.step`. Where no loop says how far it is (`begin`), lambda is at its full strength."""
        units = find_units(graph, model, optimizer, frozen)
        return GrowingPenalty(units, optimizer, self.strength, self.ratio, self.rise)


class GrowingPenalty(Shrinking):
    """The penalty at work on one optimizer. chosen: (count,) 1 for a unit that is pulled to zero, else 0."""

    def __init__(self, units: Units, optimizer: optim.Optimizer, strength: float, ratio: float, rise: float) -> None:
        super().__init__(units, optimizer)
        self.strength, self.rises, self._grown = strength, rise, 1.0
        self.chosen = torch.zeros_like(units.elements)
        sizes = units.sums(1)
        for numbers in (numbers for groups in units.groups.values() for numbers in groups):
            smallest = sizes[numbers.start : numbers.stop].sort(stable=True).indices[: round(ratio * len(numbers))]
            self.chosen[numbers.start + smallest] = 1.0

    def begin(self, step: int, steps: int) -> None:
        """Before a step (counted from 0) of all: how far lambda has grown."""
        self._grown = min(1.0, step / (self.rises * steps))

    def factors(self, pace: float | Tensor) -> Tensor:
        return (1 - pace * self.strength * self._grown * self.chosen).clamp_min(0)
