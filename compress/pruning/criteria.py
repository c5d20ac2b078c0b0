"""A criterion says how much each unit of a group matters; the core adds up what the places say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..options import Plugin

if TYPE_CHECKING:
    from ..graph.graph import Group


@dataclass(frozen=True)
class Part:
    """One place - a dimension of a parameter, never a running statistic - in which a group's units occur.

    tensor: the whole parameter. dim: which of its dimensions carries the units, n = tensor.shape[dim].
    name: its state-dict name. module: the module that owns it. grad: its gradient, where calibration made one.
    role: `out` (a layer's output channels), `in` (its input channels), `norm` (a norm's scale or shift), `bias`, `other`.
    """

    tensor: Tensor
    dim: int
    name: str
    module: nn.Module
    role: str
    grad: Tensor | None = field(default=None)


class Criterion(Plugin):
    """Scores units: the lower, the earlier a unit goes.

    Implement `score` (one place at a time) or override `score_group` (the whole group at once).
    """

    def score(self, part: Part) -> Tensor | None:
        """Scores of the n = part.tensor.shape[part.dim] indices of one place, shape (n,), or None to say nothing."""
        raise NotImplementedError(f"{type(self).__name__} must implement score(part) or score_group(group, parts)")

    def score_group(self, group: Group, parts: list[Part]) -> Tensor | None:
        """Scores of the group's units, shape (group.size,), or None to leave it to `score`."""
        return None
