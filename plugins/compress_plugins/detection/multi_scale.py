"""A training batch and a random generator in, the same batch at another size out."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import interpolate

STRIDE = 32
"""Sides are multiples of it: a detector's network halves them five times."""


def rescale(
    images: Tensor, targets: list[dict[str, Any]], spread: float, rng: np.random.Generator
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Images (B, 3, H, W) and their boxes at 1 - spread to 1 + spread of their size, sides multiples of 32.

    Source: Redmon, Farhadi, YOLO9000 (CVPR 2017), section 2, "Multi-Scale Training".
    """
    height, width = images.shape[2:]
    factor = rng.uniform(1 - spread, 1 + spread)
    h, w = (max(round(side * factor / STRIDE), 1) * STRIDE for side in (height, width))
    if (h, w) == (height, width):
        return images, targets
    grown = images.new_tensor([w / width, h / height] * 2)
    images = interpolate(images, (h, w), mode="bilinear", antialias=factor < 1)
    return images, [{**target, "boxes": target["boxes"] * grown} for target in targets]
