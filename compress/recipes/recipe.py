"""A recipe that was checked: every name found, every option typed, every path absolute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..pruning.policy import GroupPolicy
    from ..registry import Registry
    from ..stages.stage import Stage
    from ..training.architecture import Architecture
    from ..training.dataset import Dataset
    from ..training.task import Task


@dataclass(frozen=True)
class Recipe:
    """What to do, in objects.

    profile: the one that was laid over the recipe, "" for none. threads: CPU threads, None for torch's own number.
    device: `auto`, `cpu` or `cuda`. stages: (id, stage) in order. expect: metric -> {"min": x, "max": y}, one or both.
    resolved: the same as plain values; written down (`dump`) and loaded, it gives this recipe again. source: the file.
    plugin_files: local plugin -> sha256. notes: lines to say at the start. registry: what it was checked with, its own
    plugin files included.
    """

    name: str
    profile: str
    seed: int
    threads: int | None
    device: str
    architecture: Architecture
    dataset: Dataset
    task: Task
    policy: GroupPolicy | None
    stages: tuple[tuple[str, Stage], ...]
    expect: Mapping[str, Mapping[str, float]]
    resolved: Mapping[str, Any]
    source: Path
    plugin_files: Mapping[Path, str]
    notes: tuple[str, ...]
    registry: Registry

    def __str__(self) -> str:
        stages = "\n".join(f"  {id_:<12} {stage.name}" for id_, stage in self.stages)
        profile = f", profile {self.profile}" if self.profile else ""
        policy = f"\n  policy       {self.policy}" if self.policy else ""
        return (
            f"{self.name}{profile}, seed {self.seed}, device {self.device}\n"
            f"  model        {self.architecture}\n  data         {self.dataset}\n  task         {self.task}{policy}\n"
            f"stages\n{stages}"
        )
