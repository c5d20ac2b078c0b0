"""Image files in, framed uint8 tensors out."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from compress import CompressError

from .letterbox import Placement, letterbox

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
"""What Pillow raises on broken files."""


def decode(path: Path, frame: tuple[int, int]) -> tuple[Tensor, Placement]:
    """One file -> (3, H, W) uint8 inside the frame, turned as its EXIF says, and where the image lies in it.

    A large JPEG is decoded at the smallest of its own scales that is still twice the frame. Raises one of UNREADABLE.
    """
    with Image.open(path) as image:
        image.draft("RGB", (2 * max(frame), 2 * max(frame)))
        pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    return letterbox(torch.from_numpy(pixels).permute(2, 0, 1), frame)  # (h, w, 3) -> (3, H, W)


def decode_all(
    paths: Sequence[Path], frame: tuple[int, int], keep: bool
) -> list[tuple[Tensor | None, Placement] | None]:
    """Every file decoded once: None where that is impossible; the pixels only where they are to be kept."""

    def attempt(path: Path) -> tuple[Tensor | None, Placement] | None:
        try:
            image, place = decode(path, frame)
        except UNREADABLE:
            return None
        return (image if keep else None), place

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow and torch release the GIL
        return list(pool.map(attempt, paths))


@dataclass(frozen=True)
class OnDisk(Sequence[Tensor]):
    """Images that are decoded each time they are asked for."""

    paths: tuple[Path, ...]
    frame: tuple[int, int]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index):  # type: ignore[no-untyped-def,override]
        try:
            return decode(self.paths[index], self.frame)[0]
        except UNREADABLE as error:
            raise CompressError(
                f"{self.paths[index]}: could be read when the data was opened, and cannot now ({error}); "
                "check the disk, then resume the run"
            ) from error
