"""What pulls weights towards zero while training, so that pruning finds something to remove."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

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


@runtime_checkable
class Recorded(Attached, Protocol):
    """An attached regularizer that also keeps what happens to its weights; the training loop asks with isinstance."""

    def observe(self, folder: Path, step: int) -> None:
        """Keep records in `folder` (made where missing) from now on.

        step: steps done so far, 0 for a new stage; records of later ones, left by a run that was killed, are dropped.
        """

    def record(self, step: int, epoch: int, ended: bool) -> None:
        """To be called after every step. step and epoch count from 1; ended: this was the epoch's last step."""

    def pictures(self, folder: Path) -> list[Path]:
        """Draw what was recorded into `folder` (made where missing) at the stage's end; the files made."""


@runtime_checkable
class Scheduled(Attached, Protocol):
    """An attached regularizer whose strength changes on the way; the training loop asks with isinstance.

    rises: the fraction of the training over which it only becomes what it is; before that nobody judges its effect.
    """

    rises: float

    def begin(self, step: int, steps: int) -> None:
        """To be called before every step, with the step's learning rate set. step: from 0, of `steps` in all.

        What it decides may depend on these, on the weights and the learning rate alone, and on nothing remembered from
        earlier steps: so a run that was killed goes on as if it had not been.
        """


class Regularizer(Plugin):
    """Shrinks what a criterion will rank. `attach` hooks the optimizer; the training loop calls nothing else."""

    def attach(
        self, graph: DependencyGraph, model: nn.Module, optimizer: optim.Optimizer, frozen: Mapping[str, str]
    ) -> Attached:
        """Hook `optimizer.step`. frozen: the policy's group name -> reason; those groups are left alone."""
        raise NotImplementedError
