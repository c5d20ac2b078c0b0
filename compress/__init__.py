"""Structured compression of PyTorch networks: trace, plan, cut, verify. These are the public names, and only they.

Each name is imported on first use, so that `compress --help` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import CompressError, ExpectationError, VerificationError, nearest
    from .graph.blocks import Block, Skipped
    from .graph.graph import Cost, DependencyGraph, Frozen, Group, Link, Member
    from .graph.trace import trace
    from .hookspecs import hookimpl
    from .options import Plugin, Uses
    from .pruning.analysis import Sensitivity, sensitivity
    from .pruning.apply import Pruned, apply, prune
    from .pruning.artifact import load, save
    from .pruning.calibration import Calibration
    from .pruning.compensation import Compensation
    from .pruning.criteria import Criterion, Part
    from .pruning.deviation import deviations
    from .pruning.latency import LatencyTable, measure_layers
    from .pruning.plan import Plan
    from .pruning.points import Kept
    from .pruning.policy import GroupPolicy
    from .pruning.schedule import schedule
    from .pruning.selection import plan
    from .pruning.verify import Verification
    from .stages.exporter import Exporter
    from .stages.stage import Context, Stage
    from .training.architecture import Architecture
    from .training.dataset import Data, Dataset, Split
    from .training.distillation import Answer, Distillation
    from .training.distiller import Distiller, Lesson
    from .training.leaks import Leak, find_leaks
    from .training.regularizers import Attached, Regularizer
    from .training.sparsifier import Sparsifier
    from .training.task import Evaluation, Task

__all__ = [
    "Answer",
    "Architecture",
    "Attached",
    "Block",
    "Calibration",
    "Compensation",
    "CompressError",
    "Context",
    "Cost",
    "Criterion",
    "Data",
    "Dataset",
    "DependencyGraph",
    "Distillation",
    "Distiller",
    "Evaluation",
    "ExpectationError",
    "Exporter",
    "Frozen",
    "Group",
    "GroupPolicy",
    "Kept",
    "LatencyTable",
    "Leak",
    "Lesson",
    "Link",
    "Member",
    "Part",
    "Plan",
    "Plugin",
    "Pruned",
    "Regularizer",
    "Sensitivity",
    "Skipped",
    "Sparsifier",
    "Split",
    "Stage",
    "Task",
    "Uses",
    "Verification",
    "VerificationError",
    "apply",
    "deviations",
    "find_leaks",
    "hookimpl",
    "load",
    "measure_layers",
    "nearest",
    "plan",
    "prune",
    "save",
    "schedule",
    "sensitivity",
    "trace",
]

_HOMES = (  # where the names live, lightest first
    "errors",
    "options",
    "hookspecs",
    "graph.graph",
    "pruning.plan",
    "pruning.criteria",
    "pruning.calibration",
    "pruning.policy",
    "stages.exporter",
    "stages.stage",
    "pruning.compensation",
    "training.architecture",
    "training.dataset",
    "training.distillation",
    "training.regularizers",
    "training.task",
    "training.leaks",
    "training.sparsifier",
    "graph.blocks",
    "training.distiller",
    "graph.trace",
    "pruning.latency",
    "pruning.schedule",
    "pruning.selection",
    "pruning.verify",
    "pruning.apply",
    "pruning.artifact",
    "pruning.points",
    "pruning.deviation",
    "pruning.analysis",
)


if not TYPE_CHECKING:  # a type checker must still see a misspelt name

    def __getattr__(name: str) -> Any:
        if name in __all__:
            for home in _HOMES:
                module = import_module(f"{__name__}.{home}")
                if hasattr(module, name):
                    globals()[name] = getattr(module, name)
                    return globals()[name]
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
