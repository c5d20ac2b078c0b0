"""How far a training has come in, how strongly its scales are pulled to zero out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["constant", "decay", "ramp"]


@dataclass(frozen=True)
class Schedule:
    """strength: at its highest. turn: fraction of the training after which it has risen (ramp) or falls (decay).

    factor: what it is multiplied by when it falls. top: the share of the scales, the largest at that moment, for which
    it falls; the others keep all of it.
    """

    strength: float
    kind: Kind = "constant"
    turn: float = 0.5
    factor: float = 0.01
    top: float = 1.0

    def at(self, done: float) -> float:
        """The strength after `done` of the training, a fraction in [0, 1)."""
        if self.kind == "ramp":
            return self.strength * min(1.0, done / self.turn)
        return self.strength * (self.factor if self._fallen(done) and self.top == 1 else 1.0)

    def shares(self, done: float, scales: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Name -> (channels,) how much of the strength each scale gets; empty where that is all of it."""
        if not self._fallen(done) or self.top == 1:
            return {}
        sizes = torch.cat([scale.abs() for scale in scales.values()])
        least = sizes.sort(descending=True).values[max(1, round(self.top * len(sizes))) - 1]
        return {name: torch.where(scale.abs() >= least, self.factor, 1.0) for name, scale in scales.items()}

    def _fallen(self, done: float) -> bool:
        return self.kind == "decay" and done >= self.turn


@dataclass(frozen=True)
class Aim:
    """share: of the scales that shall have come to zero after the fraction `by` of the training."""

    share: float
    by: float

    def threshold(self, step: int, steps: int, scales: Mapping[str, Tensor]) -> float:
        """By how much scales, name -> (channels,), must shrink in this step (from 0, of `steps`) to be in time.

        As far as the wanted share's quantile of |gamma| still has to go, divided by the steps left. What training does
        against it is made up for in later steps.
        """
        return self._to_go(scales) / max(1, self._arrival(steps) - step)

    def shares(self, step: int, steps: int, scales: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Name -> (channels,) how much of the threshold each scale gets; empty where that is all of it.

        On the way there all of them get it, which is L1. Once there, only the wanted share of them, the smallest, is
        held at zero against what it grows again, and the others are left in peace: iterative hard thresholding
        (Blumensath, Davies, 2009).
        """
        if step < self._arrival(steps):
            return {}
        to_go = self._to_go(scales)
        return {name: (scale.abs() <= to_go).to(scale.dtype) for name, scale in scales.items()}

    def _arrival(self, steps: int) -> int:
        """The step before which the wanted share shall be at zero."""
        return math.ceil(self.by * steps)

    def _to_go(self, scales: Mapping[str, Tensor]) -> float:
        """|gamma| below or at which the wanted share of all scales lies."""
        sizes = torch.cat([scale.abs() for scale in scales.values()])
        return float(sizes.sort().values[math.ceil(self.share * len(sizes)) - 1])
