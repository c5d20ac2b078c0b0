"""Every hook that a plugin may implement, with its arguments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

hookspec = pluggy.HookspecMarker("compress")
hookimpl = pluggy.HookimplMarker("compress")

if TYPE_CHECKING:
    from .pruning.compensation import Compensation
    from .pruning.criteria import Criterion
    from .pruning.policy import GroupPolicy
    from .stages.exporter import Exporter
    from .stages.stage import Stage
    from .training.architecture import Architecture
    from .training.dataset import Dataset
    from .training.distillation import Distillation
    from .training.regularizers import Regularizer
    from .training.task import Task


@hookspec
def compress_register_criteria() -> Sequence[type[Criterion]]:  # type: ignore[empty-body]
    """Criterion classes: how much each unit matters."""


@hookspec
def compress_register_regularizers() -> Sequence[type[Regularizer]]:  # type: ignore[empty-body]
    """Regularizer classes: what shrinks weights during sparse training."""


@hookspec
def compress_register_distillations() -> Sequence[type[Distillation]]:  # type: ignore[empty-body]
    """Distillation classes: what a network in training takes over from a teacher."""


@hookspec
def compress_register_compensations() -> Sequence[type[Compensation]]:  # type: ignore[empty-body]
    """Compensation classes: what removed channels used to add, given back."""


@hookspec
def compress_register_op_rules() -> Sequence[Any]:  # type: ignore[empty-body]
    """Rules for ops that the core does not know: functions (call, labels) whose `ops` names the ATen ops."""


@hookspec
def compress_register_group_policies() -> Sequence[type[GroupPolicy]]:  # type: ignore[empty-body]
    """GroupPolicy classes: which groups an architecture's lore keeps whole."""


@hookspec
def compress_register_models() -> Sequence[type[Architecture]]:  # type: ignore[empty-body]
    """Architecture classes: networks by name."""


@hookspec
def compress_register_datasets() -> Sequence[type[Dataset]]:  # type: ignore[empty-body]
    """Dataset classes."""


@hookspec
def compress_register_tasks() -> Sequence[type[Task]]:  # type: ignore[empty-body]
    """Task classes: loss and metrics."""


@hookspec
def compress_register_stages() -> Sequence[type[Stage]]:  # type: ignore[empty-body]
    """Stage classes: what a recipe can list."""


@hookspec
def compress_register_exporters() -> Sequence[type[Exporter]]:  # type: ignore[empty-body]
    """Exporter classes: file formats a network can be written to."""


@hookspec
def compress_register_commands() -> Sequence[Any]:  # type: ignore[empty-body]
    """Typer apps or functions that become subcommands of `compress`."""


@hookspec
def compress_stage_started(run: Path, stage: str) -> None:
    """A stage begins. run: the run's folder; stage: the stage's id."""


@hookspec
def compress_epoch_finished(run: Path, stage: str, epoch: int, metrics: dict[str, float]) -> None:
    """An epoch of a training stage ended. epoch counts from 1."""


@hookspec
def compress_stage_finished(run: Path, stage: str) -> None:
    """A stage ended and its results are on disk."""


@hookspec
def compress_run_finished(run: Path, report: dict[str, Any]) -> None:
    """The run ended. report: the content of report.json (empty where the recipe has no report stage)."""
