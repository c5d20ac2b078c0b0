"""A recipe that was checked: every name found, every option typed, every path absolute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checking import options
from ..options import Plugin

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
        parts = {"model": self.architecture, "data": self.dataset, "task": self.task, "policy": self.policy}
        profile = f", profile {self.profile}" if self.profile else ""
        lines = [f"{self.name}{profile}, seed {self.seed}, device {self.device}"]
        lines += [f"  {key:<12} {_shown(part)}" for key, part in parts.items() if part is not None]
        lines += ["stages", *(f"  {id_:<12} {_shown(stage)}" for id_, stage in self.stages)]
        return "\n".join(lines)


def _shown(plugin: Plugin) -> str:
    """Its name and the options that are not at their defaults."""
    chosen = [(option, getattr(plugin, option.name)) for option in options(type(plugin))]
    return "  ".join([plugin.name, *(f"{o.name}={value}" for o, value in chosen if o.required or value != o.default)])
