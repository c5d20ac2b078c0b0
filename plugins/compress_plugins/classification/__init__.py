"""Images with a class each in, samples and accuracy out: classification datasets, their task, networks by name."""

from __future__ import annotations

from collections.abc import Sequence

from compress import Architecture, Dataset, Task, hookimpl


@hookimpl
def compress_register_tasks() -> Sequence[type[Task]]:
    """classify."""
    from .task import Classify

    return [Classify]


@hookimpl
def compress_register_datasets() -> Sequence[type[Dataset]]:
    """digits, image-folders, torchvision/NAME."""
    from .digits import Digits
    from .folders import ImageFolders
    from .torchvision_data import TorchvisionData

    return [Digits, ImageFolders, TorchvisionData]


@hookimpl
def compress_register_models() -> Sequence[type[Architecture]]:
    """torchvision/NAME, timm/NAME."""
    from .networks import Timm, Torchvision

    return [Torchvision, Timm]
