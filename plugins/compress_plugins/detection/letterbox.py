"""An image of any size in, the same image in a fixed frame out, with the map that takes its boxes along."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

GREY = 114  # what fills the frame beside the image


@dataclass(frozen=True)
class Placement:
    """Where the image lies in the frame, in pixels of the frame."""

    left: int
    top: int
    width: int
    height: int

    def place(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) xyxy in fractions of the image -> (n, 4) float32 xyxy in pixels of the frame."""
        size = np.array([self.width, self.height] * 2, np.float32)
        return boxes * size + np.array([self.left, self.top] * 2, np.float32)


def fit(width: int, height: int, frame: tuple[int, int]) -> Placement:
    """The largest centred place for a width x height image in a frame of (height, width) pixels."""
    scale = min(frame[0] / height, frame[1] / width)
    w = min(max(round(width * scale), 1), frame[1])
    h = min(max(round(height * scale), 1), frame[0])
    return Placement((frame[1] - w) // 2, (frame[0] - h) // 2, w, h)


def stretch(image: Tensor, frame: tuple[int, int]) -> tuple[Tensor, Placement]:
    """Image (3, h, w) uint8 -> (3, H, W) uint8 that fills the frame whatever its aspect, and where it lies: all over.

    Bilinear between neighbouring pixels even where it shrinks, as Darknet and OpenCV do it.
    """
    return F.resize(image, list(frame), antialias=False), Placement(0, 0, frame[1], frame[0])


def letterbox(image: Tensor, frame: tuple[int, int]) -> tuple[Tensor, Placement]:
    """Image (3, h, w) uint8 -> (3, H, W) uint8 with its aspect kept, grey beside it, and where it lies."""
    place = fit(image.shape[2], image.shape[1], frame)
    out = torch.full((3, *frame), GREY, dtype=torch.uint8)
    rows, columns = slice(place.top, place.top + place.height), slice(place.left, place.left + place.width)
    out[:, rows, columns] = F.resize(image, [place.height, place.width], antialias=True)
    return out, place
