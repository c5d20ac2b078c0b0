"""Raw head maps in, one flat list of predicted boxes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

MAX_LOG_SIZE = 8.0
"""Raw sizes are cut here, both ways: 3,000 times an anchor is no box, and an infinite or empty one has no gradient."""

TINY = 1e-6
"""Where sigmoids are cut, both ways, before their logits are taken."""


class Head(Protocol):
    """What the network says about one of its outputs.

    anchors: (width, height) in input pixels, A of them. ignore_thresh: predictions that overlap a truth by more are no
    negatives. scale_x_y: how far a centre may leave its cell (1: not at all; YOLOv4, 2020). new_coords: the network has
    taken the sigmoid of its map already, and says half the root of a size (Scaled-YOLOv4, 2021).
    """

    @property
    def anchors(self) -> Sequence[tuple[float, float]]: ...
    @property
    def classes(self) -> int: ...
    @property
    def ignore_thresh(self) -> float: ...
    @property
    def scale_x_y(self) -> float: ...
    @property
    def new_coords(self) -> bool: ...


@dataclass(frozen=True)
class Slots:
    """The N places an image's predictions live in: heads in order, then anchors, then rows, then columns.

    cell, stride, anchor: (N, 2) in (x, y) order; cells counted from 0, strides and anchors in pixels.
    scale: (N, 1) scale_x_y. ignore: (N,) ignore_thresh.
    Per anchor, K = sum of the heads' A: shapes (K, 2) pixels, first (K,) its first slot, grid (K, 2) columns and rows,
    pitch (K, 2) its stride.
    """

    cell: Tensor
    stride: Tensor
    anchor: Tensor
    scale: Tensor
    ignore: Tensor
    shapes: Tensor
    first: Tensor
    grid: Tensor
    pitch: Tensor

    def __len__(self) -> int:
        return len(self.cell)


@dataclass(frozen=True)
class Predictions:
    """All predictions for a batch of B images, in the order of `slots`.

    boxes: (B, N, 4) xyxy input pixels. objectness: (B, N) logits. classes: (B, N, C) logits.
    """

    boxes: Tensor
    objectness: Tensor
    classes: Tensor
    slots: Slots


def decode(maps: Sequence[Tensor], heads: Sequence[Head], image_size: tuple[int, int]) -> Predictions:
    """Boxes from raw maps: centre (sigmoid(t) * s - (s - 1) / 2 + cell) * stride, size anchor * exp(t).

    maps: one (B, A * (5 + C), h, w) a head, each anchor's 5 + C channels being x, y, w, h, objectness, classes.
    image_size: (height, width) of the input in pixels; strides are its ratio to the maps', so it need not be square.
    Always in float32. Source: YOLOv3 (Redmon, Farhadi, 2018, section 2.1); s is scale_x_y. Maps with new_coords are
    turned into what a YOLOv3 would have said first.
    """
    slots = lay_out(tuple((m.shape[-2], m.shape[-1]) for m in maps), heads, image_size, maps[0].device)
    raw = torch.cat([_flat(m, h) for m, h in zip(maps, heads, strict=True)], 1)  # (B, N, 5 + C)
    centre = (raw[..., 0:2].sigmoid() * slots.scale - (slots.scale - 1) / 2 + slots.cell) * slots.stride
    half = slots.anchor * raw[..., 2:4].clamp(-MAX_LOG_SIZE, MAX_LOG_SIZE).exp() / 2
    return Predictions(torch.cat((centre - half, centre + half), -1), raw[..., 4], raw[..., 5:], slots)


def lay_out(
    grids: tuple[tuple[int, int], ...], heads: Sequence[Head], image_size: tuple[int, int], device: torch.device
) -> Slots:
    """The slots of heads whose maps have the given (rows, columns)."""
    cell, stride, anchor, scale, ignore = [], [], [], [], []
    shapes, first, grid, pitch = [], [], [], []
    start = 0
    for (h, w), head in zip(grids, heads, strict=True):
        a, step = len(head.anchors), (image_size[1] / w, image_size[0] / h)
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        n = a * h * w
        sizes = torch.tensor(head.anchors, dtype=torch.float32)
        cell.append(torch.stack((x, y), -1).float().reshape(1, h * w, 2).expand(a, -1, -1).reshape(n, 2))
        stride.append(torch.tensor(step).expand(n, 2))
        anchor.append(sizes.repeat_interleave(h * w, 0))
        scale.append(torch.full((n, 1), float(head.scale_x_y)))
        ignore.append(torch.full((n,), float(head.ignore_thresh)))
        shapes.append(sizes)
        first.append(start + h * w * torch.arange(a))
        grid.append(torch.tensor((w, h)).expand(a, 2))
        pitch.append(torch.tensor(step).expand(a, 2))
        start += n
    parts = (cell, stride, anchor, scale, ignore, shapes, first, grid, pitch)
    return Slots(*(torch.cat(p).to(device) for p in parts))


def _flat(raw: Tensor, head: Head) -> Tensor:
    b, c, h, w = raw.shape
    a = len(head.anchors)
    flat = raw.reshape(b, a, c // a, h * w).transpose(2, 3).reshape(b, a * h * w, c // a).float()
    return _as_yolov3(flat) if head.new_coords else flat


def _as_yolov3(squashed: Tensor) -> Tensor:
    """(B, N, 5 + C) sigmoids -> the logits and log sizes that give the same boxes: 4 p^2 = exp(2 log 2p)."""
    logits, sizes = squashed.logit(TINY), 2 * (2 * squashed[..., 2:4].clamp(min=TINY)).log()
    return torch.cat((logits[..., :2], sizes, logits[..., 4:]), -1)
