"""What pulls weights towards zero while training, so that pruning finds something to remove."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn, optim

from ..options import Plugin

if TYPE_CHECKING:
    from ..graph.graph import DependencyGraph


class Attached(Protocol):
    """A regularizer at work on one optimizer."""

    def watched(self) -> Mapping[str, Tensor]:
        """Parameter name -> the tensor that is being shrunk, (channels,); for telemetry and the progress line."""

    def detach(self) -> None:
        """Stop: remove every hook."""


class Regularizer(Plugin):
    """Shrinks what a criterion will rank. `attach` hooks the optimizer; the training loop calls nothing else."""

    def attach(
        self, graph: DependencyGraph, model: nn.Module, optimizer: optim.Optimizer, frozen: Mapping[str, str]
    ) -> Attached:
        """Hook `optimizer.step`. frozen: the policy's group name -> reason; those groups are left alone."""
        raise NotImplementedError
