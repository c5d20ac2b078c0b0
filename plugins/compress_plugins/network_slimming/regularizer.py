"""A recipe's sparsity options in, BatchNorm scales that shrink while training out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from torch import Tensor, nn, optim

from compress import CompressError, Regularizer, Sparsifier

from .schedule import Aim, Kind, Schedule
from .telemetry import GammaTelemetry

if TYPE_CHECKING:
    from compress import DependencyGraph


class SlimmedScales:
    """A Sparsifier at work, how its strength changes, and the record of what it does to the scales."""

    def __init__(self, sparsifier: Sparsifier, strength: Schedule | Aim) -> None:
        self._sparsifier, self._strength = sparsifier, strength
        self.rises = strength.turn if isinstance(strength, Schedule) and strength.kind == "ramp" else 0.0
        self._telemetry: GammaTelemetry | None = None

    def begin(self, step: int, steps: int) -> None:
        """Before a step (from 0, of `steps` in all): set the strength."""
        sparsifier, given = self._sparsifier, self._strength
        if isinstance(given, Schedule):
            sparsifier.strength = given.at(step / steps)
            sparsifier.shares = given.shares(step / steps, sparsifier.sizes())
            return

        def choose(sizes: Tensor) -> float:
            threshold, unit = given.threshold(step, steps, sizes), sparsifier.threshold(1.0)
            sparsifier.strength = float(threshold / unit) if unit else 0.0  # what it amounts to, for the record
            sparsifier.shares = given.shares(step, steps, sizes)
            return threshold

        sparsifier.choose = choose

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
            self._telemetry.record(step, epoch, ended, self.watched, self._sparsifier.strength)

    def pictures(self, folder: Path) -> list[Path]:
        """Draw the record; raises CompressError where none was kept."""
        if self._telemetry is None:
            raise CompressError("no gammas were recorded: call observe(folder, step) before training")
        return self._telemetry.finish(folder)


class NetworkSlimming(Regularizer):
    """L1 on BatchNorm's gamma for channels that may be cut (network slimming; Liu et al., ICCV 2017).

    strength: weight of sum |gamma| in the loss. Published for YOLOv3: 0.01 over 100 epochs at learning rate 1e-3; a
        short run needs more, since a gamma moves by about lr * strength / (1 - momentum) a step. `auto` sets it anew
        before each step, so that `share` of the gammas come to zero by `by`.
    mode: `proximal`, a soft threshold after each step that moves gamma as fast as the published sub-gradient does
        through momentum, and reaches exact zeros; or `subgradient` itself.
    pace: how many times as fast as the learning rate says gamma moves; for short trainings, above all with AdamW.
    schedule: `constant`; `ramp`, the strength rises evenly from 0 until `turn`; or `decay`, from `turn` on it is
        multiplied by `decay`, for the `top` largest gammas alone where top is below 1.
    turn: fraction of the training.
    decay: what the strength is multiplied by.
    top: share of the gammas, the largest at each moment, for which the strength decays.
    share: of the channels that shall be at zero in the end, for strength auto; the share that will be pruned, or more.
    by: fraction of the training after which they shall be, for strength auto.
    spare: channels of each group, its largest, that strength auto leaves in peace, so that no layer dies.
    together: channels that are cut together, as those of a residual stream, shrink together, by the root mean square of
        their gammas; false pulls every gamma by itself, as published. Mode subgradient always does.
    """

    name = "network-slimming"

    strength: Annotated[float, Field(ge=0)] | Literal["auto"] = 0.01
    mode: Literal["proximal", "subgradient"] = "proximal"
    pace: Annotated[float, Field(gt=0)] = 1.0
    schedule: Kind = "constant"
    turn: Annotated[float, Field(gt=0, lt=1)] = 0.5
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.01
    top: Annotated[float, Field(gt=0, le=1)] = 1.0
    share: Annotated[float, Field(gt=0, lt=1)] = 0.7
    by: Annotated[float, Field(gt=0, le=1)] = 0.7
    spare: Annotated[int, Field(ge=0)] = 4
    together: bool = True

    def __post_init__(self) -> None:
        """Raises CompressError where strength auto meets what it cannot go with."""
        if self.strength == "auto" and self.mode != "proximal":
            raise CompressError("strength: auto needs mode: proximal, whose steps it can size")
        if self.strength == "auto" and self.schedule != "constant":
            raise CompressError(f"strength: auto makes its own schedule; leave out schedule: {self.schedule}")

    def attach(
        self, graph: DependencyGraph, model: nn.Module, optimizer: optim.Optimizer, frozen: Mapping[str, str]
    ) -> SlimmedScales:
        """Hook `optimizer.step`; see compress.Sparsifier for what each step does."""
        strength = 0.0 if isinstance(self.strength, str) else self.strength
        sparsifier = Sparsifier(
            graph,
            optimizer,
            strength,
            mode=self.mode,
            pace=self.pace,
            together=self.together,
            model=model,
            frozen=frozen,
        )
        if self.strength == "auto":
            aim = Aim(self.share, self.by, sparsifier.groups, self.spare)
            if aim.wanted < self.share * len(aim.groups):
                logging.getLogger("compress").warning(
                    "share %g of %d channels cannot come to zero while %d of each group are spared: %d will",
                    self.share, len(aim.groups), self.spare, aim.wanted,
                )  # fmt: skip
            return SlimmedScales(sparsifier, aim)
        return SlimmedScales(sparsifier, Schedule(strength, self.schedule, self.turn, self.decay, self.top))
