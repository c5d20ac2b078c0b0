"""Framed images and their boxes in memory in, samples by index out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress import CompressError, Dataset

from .augment import Augment, augment
from .letterbox import letterbox
from .mosaic import mosaic
from .multi_scale import STRIDE, rescale


@dataclass(frozen=True)
class DetectionSplit:
    """A split whose sample is a function of (index, generator) and nothing else.

    images: n images (3, H, W) uint8, in memory or decoded when asked for. boxes: n arrays (m, 4) float32 xyxy pixels of
    (H, W). labels: n arrays (m,) int64. names: the images' names. subsets: the part of the data that each belongs to.
    """

    images: Sequence[Tensor] | Tensor
    boxes: Sequence[np.ndarray]
    labels: Sequence[np.ndarray]
    names: Sequence[str]
    subsets: Sequence[str | None]
    how: Augment

    def __len__(self) -> int:
        return len(self.names)

    def sample(self, index: int, rng: np.random.Generator | None) -> tuple[Tensor, dict[str, Any]]:
        """(image (3, H, W) uint8, {"boxes", "labels", "subset", "id"}); augmented where there is a generator.

        Without one every box is there, however small it has become: what is evaluated must not depend on the size.
        """
        image, boxes, labels = self.images[index].clone(), self.boxes[index].copy(), self.labels[index]
        if rng is not None:
            if self.how.mosaic and rng.uniform() < self.how.mosaic:
                chosen = [index, *rng.integers(len(self), size=3)]
                image, boxes, left = mosaic([self.images[i] for i in chosen], [self.boxes[i] for i in chosen], rng)
                labels = np.concatenate([self.labels[i] for i in chosen])[left]
            image, boxes, left = augment(image, boxes, self.how, rng)
            labels = labels[left]
        return image, {
            "boxes": torch.from_numpy(boxes),
            "labels": torch.from_numpy(labels.copy()),
            "subset": self.subsets[index],
            "id": self.names[index],
        }

    def collate(self, samples: list[tuple[Tensor, Any]]) -> tuple[Tensor, list[dict[str, Any]]]:
        """Images (B, 3, H, W) float32 in [0, 1] and the B targets."""
        images = torch.stack([image for image, _ in samples])
        return images.float().div_(255), [target for _, target in samples]

    def vary(
        self, images: Tensor, targets: list[dict[str, Any]], rng: np.random.Generator
    ) -> tuple[Tensor, list[dict[str, Any]]]:
        """A training batch and its boxes at a size of its own, where the split is multi-scale."""
        return rescale(images, targets, self.how.multi_scale, rng) if self.how.multi_scale else (images, targets)


class DetectionDataset(Dataset):
    """What every detection dataset lets its user choose."""

    image_size: int | tuple[int, int] = 416
    """Pixels of the square (or the height and width) that every image is fitted into; multiples of 32."""
    flip: float = 0.5
    """Probability that a training image is mirrored."""
    scale: float = 0.3
    """A training image is zoomed by 1 - scale to 1 + scale."""
    translate: float = 0.1
    """Largest shift of a training image, a fraction of its size."""
    hsv: tuple[float, float, float] = (0.015, 0.4, 0.3)
    """Largest change of hue (fraction of a turn), of saturation and of brightness (relative)."""
    mosaic: float = 0.0
    """Probability that a training image is put together of four."""
    multi_scale: float = 0.0
    """Each training batch is 1 - multi_scale to 1 + multi_scale times as large as image_size, in multiples of 32."""

    def __post_init__(self) -> None:
        """Raises CompressError where an option has no meaning."""
        for side in self.frame():
            if side < STRIDE or side % STRIDE:
                raise CompressError(
                    f"image_size: {side} is no multiple of {STRIDE}, and the network halves every side five times; "
                    f"try {max(round(side / STRIDE), 1) * STRIDE}"
                )
        limits = {"flip": self.flip, "scale": self.scale, "translate": self.translate}
        limits |= {"mosaic": self.mosaic, "multi_scale": self.multi_scale}
        limits |= dict(zip(("hsv (hue)", "hsv (saturation)", "hsv (value)"), self.hsv, strict=True))
        for option, value in limits.items():
            if not 0 <= value <= 1 or (option in ("scale", "multi_scale") and value == 1):
                raise CompressError(f"{option}: {value} is not between 0 and 1")

    def frame(self) -> tuple[int, int]:
        """(height, width) of every sample."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    def fit(self, picture: np.ndarray) -> tuple[Tensor, tuple[int, int, int, int]]:
        """The picture whole inside the frame, grey beside it."""
        image, place = letterbox(torch.from_numpy(picture).permute(2, 0, 1), self.frame())  # (h, w, 3) -> (3, H, W)
        return image, (place.left, place.top, place.width, place.height)

    def how(self) -> Augment:
        return Augment(self.flip, self.scale, self.translate, self.hsv, self.mosaic, self.multi_scale)
