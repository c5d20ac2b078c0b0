"""YOLOv3: what its heads are trained for, what they learn from a teacher, and which of its channels stay."""

from collections.abc import Sequence

from compress import Distillation, GroupPolicy, Task, hookimpl

from .distillation import Detector
from .policy import ShortcutPolicy
from .task import YOLOv3

__all__ = [
    "Detector",
    "ShortcutPolicy",
    "YOLOv3",
    "compress_register_distillations",
    "compress_register_group_policies",
    "compress_register_tasks",
]


@hookimpl
def compress_register_tasks() -> Sequence[type[Task]]:
    """The detection task."""
    return [YOLOv3]


@hookimpl
def compress_register_group_policies() -> Sequence[type[GroupPolicy]]:
    """The policy on shortcuts and routes."""
    return [ShortcutPolicy]


@hookimpl
def compress_register_distillations() -> Sequence[type[Distillation]]:
    """What a detector learns from another."""
    return [Detector]
