"""Whole channels, with everything coupled to them, pulled to zero by their norm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from torch import Tensor, nn, optim

from .regularizers import Regularizer
from .units import Shrinking, Units, find_units

if TYPE_CHECKING:
    from ..graph.graph import DependencyGraph


class GroupLasso(Regularizer):
    """Shrinks each channel with all that is coupled to it - filter, norm, shift, what reads it - to exact zeros.

    The penalty is strength * sum_u sqrt(p_u) ||w_u||_2 over the units u that may be cut, p_u the number of a unit's
    weights (Yuan, Lin, JRSS B 2006, equation 2.1; for channels: Wen et al., NeurIPS 2016, equation 4). It acts after
    each step of the optimizer as the proximal step w_u <- w_u * max(0, 1 - t sqrt(p_u) / ||w_u||_2) (Parikh, Boyd
    2014, section 6.5.4) with t = lr * strength, divided by 1 - momentum for an optimizer that has it. A weight that two
    units share is scaled by both. Works with and without norm layers; go on with the criterion `l2`.

    strength: weight of the penalty; t is the step by which the root mean square of a unit's weights falls.
    """

    name = "group-lasso"

    strength: Annotated[float, Field(ge=0)] = 0.01

    def attach(
        self, graph: DependencyGraph, model: nn.Module, optimizer: optim.Optimizer, frozen: Mapping[str, str]
    ) -> Shrinking:
        """Hook `optimizer.step`."""
        return _Lasso(find_units(graph, model, optimizer, frozen), optimizer, self.strength)


class _Lasso(Shrinking):
    def __init__(self, units: Units, optimizer: optim.Optimizer, strength: float) -> None:
        super().__init__(units, optimizer)
        self.strength, self._roots = strength, units.elements.sqrt()

    def factors(self, pace: float | Tensor) -> Tensor:
        norms = self.units.sums(2).sqrt().clamp_min(1e-12)  # (units,)
        return (1 - pace * self.strength * self._roots / norms).clamp_min(0)
