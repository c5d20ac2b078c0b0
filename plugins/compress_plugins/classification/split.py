"""Images of one size and their classes in, samples by index out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from compress import Dataset


@dataclass(frozen=True)
class ClassSplit:
    """A split whose sample is a function of (index, generator) and nothing else.

    images: n images (3, H, W) uint8, in memory or decoded when asked for. labels: n class numbers. names: what the
    images are called. flip: probability of mirroring. shift: largest shift, a fraction of each side.
    """

    images: Sequence[Tensor] | Tensor
    labels: Sequence[int]
    names: Sequence[str]
    flip: float
    shift: float

    def __len__(self) -> int:
        return len(self.labels)

    def sample(self, index: int, rng: np.random.Generator | None) -> tuple[Tensor, dict[str, Any]]:
        """(image (3, H, W) uint8, {"label", "id"}); mirrored and shifted where there is a generator."""
        image = self.images[index]
        if rng is not None:
            mirrored, down, right = rng.uniform(size=3)
            image = shifted(image, self.shift * (2 * down - 1), self.shift * (2 * right - 1))
            image = image.flip(2) if mirrored < self.flip else image
        return image, {"label": int(self.labels[index]), "id": self.names[index]}

    def collate(self, samples: list[tuple[Tensor, Any]]) -> tuple[Tensor, list[dict[str, Any]]]:
        """Images (B, 3, H, W) float32 in [0, 1] and the B targets."""
        images = torch.stack([image for image, _ in samples])
        return images.float().div_(255), [target for _, target in samples]


def shifted(image: Tensor, down: float, right: float) -> Tensor:
    """Image (3, H, W) moved by fractions of its sides, in whole pixels, black where nothing is left.

    The same as a random crop of the padded image (He et al., CVPR 2016, section 4.2).
    """
    height, width = image.shape[1:]
    y, x = round(down * height), round(right * width)
    out = torch.zeros_like(image)
    rows, columns = slice(max(y, 0), height + min(y, 0)), slice(max(x, 0), width + min(x, 0))
    out[:, rows, columns] = image[:, rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
    return out


class ClassDataset(Dataset):
    """What every classification dataset lets its user choose."""

    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability that a training image is mirrored."""
    shift: Annotated[float, Field(ge=0, lt=1)] = 0.125
    """Largest shift of a training image, a fraction of its size; what is left empty is black."""
