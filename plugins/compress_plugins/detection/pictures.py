"""Image files in, framed uint8 tensors out."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from compress import CompressError

from .letterbox import Placement, letterbox, stretch

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
"""What Pillow raises on broken files."""
Resize = Literal["letterbox", "stretch"]
"""How an image gets into its frame: whole, with grey beside it, or as large as the frame, its aspect lost."""
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)
"""EXIF's tag, and its values that swap width and height."""


@dataclass(frozen=True)
class Picture:
    """An image file. size: (width, height) that its annotation speaks of, None where that says nothing about it."""

    path: Path
    size: tuple[int, int] | None = None


def decode(picture: Picture, frame: tuple[int, int], resize: Resize = "letterbox") -> tuple[Tensor, Placement]:
    """One file -> (3, H, W) uint8 inside the frame, and where the image lies in it.

    The image is turned as its EXIF says, unless it was annotated as it lies in the file. A large JPEG is decoded at the
    smallest of its own scales that is still twice the frame. Raises one of UNREADABLE.
    """
    with Image.open(picture.path) as image:
        lying = image.getexif().get(ORIENTATION) in SIDEWAYS and picture.size == image.size
        image.draft("RGB", (2 * max(frame), 2 * max(frame)))
        pixels = np.array((image if lying else ImageOps.exif_transpose(image)).convert("RGB"))
    return put(pixels, frame, resize)


def put(pixels: np.ndarray, frame: tuple[int, int], resize: Resize) -> tuple[Tensor, Placement]:
    """A picture (h, w, 3) uint8 -> (3, H, W) uint8 in the frame, and where it lies there."""
    fitted = stretch if resize == "stretch" else letterbox
    return fitted(torch.from_numpy(pixels).permute(2, 0, 1), frame)  # (h, w, 3) -> (3, H, W)


def decode_all(
    pictures: Sequence[Picture], frame: tuple[int, int], resize: Resize, keep: bool
) -> list[tuple[Tensor | None, Placement] | None]:
    """Every file decoded once: None where that is impossible; the pixels only where they are to be kept."""

    def attempt(picture: Picture) -> tuple[Tensor | None, Placement] | None:
        try:
            image, place = decode(picture, frame, resize)
        except UNREADABLE:
            return None
        return (image if keep else None), place

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow and torch release the GIL
        return list(pool.map(attempt, pictures))


@dataclass(frozen=True)
class OnDisk(Sequence[Tensor]):
    """Images that are decoded each time they are asked for."""

    pictures: tuple[Picture, ...]
    frame: tuple[int, int]
    resize: Resize

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index):  # type: ignore[no-untyped-def,override]
        try:
            return decode(self.pictures[index], self.frame, self.resize)[0]
        except UNREADABLE as error:
            raise CompressError(
                f"{self.pictures[index].path}: could be read when the data was opened, and cannot now ({error}); "
                "check the disk, then resume the run"
            ) from error
