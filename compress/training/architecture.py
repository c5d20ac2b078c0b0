"""A named architecture and its options in, a network out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from ..options import Plugin


class Architecture(Plugin):
    """Builds a network for a number of classes; the same options always build the same shapes."""

    task: ClassVar[str | None] = None
    """The registered task that trains this architecture when the recipe names none."""

    reads: ClassVar[Mapping[str, str]] = {}
    """Suffix of the files that describe such a network -> the option that takes one: `compress eval FILE` builds it."""

    def native_size(self) -> tuple[int, int] | None:
        """The (height, width) in pixels of the images that it is meant for as it is given; None for any."""
        return None

    def build(self, classes: int, image_size: tuple[int, int]) -> nn.Module:
        """A new, randomly initialised network (torch's global generator decides the weights).

        image_size: (height, width) of the images it will see, in pixels; what depends on it (anchors) is scaled to it.
        """
        raise NotImplementedError
