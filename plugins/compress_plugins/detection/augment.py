"""An image with boxes and a random generator in, a mirrored, zoomed, shifted and recoloured one out."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from .letterbox import GREY

SMALLEST_SIDE = 2.0  # pixels; a thinner remainder shows nothing
SMALLEST_SHARE = 0.2  # of the box's area; a smaller remainder cannot be recognised
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


@dataclass(frozen=True)
class Augment:
    """How much a training image may change.

    flip: probability of mirroring. scale: the zoom is between 1 - scale and 1 + scale. translate: largest shift, a
    fraction of the image. hsv: largest hue rotation (a fraction of a turn), relative change of saturation and of value.
    mosaic: probability of being one of four in a mosaic. multi_scale: a batch's size is between 1 - multi_scale and
    1 + multi_scale of the frame's.
    """

    flip: float = 0.5
    scale: float = 0.3
    translate: float = 0.1
    hsv: tuple[float, float, float] = (0.015, 0.4, 0.3)
    mosaic: float = 0.0
    multi_scale: float = 0.0


def augment(
    image: Tensor, boxes: np.ndarray, how: Augment, rng: np.random.Generator
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Image (3, H, W) uint8 and boxes (n, 4) xyxy pixels -> image, boxes (m, 4), and which m of the n are left.

    The same number of random values is drawn whatever they decide, so a sample depends on its generator alone.
    """
    mirrored, zoom, shift_x, shift_y, *colour = rng.uniform(size=7)
    image, boxes = zoom_and_shift(
        image,
        boxes,
        zoom=1 + how.scale * (2 * zoom - 1),
        shift=(how.translate * (2 * shift_x - 1), how.translate * (2 * shift_y - 1)),
    )
    if mirrored < how.flip:
        image = F.horizontal_flip(image)
        boxes = np.stack([image.shape[2] - boxes[:, 2], boxes[:, 1], image.shape[2] - boxes[:, 0], boxes[:, 3]], 1)
    hue, saturation, value = (amount * (2 * c - 1) for amount, c in zip(how.hsv, colour, strict=True))
    image = recolour(image, hue, 1 + saturation, 1 + value)
    clipped, left = clip(boxes, (image.shape[1], image.shape[2]))
    return image, clipped, left


def zoom_and_shift(
    image: Tensor, boxes: np.ndarray, zoom: float, shift: tuple[float, float]
) -> tuple[Tensor, np.ndarray]:
    """Scale about the centre, then move by `shift` (x, y; fractions of the image); grey where nothing is left."""
    height, width = image.shape[1:]
    w, h = max(round(width * zoom), 1), max(round(height * zoom), 1)
    x = round((width - w) / 2 + shift[0] * width)
    y = round((height - h) / 2 + shift[1] * height)
    boxes = boxes * np.array([w / width, h / height] * 2, np.float32) + np.array([x, y] * 2, np.float32)
    if (w, h, x, y) == (width, height, 0, 0):
        return image, boxes
    # the window of the source that can be seen, in whole source pixels, and where it then lies
    x0, x1 = max(floor(-x * width / w), 0), min(ceil((width - x) * width / w), width)
    y0, y1 = max(floor(-y * height / h), 0), min(ceil((height - y) * height / h), height)
    out = torch.full_like(image, GREY)
    if x1 <= x0 or y1 <= y0:
        return out, boxes
    left, right = round(x + x0 * w / width), round(x + x1 * w / width)
    top, bottom = round(y + y0 * h / height), round(y + y1 * h / height)
    seen = F.resize(image[:, y0:y1, x0:x1], [max(bottom - top, 1), max(right - left, 1)], antialias=zoom < 1)
    rows = slice(max(top, 0), min(bottom, height))
    columns = slice(max(left, 0), min(right, width))
    out[:, rows, columns] = seen[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return out, boxes


def recolour(image: Tensor, hue: float, saturation: float, value: float) -> Tensor:
    """Rotate the hue by `hue` turns, scale saturation and brightness: one 3 x 3 matrix on the colours.

    The rotation is about the grey axis (the linear form of a change of hue), saturation is the distance from luma.
    """
    angle = 2 * np.pi * hue
    axis = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    rotation = np.cos(angle) * np.eye(3) + (1 - np.cos(angle)) * axis + np.sin(angle) * cross
    mix = saturation * np.eye(3) + (1 - saturation) * LUMA[None, :]
    matrix = torch.from_numpy((value * mix @ rotation).astype(np.float32))
    colours = matrix @ image.reshape(3, -1).float()  # (3, H, W) -> (3, H*W)
    return colours.add_(0.5).clamp_(0, 255).to(torch.uint8).view_as(image)


def clip(boxes: np.ndarray, frame: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) -> the (m, 4) that are still worth a label inside the (height, width) frame, and their indices."""
    height, width = frame
    inside = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    size, before = inside[:, 2:] - inside[:, :2], boxes[:, 2:] - boxes[:, :2]
    worth = (size.min(1, initial=np.inf) >= SMALLEST_SIDE) & (size.prod(1) >= SMALLEST_SHARE * before.prod(1))
    return inside[worth].astype(np.float32), np.flatnonzero(worth)
