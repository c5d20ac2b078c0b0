"""Two splits of images in, the validation images that were trained on - as near-duplicates - out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .dataset import Data, Split

CELLS = 16
"""Rows of the grid that an image's hash looks at; it has CELLS * CELLS bits."""
CLOSE = 24
"""Most bits that may differ. Copies that were re-encoded, halved, lit or toned otherwise differed by 0 to 24 bits of
256, a cut of 2% at every side by 6 to 37; no two of COCO's 128 first validation images by less than 42."""
NAMED = 3
BLOCK = 512


@dataclass(frozen=True)
class Leak:
    """A validation image and the training image that is most like it. distance: bits of 256 in which they differ."""

    val: str
    train: str
    distance: int


def find_leaks(data: Data, progress: Callable[[int], None] | None = None) -> tuple[Leak, ...]:
    """The validation images that look like a training image, the closest first.

    Compared are difference hashes (N. Krawetz, 'Kind of like that', 2013) of 256 bits: whether each cell of a 16 x 17
    grid of the image's mean grey is darker than the next. Every figure measured on an image that was trained on is too
    good. progress: is told after each image that it was looked at.
    """
    if not len(data.train):
        return ()
    names, hashes = zip(*(_look(split, progress) for split in (data.val, data.train)), strict=True)
    found = []
    for start in range(0, len(names[0]), BLOCK):
        differ = np.bitwise_count(hashes[0][start : start + BLOCK, None] ^ hashes[1][None]).sum(2)  # (n, 4) -> (n, m)
        nearest = differ.argmin(1)
        for row in np.flatnonzero(differ.min(1) <= CLOSE):
            column = nearest[row]
            found.append(Leak(names[0][start + row], names[1][column], int(differ[row, column])))
    return tuple(sorted(found, key=lambda leak: (leak.distance, leak.val)))


def leak_lines(leaks: tuple[Leak, ...]) -> tuple[str, ...]:
    """What to say about them: one line that names the closest, none where there are none."""
    if not leaks:
        return ()
    named = ", ".join(f"{leak.val} and {leak.train}" for leak in leaks[:NAMED])
    more = f" and {len(leaks) - NAMED} more" if len(leaks) > NAMED else ""
    images = f"{len(leaks)} validation images look" if len(leaks) > 1 else "1 validation image looks"
    return (f"{images} like a training image, so results will be too good: {named}{more}; move one of each pair",)


def difference_hash(images: Tensor) -> np.ndarray:
    """Images (B, 3, H, W) -> (B, 4) uint64, 256 bits each: is a cell of the grid darker than the one to its right?"""
    grey = images.float().mean(1, keepdim=True)
    cells = functional.adaptive_avg_pool2d(grey, (CELLS, CELLS + 1))[:, 0]  # (B, 1, H, W) -> (B, 16, 17)
    darker = (cells[:, :, 1:] > cells[:, :, :-1]).flatten(1).numpy()  # -> (B, 256)
    return np.packbits(darker, axis=1).view(np.uint64)


def _look(split: Split, progress: Callable[[int], None] | None) -> tuple[list[str], np.ndarray]:
    """Name and hash of every image of a split, not augmented."""
    names, hashes = [], []
    for index in range(len(split)):
        image, target = split.sample(index, None)
        names.append(_name(target, index))
        hashes.append(difference_hash(torch.as_tensor(image)[None])[0])
        if progress is not None:
            progress(1)
    return names, np.array(hashes, np.uint64).reshape(-1, CELLS * CELLS // 64)


def _name(target: Any, index: int) -> str:
    """The image's own name where its target holds one."""
    return str(target["id"]) if isinstance(target, dict) and "id" in target else f"image {index}"
