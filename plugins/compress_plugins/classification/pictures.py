"""Image files or PIL images in, uint8 tensors of one size out."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
"""What Pillow raises on broken files."""


def fitted(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """(3, H, W) uint8: the image's largest centred part of that (height, width) aspect, scaled to it."""
    image = image.convert("RGB")
    if (image.height, image.width) != size:
        image = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()  # (H, W, 3) -> (3, H, W)


def read(path: Path, size: tuple[int, int]) -> Tensor:
    """One file, turned as its EXIF says; a large JPEG is decoded at a scale near the size. Raises one of UNREADABLE."""
    with Image.open(path) as image:
        image.draft("RGB", (2 * size[1], 2 * size[0]))
        return fitted(ImageOps.exif_transpose(image), size)
