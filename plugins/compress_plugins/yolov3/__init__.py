"""YOLOv3: what its heads are trained for, and which of its channels stay."""

from collections.abc import Sequence

from compress import GroupPolicy, Task, hookimpl

from .policy import ShortcutPolicy
from .task import YOLOv3

__all__ = ["ShortcutPolicy", "YOLOv3", "compress_register_group_policies", "compress_register_tasks"]


@hookimpl
def compress_register_tasks() -> Sequence[type[Task]]:
    """The detection task."""
    return [YOLOv3]


@hookimpl
def compress_register_group_policies() -> Sequence[type[GroupPolicy]]:
    """The policy on shortcuts and routes."""
    return [ShortcutPolicy]
