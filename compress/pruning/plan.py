"""Which units go - group name -> unit indices - and which residual blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Plan:
    """The units and blocks that go, and the question they answer.

    removed: group name -> (k,) int64 unit indices in [0, group.size), sorted. Groups that stay whole are absent.
    settings: how it was made (criterion, ratio, scope, ...), plain JSON values.
    frozen: group or block name -> reason, for those that the caller or a policy kept whole (the graph's own are in the
    graph). blocks: names of the residual blocks that go; groups that live in them alone are not in `removed`.
    """

    removed: Mapping[str, np.ndarray]
    settings: Mapping[str, Any] = field(default_factory=dict)
    frozen: Mapping[str, str] = field(default_factory=dict)
    blocks: tuple[str, ...] = ()

    def __str__(self) -> str:
        units = sum(len(r) for r in self.removed.values())
        blocks = f", and {len(self.blocks)} blocks" if self.blocks else ""
        return f"Plan: {units} units go, from {len(self.removed)} groups{blocks}"
