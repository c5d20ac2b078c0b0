"""How far a training has come in, how strongly its scales are pulled to zero out."""

from __future__ import annotations

import math
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

    def shares(self, done: float, sizes: Tensor) -> Tensor | None:
        """(units,) how much of the strength each unit gets; None where that is all of it. sizes: (units,)."""
        if not self._fallen(done) or self.top == 1:
            return None
        least = sizes.sort(descending=True).values[max(1, round(self.top * len(sizes))) - 1]
        return torch.where(sizes >= least, self.factor, 1.0)

    def _fallen(self, done: float) -> bool:
        return self.kind == "decay" and done >= self.turn


@dataclass(frozen=True)
class Aim:
    """share: of the units that shall have come to zero after the fraction `by` of the training.

    groups: (units,) the group of each. spare: in each group so many units, at each moment the largest, are left in
    peace: a layer of which everything is at zero would keep the network from learning at all.
    """

    share: float
    by: float
    groups: Tensor
    spare: int = 0

    @property
    def wanted(self) -> int:
        """How many units shall come to zero: the share, or as many as are not spared."""
        spared = int(torch.bincount(self.groups).clamp(max=self.spare).sum())
        return min(math.ceil(self.share * len(self.groups)), len(self.groups) - spared)

    def threshold(self, step: int, steps: int, sizes: Tensor) -> float:
        """By how much units of these sizes, (units,), must shrink in this step (from 0, of `steps`) to be in time.

        As far as the largest of those that shall be at zero still has to go, divided by the steps left. What training
        does against it is made up for in later steps.
        """
        return self._to_go(sizes) / max(1, self._arrival(steps) - step)

    def shares(self, step: int, steps: int, sizes: Tensor) -> Tensor:
        """(units,) how much of the threshold each unit gets.

        On the way there all that are not spared get it, which is L1. Once there, only as many as were wanted, the
        smallest, are held at zero against what they grow again, and the others are left in peace: iterative hard
        thresholding (Blumensath, Davies, 2009).
        """
        shrinks = ~self._spared(sizes)
        if step >= self._arrival(steps):
            shrinks &= sizes <= self._to_go(sizes)
        return shrinks.to(sizes.dtype)

    def _arrival(self, steps: int) -> int:
        """The step before which the wanted share shall be at zero."""
        return math.ceil(self.by * steps)

    def _to_go(self, sizes: Tensor) -> float:
        """The size of the largest unit that shall come to zero."""
        able = sizes[~self._spared(sizes)].sort().values
        return float(able[self.wanted - 1]) if self.wanted else 0.0

    def _spared(self, sizes: Tensor) -> Tensor:
        """(units,) bool: the largest of each group."""
        largest_first = sizes.argsort(descending=True, stable=True)
        by_group = largest_first[self.groups[largest_first].argsort(stable=True)]  # each group's units, largest first
        counts = torch.bincount(self.groups)
        starts = counts.cumsum(0) - counts
        rank = torch.arange(len(sizes), device=sizes.device) - starts[self.groups[by_group]]
        spared = torch.empty_like(rank, dtype=torch.bool)
        spared[by_group] = rank < self.spare
        return spared
