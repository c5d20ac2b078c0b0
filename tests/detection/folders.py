"""What the detection tests draw: pictures with rectangles of one colour, as YOLO folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

RED = (255, 0, 0)


def rectangle(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    """A blue picture with a red rectangle, box = x0, y0, x1, y1 in pixels."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 2] = 200
    pixels[box[1] : box[3], box[0] : box[2]] = RED
    return Image.fromarray(pixels)


def line(width: int, height: int, box: tuple[float, float, float, float], label: int = 0) -> str:
    """The label line of a box in pixels."""
    x0, y0, x1, y1 = box
    return f"{label} {(x0 + x1) / 2 / width} {(y0 + y1) / 2 / height} {(x1 - x0) / width} {(y1 - y0) / height}\n"


def red_box(image: np.ndarray) -> np.ndarray:
    """(4,) xyxy of the pixels of a (3, H, W) uint8 image that are more red than blue."""
    red = image[0].astype(int) - image[2] > 0
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def write_folder(root: Path, n: int = 3, size: tuple[int, int] = (90, 60)) -> Path:
    """A YOLO folder of n training and n validation pictures (width, height), one red rectangle each."""
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for i in range(n):
            box = (20 + i, 10, 50, 30 + i)
            rectangle(*size, box).save(root / "images" / split / f"{split}{i}.png")
            (root / "labels" / split / f"{split}{i}.txt").write_text(line(*size, box))
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnc: 1\nnames: [thing]\n")
    return root
