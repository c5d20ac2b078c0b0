"""Where samples come from: a dataset plugin's options in, two splits of samples out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from ..errors import CompressError
from ..options import Plugin


class Split(Protocol):
    """Samples by index; each is a pure function of (index, rng state), so any step of a run can be made again."""

    def __len__(self) -> int: ...

    def sample(self, index: int, rng: np.random.Generator | None) -> tuple[Tensor, Any]:
        """One sample (image (3, H, W) uint8, target). With an rng it is augmented, without one it is not."""

    def collate(self, samples: list[tuple[Tensor, Any]]) -> tuple[Tensor, Any]:
        """A batch: images (B, 3, H, W) float32 in [0, 1] and the targets as the task wants them.

        Detection: targets is a list of B dicts {"boxes": (n, 4) float xyxy pixels of the (H, W) input,
        "labels": (n,) int64, "subset": str or None, "id": str (the image's name)}, as torchvision takes them.
        """


@runtime_checkable
class Varied(Split, Protocol):
    """A split that also changes training batches as a whole; the loader asks with isinstance."""

    def vary(self, images: Tensor, targets: Any, rng: np.random.Generator) -> tuple[Tensor, Any]:
        """A collated batch as training shall see it, e.g. at another size; the parts of one step share their rng."""


@dataclass(frozen=True)
class Data:
    """A dataset that was opened: its two splits and what must be said about them.

    image_size: (height, width) of every sample. fingerprint: a hash of the files or of the generator's settings.
    problems: what was wrong and survived, one line a kind ("3 images cannot be read: a.jpg, b.jpg, c.jpg").
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    image_size: tuple[int, int]
    fingerprint: str
    synthetic: bool = False
    subsets: tuple[str, ...] = ()
    problems: tuple[str, ...] = field(default=())


class Dataset(Plugin):
    """Options of a dataset; `open` reads or makes it."""

    def available(self) -> str | None:
        """None where the data is there; else one line: what is missing, where to get it, where to put it."""
        return None

    def fit(self, picture: np.ndarray) -> tuple[Tensor, tuple[int, int, int, int]]:
        """A picture from anywhere, (h, w, 3) uint8, as this data set shows its own to the network.

        Returns the sample (3, H, W) uint8 and where the picture lies in it: left, top, width, height in pixels.
        Raises CompressError where the data set has no such thing.
        """
        raise CompressError(f"dataset {self.name} does not say how a picture becomes a sample")

    def open(self) -> Data:
        """Read (or draw) the data. Raises CompressError with the next step where it is not there."""
        raise NotImplementedError
