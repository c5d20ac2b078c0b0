"""Image files and what is annotated in them in, an opened data set out: what all data sets on disk have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import Tensor

from compress import CompressError, Data

from .letterbox import Placement, fit
from .pictures import OnDisk, Picture, Resize, decode_all, put
from .problems import Problems
from .split import DetectionDataset, DetectionSplit

ROUNDING = 0.01  # a box may pass the image's edge by this fraction before it counts as a mistake
MOST_SUBSETS = 8


@dataclass(frozen=True)
class Annotated:
    """An image file and the boxes in it.

    boxes: (n, 4) float32 xyxy, fractions of the image. labels: (n,) int64. text: the annotation as it is on disk.
    """

    picture: Picture
    boxes: np.ndarray
    labels: np.ndarray
    text: bytes


@dataclass(frozen=True)
class Annotations:
    """What a data set says before any image was looked at: class names by number, and the images of both splits."""

    classes: tuple[str, ...]
    train: Sequence[Annotated]
    val: Sequence[Annotated]


class FolderDataset(DetectionDataset):
    """Images and annotations on disk; a subclass says how to read the annotations of its format."""

    root: Path
    """The folder that holds it all."""
    resize: Resize = "letterbox"
    """How an image gets into its frame: `letterbox` keeps its aspect, with grey beside it; `stretch` does not."""
    cache: bool = True
    """Keep the fitted images in memory, image_size * image_size * 3 bytes each; otherwise decode them every time."""

    named_subsets: ClassVar[bool] = False
    """Whether the prefixes of the images' names are parts of the data to be scored apart."""

    def fit(self, picture: np.ndarray) -> tuple[Tensor, tuple[int, int, int, int]]:
        """The picture in the frame as `resize` says."""
        image, place = put(picture, self.frame(), self.resize)
        return image, (place.left, place.top, place.width, place.height)

    def read(self, problems: Problems) -> Annotations:
        """Read every annotation; what is wrong and survived goes to `problems`.

        Raises CompressError where what the format needs is missing or cannot be understood at all.
        """
        raise NotImplementedError

    def open(self) -> Data:
        """Read everything once; a data set that speaks of no training images at all is good to evaluate on.

        Raises CompressError where the data is missing or wrong, or none of a split's images can be read.
        """
        missing = self.available()
        if missing:
            raise CompressError(missing)
        problems = Problems()
        found = self.read(problems)
        train, val = _decode("train", self, found.train, problems), _decode("val", self, found.val, problems)
        seen = {int(label) for labels in train.labels for label in labels}
        for number, name in enumerate(found.classes):
            problems.add("classes have no box to train on", name, times=bool(found.train) and number not in seen)
        subsets = find_subsets([*train.names, *val.names]) if self.named_subsets else ()
        return Data(
            name=self.root.resolve().stem if self.root.is_file() else self.root.resolve().name,
            classes=found.classes,
            train=train.split(subsets, self),
            val=val.split(subsets, self),
            image_size=self.frame(),
            fingerprint=_fingerprint(found.classes, train, val),
            subsets=subsets,
            problems=problems.lines(),
        )


def inside(
    boxes: Sequence[np.ndarray], labels: Sequence[int], name: str, problems: Problems
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of an image, each (4,) xyxy in fractions of it -> those with an area inside, clipped, and their labels.

    Returns (m, 4) float32 and (m,) int64. name: what to call the file where a box is wrong.
    """
    given = np.array(boxes, np.float64).reshape(-1, 4)
    clipped = np.clip(given, 0, 1)
    flat = (clipped[:, 2:] <= clipped[:, :2]).any(1)
    beyond = np.abs(clipped - given).max(1, initial=0) > ROUNDING
    problems.add("boxes have no area inside the image and are left out", name, int(flat.sum()))
    problems.add("boxes reach outside their image and are clipped", name, int((beyond & ~flat).sum()))
    return clipped[~flat].astype(np.float32), np.array(labels, np.int64)[~flat]


def find_subsets(names: Sequence[str]) -> tuple[str, ...]:
    """The prefixes before "_", sorted, where two to eight of them cover every name; else none."""
    prefixes = {name.partition("_")[0] if "_" in name else "" for name in names}
    return tuple(sorted(prefixes)) if "" not in prefixes and 2 <= len(prefixes) <= MOST_SUBSETS else ()


@dataclass(frozen=True)
class _Decoded:
    """The images of a split that can be read: pixels, name, boxes and labels of each; a digest of all its files."""

    images: Sequence[Tensor]
    names: tuple[str, ...]
    boxes: tuple[np.ndarray, ...]
    labels: tuple[np.ndarray, ...]
    digest: bytes

    def split(self, subsets: tuple[str, ...], how: DetectionDataset) -> DetectionSplit:
        parts = tuple(name.partition("_")[0] if subsets else None for name in self.names)
        return DetectionSplit(self.images, self.boxes, self.labels, self.names, parts, how.how())


def _decode(split: str, how: FolderDataset, images: Sequence[Annotated], problems: Problems) -> _Decoded:
    frame, digest = how.frame(), hashlib.sha256()
    kept: list[tuple[Annotated, Tensor | None, Placement]] = []
    pictures = [each.picture for each in images]
    for each, decoded in zip(images, decode_all(pictures, frame, how.resize, keep=how.cache), strict=True):
        path = each.picture.path
        there = path.is_file()
        size = path.stat().st_size if there else -1
        digest.update(f"{split}/{path.name}\0{size}\0{len(each.text)}\0".encode() + each.text)
        if decoded is None:
            problems.add(f"images {'cannot be read' if there else 'are missing'} and are left out", path.name)
            continue
        image, place = decoded
        shape = None if how.resize == "stretch" else each.picture.size
        if shape is not None and not _alike(fit(*shape, frame), place):
            problems.add("images have another shape than their annotation says; their boxes may be off", path.name)
        kept.append((each, image, place))
    if not kept and (images or split == "val"):
        example = f", e.g. {pictures[0].path}" if pictures else ""
        raise CompressError(f"{how.root}: {split}: none of the {len(images)} images can be read{example}")
    pixels = [image for _, image, _ in kept if image is not None]
    return _Decoded(
        images=pixels if how.cache else OnDisk(tuple(each.picture for each, *_ in kept), frame, how.resize),
        names=tuple(each.picture.path.name for each, *_ in kept),
        boxes=tuple(place.place(each.boxes) for each, _, place in kept),
        labels=tuple(each.labels for each, *_ in kept),
        digest=digest.digest(),
    )


def _alike(one: Placement, other: Placement) -> bool:
    """Whether two places in the frame are the same but for rounding."""
    return abs(one.width - other.width) <= 1 and abs(one.height - other.height) <= 1


def _fingerprint(classes: tuple[str, ...], *splits: _Decoded) -> str:
    """sha256 over the classes and each split's sorted names, file sizes and annotations."""
    return hashlib.sha256("\0".join(classes).encode() + b"".join(s.digest for s in splits)).hexdigest()
