"""Four images with their boxes and a random generator in, one image out that shows a part of each of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from .augment import clip
from .letterbox import GREY

CENTRE = (0.25, 0.75)
"""Where the four meet, a fraction of each side."""
ZOOM = (0.5, 1.0)
"""How large each of them is."""


def mosaic(
    images: Sequence[Tensor], boxes: Sequence[np.ndarray], rng: np.random.Generator
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Four images (3, H, W) uint8 and their boxes (n, 4) xyxy pixels -> one of that size around a random centre.

    The images meet at the centre, each with a corner and at a size of its own; what does not fit is cut off, what is
    left empty is grey. Returns the image, boxes (m, 4), and which m of all boxes, in order, are left.
    Source: Bochkovskiy et al., YOLOv4 (2020), section 3.3.
    """
    height, width = images[0].shape[1:]
    x, y = (round(side * share) for side, share in zip((width, height), rng.uniform(*CENTRE, size=2), strict=True))
    out, moved = torch.full_like(images[0], GREY), []
    for place, (image, own, zoom) in enumerate(zip(images, boxes, rng.uniform(*ZOOM, size=4), strict=True)):
        w, h = max(round(width * zoom), 1), max(round(height * zoom), 1)
        left, top = x - (w if place % 2 == 0 else 0), y - (h if place < 2 else 0)
        rows, columns = slice(max(top, 0), min(top + h, height)), slice(max(left, 0), min(left + w, width))
        small = F.resize(image, [h, w], antialias=True)
        out[:, rows, columns] = small[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        moved.append(own * np.array([w / width, h / height] * 2, np.float32) + np.array([left, top] * 2, np.float32))
    return out, *clip(np.concatenate(moved), (height, width))
