"""A data set that torchvision reads, found on disk, in, two splits out."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from torch import Tensor

from compress import CompressError, Data, nearest

from .pictures import fitted
from .split import ClassDataset, ClassSplit

SAMPLED = 64
"""Images of each split whose pixels go into the fingerprint, evenly spread."""


class TorchvisionData(ClassDataset):
    """torchvision's classification data sets by name, found on disk and never downloaded: torchvision/CIFAR10.

    Any that has its splits by `train` (CIFAR10, CIFAR100, MNIST, FashionMNIST, ...) or by `split` (SVHN, STL10,
    Flowers102, ...). The test part is for validation.
    """

    name = "torchvision/"
    root: Path
    """The folder that torchvision is given as `root`."""
    train: str = "train"
    """The split to train on, for a data set that has them by name."""
    val: str = "test"
    """The split to validate on, for a data set that has them by name."""
    image_size: Annotated[int, Field(ge=8)] | None = None
    """Pixels of the square that every image is scaled to; null: as they are, where all are of one size."""

    def __post_init__(self) -> None:
        """Raises CompressError where torchvision has no such data set with two splits."""
        import torchvision

        known = {name: getattr(torchvision.datasets, name) for name in torchvision.datasets.__all__}
        fitting = {name: cls for name, cls in known.items() if {"train", "split"} & _arguments(cls)}
        if self._called not in fitting:
            raise CompressError(
                f"torchvision has no classification data set '{self._called}' with two splits"
                f"{nearest(self._called, fitting)}"
            )

    @property
    def _called(self) -> str:
        return self.name.partition("/")[2]

    def _read(self, train: bool) -> Any:
        """torchvision's dataset object. Raises CompressError where the files are not there."""
        import torchvision

        cls = getattr(torchvision.datasets, self._called)
        named = {"train": train} if "train" in _arguments(cls) else {"split": self.train if train else self.val}
        try:
            return cls(str(self.root), download=False, **named)
        except (RuntimeError, OSError, ValueError) as error:
            said = str(error).splitlines()[0]
            raise CompressError(
                f"{self.root}: torchvision does not find {self._called} there ({said}); to get it: python -c "
                f"\"import torchvision; torchvision.datasets.{self._called}('{self.root}', download=True)\""
            ) from None

    def available(self) -> str | None:
        try:
            self._read(train=False)
        except CompressError as error:
            return str(error)
        return None

    def open(self) -> Data:
        train, val = self._read(train=True), self._read(train=False)
        labels = [_labels(part) for part in (train, val)]
        classes = _classes(train, max(map(max, labels)) + 1)
        first = train[0][0]
        size = (first.height, first.width) if self.image_size is None else (self.image_size, self.image_size)
        digest = hashlib.sha256(repr((self._called, classes, size)).encode())
        splits = []
        for title, part, own in zip((self.train, self.val), (train, val), labels, strict=True):
            images = _Read(part, size, self.image_size is not None)
            for i in np.linspace(0, len(own) - 1, SAMPLED).astype(int).tolist():
                digest.update(images[i].numpy().tobytes())
            digest.update(np.array(own).tobytes())
            names = [f"{title} image {i}" for i in range(len(own))]
            splits.append(ClassSplit(images, own, names, self.flip, self.shift))
        return Data(self._called.lower(), classes, *splits, image_size=size, fingerprint=digest.hexdigest())


@dataclass(frozen=True)
class _Read(Sequence[Tensor]):
    """The images of torchvision's dataset object, made each time they are asked for."""

    part: Any
    size: tuple[int, int]
    scaled: bool

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index):  # type: ignore[no-untyped-def,override]
        image = self.part[index][0]
        if not self.scaled and (image.height, image.width) != self.size:
            raise CompressError("the images are not all of one size; say which with data.image_size")
        return fitted(image, self.size)


def _arguments(cls: Any) -> set[str]:
    return set(inspect.signature(cls.__init__).parameters)


def _labels(part: Any) -> list[int]:
    """The class number of every sample."""
    for attribute in ("targets", "labels", "_labels"):
        if hasattr(part, attribute):
            return [int(label) for label in getattr(part, attribute)]
    return [int(part[i][1]) for i in range(len(part))]


def _classes(part: Any, count: int) -> tuple[str, ...]:
    """The classes' names, where torchvision knows them; else their numbers."""
    named = tuple(map(str, getattr(part, "classes", ())))
    return named if len(named) >= count else tuple(map(str, range(count)))
