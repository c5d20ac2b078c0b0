"""A named architecture and its options in, a network out."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from ..options import Plugin


class Architecture(Plugin):
    """Builds a network for a number of classes; the same options always build the same shapes."""

    task: ClassVar[str | None] = None
    """The registered task that trains this architecture when the recipe names none."""

    def build(self, classes: int, image_size: tuple[int, int]) -> nn.Module:
        """A new, randomly initialised network (torch's global generator decides the weights).

        image_size: (height, width) of the images it will see, in pixels; what depends on it (anchors) is scaled to it.
        """
        raise NotImplementedError
