"""A policy in, the groups that must not be cut out: what the graph allows but the architecture's lore does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from ..options import Plugin

if TYPE_CHECKING:
    from ..graph.graph import DependencyGraph


class GroupPolicy(Plugin):
    """Decides which groups stay whole. Sparsify and prune share one policy, so only what may be cut is shrunk."""

    def freeze(self, graph: DependencyGraph, model: nn.Module) -> Mapping[str, str]:
        """Group name -> reason, for every group that must stay whole. Groups already frozen need not be named."""
        raise NotImplementedError
