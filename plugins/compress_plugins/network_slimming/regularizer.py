"""A recipe's sparsity options in, BatchNorm scales that shrink while training out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from torch import Tensor, nn, optim

from compress import CompressError, Regularizer, Sparsifier

from .telemetry import GammaTelemetry

if TYPE_CHECKING:
    from compress import DependencyGraph


class SlimmedScales:
    """A Sparsifier at work, and the record of what it does to the scales."""

    def __init__(self, sparsifier: Sparsifier) -> None:
        self._sparsifier = sparsifier
        self._telemetry: GammaTelemetry | None = None

    def watched(self) -> Mapping[str, Tensor]:
        """Parameter name -> the scale's entries that shrink, (channels,)."""
        return self._sparsifier.watched()

    def detach(self) -> None:
        """Stop shrinking and close the record."""
        self._sparsifier.detach()
        if self._telemetry is not None:
            self._telemetry.close()

    def observe(self, folder: Path, step: int) -> None:
        """Record into `folder` from after `step` on."""
        self._telemetry = GammaTelemetry(folder, step)

    def record(self, step: int, epoch: int, ended: bool) -> None:
        """Keep the scales' state after a step, where it is one of those that are kept."""
        if self._telemetry is not None:
            self._telemetry.record(step, epoch, ended, self.watched)

    def pictures(self, folder: Path) -> list[Path]:
        """Draw the record; raises CompressError where none was kept."""
        if self._telemetry is None:
            raise CompressError("no gammas were recorded: call observe(folder, step) before training")
        return self._telemetry.finish(folder)


class NetworkSlimming(Regularizer):
    """L1 on BatchNorm's gamma for channels that may be cut (network slimming; Liu et al., ICCV 2017).

    strength: weight of sum |gamma| in the loss. Published for YOLOv3: 0.01 over 100 epochs at learning rate 1e-3; a
        short run needs more, since a gamma moves by about lr * strength / (1 - momentum) a step.
    mode: `proximal`, a soft threshold after each step that moves gamma as fast as the published sub-gradient does
        through momentum, and reaches exact zeros; or `subgradient` itself.
    pace: how many times as fast as the learning rate says gamma moves; for short trainings, above all with AdamW.
    """

    name = "network-slimming"

    strength: Annotated[float, Field(ge=0)] = 0.01
    mode: Literal["proximal", "subgradient"] = "proximal"
    pace: Annotated[float, Field(gt=0)] = 1.0

    def attach(
        self, graph: DependencyGraph, model: nn.Module, optimizer: optim.Optimizer, frozen: Mapping[str, str]
    ) -> SlimmedScales:
        """Hook `optimizer.step`; see compress.Sparsifier for what each step does."""
        return SlimmedScales(
            Sparsifier(
                graph, optimizer, self.strength, mode=self.mode, pace=self.pace, model=model, frozen=frozen
            )
        )
