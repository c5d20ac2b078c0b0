"""Truths in, the raw maps of a network that would have found them exactly out: YOLOv3's equations, in plain Python."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SURE = 20.0  # a logit whose sigmoid is 1 within 2e-9


@dataclass(frozen=True)
class Head:
    anchors: tuple[tuple[float, float], ...]
    classes: int
    ignore_thresh: float = 0.7
    scale_x_y: float = 1.0
    new_coords: bool = False


YOLOV3 = (
    ((116, 90), (156, 198), (373, 326)),
    ((30, 61), (62, 45), (59, 119)),
    ((10, 13), (16, 30), (33, 23)),
)
STRIDES = (32, 16, 8)


def heads(classes: int = 1, scale: float = 0.5, scale_x_y: float = 1.0) -> tuple[Head, ...]:
    """YOLOv3's three heads with their anchors scaled."""
    return tuple(Head(tuple((w * scale, h * scale) for w, h in three), classes, 0.7, scale_x_y) for three in YOLOV3)


def blank(heads: tuple[Head, ...], images: int, size: tuple[int, int]) -> list[Tensor]:
    """Maps that find nothing: objectness surely 0, boxes their anchors."""
    maps = []
    for head, stride in zip(heads, STRIDES, strict=True):
        raw = torch.zeros(images, len(head.anchors), 5 + head.classes, size[0] // stride, size[1] // stride)
        raw[:, :, 4] = -SURE
        maps.append(raw.flatten(1, 2))
    return maps


def shape_iou(box: list[float], anchor: tuple[float, float]) -> float:
    w, h = box[2] - box[0], box[3] - box[1]
    overlap = min(w, anchor[0]) * min(h, anchor[1])
    return overlap / (w * h + anchor[0] * anchor[1] - overlap)


def write(
    maps: list[Tensor], heads: tuple[Head, ...], image: int, box: list[float], label: int, where: tuple[int, int]
) -> tuple[int, int]:
    """Put a truth into one image's maps at (head, anchor), in the cell of its centre; the (row, column)."""
    head, stride = heads[where[0]], STRIDES[where[0]]
    raw = maps[where[0]]
    cx, cy, w, h = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]
    column = min(int(cx / stride), raw.shape[3] - 1)
    row = min(int(cy / stride), raw.shape[2] - 1)
    first = where[1] * (5 + head.classes)
    anchor = head.anchors[where[1]]
    values = [
        unsquash(cx / stride - column, head.scale_x_y),
        unsquash(cy / stride - row, head.scale_x_y),
        math.log(w / anchor[0]),
        math.log(h / anchor[1]),
        SURE,
        *(SURE if c == label else -SURE for c in range(head.classes)),
    ]
    with torch.no_grad():
        raw[image, first : first + 5 + head.classes, row, column] = torch.tensor(values)
    return row, column


def unsquash(fraction: float, scale: float) -> float:
    """t with sigmoid(t) * scale - (scale - 1) / 2 == fraction, as near as a finite t comes."""
    p = min(max((fraction + (scale - 1) / 2) / scale, 1e-7), 1 - 1e-7)
    return math.log(p / (1 - p))


def by_fit(heads: tuple[Head, ...], box: list[float]) -> list[tuple[int, int]]:
    """Every (head, anchor), the one whose shape overlaps the box's most first."""
    places = [(h, a) for h, head in enumerate(heads) for a in range(len(head.anchors))]
    return sorted(places, key=lambda p: -shape_iou(box, heads[p[0]].anchors[p[1]]))


def best_anchor(heads: tuple[Head, ...], box: list[float]) -> tuple[int, int]:
    return by_fit(heads, box)[0]


def target(boxes: list[list[float]], labels: list[int] | None = None, subset: str | None = None) -> dict:
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels if labels is not None else [0] * len(boxes), dtype=torch.int64),
        "subset": subset,
        "id": "x",
    }


class Fixed(nn.Module):
    """A network whose output is the maps it was given, whatever the images."""

    def __init__(self, heads: tuple[Head, ...], maps: list[Tensor]) -> None:
        super().__init__()
        self.heads = heads
        self.maps = nn.ParameterList([nn.Parameter(m) for m in maps])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.maps)
