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
        """Name -> reason, for every group or block that must stay whole; what is frozen already may be left out.

        A block in which a named group lives stays for that group's sake.
        """
        raise NotImplementedError
