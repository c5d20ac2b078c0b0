"""Which units go: group name -> unit indices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Plan:
    """The units that go, and the question they answer.

    removed: group name -> (k,) int64 unit indices in [0, group.size), sorted. Groups that stay whole are absent.
    settings: how it was made (criterion, ratio, scope, ...), plain JSON values.
    frozen: group name -> reason, for groups that the caller or a policy kept whole (the graph's own are in the graph).
    """

    removed: Mapping[str, np.ndarray]
    settings: Mapping[str, Any] = field(default_factory=dict)
    frozen: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        units = sum(len(r) for r in self.removed.values())
        return f"Plan: {units} units go, from {len(self.removed)} groups"
