"""Truth boxes in, the predictions that must find them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .predictions import Slots


@dataclass(frozen=True)
class Truths:
    """All M boxes of a batch in one list: boxes (M, 4) xyxy pixels, labels (M,), image (M,) index in the batch."""

    boxes: Tensor
    labels: Tensor
    image: Tensor

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class Positives:
    """Which prediction answers for which truth: image, slot and truth, each (P,). No (image, slot) occurs twice."""

    image: Tensor
    slot: Tensor
    truth: Tensor


def gather(targets: Sequence[Mapping[str, Any]], device: torch.device) -> Truths:
    """One list out of a batch's targets ("boxes" (n, 4), "labels" (n,)); boxes without area are left out."""
    counts = torch.tensor([len(t["boxes"]) for t in targets], dtype=torch.int64)
    image = torch.arange(len(targets)).repeat_interleave(counts).to(device)
    boxes = torch.cat([t["boxes"].reshape(-1, 4) for t in targets]).to(device, torch.float32)
    labels = torch.cat([t["labels"].reshape(-1) for t in targets]).to(device)
    solid = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
    return Truths(boxes[solid], labels[solid], image[solid])


def assign(truths: Truths, slots: Slots, extra_iou: float) -> Positives:
    """Give every truth the slot of its best anchor, and those of further anchors that fit it better than `extra_iou`.

    An anchor's fit is the IoU of its shape with the truth's, both centred alike; the slot is the one in the cell of the
    truth's centre (the last cell for a centre on the far border). Where several truths want one slot the best fit has
    it, and the others take their next best anchor: a truth is left out only where all K slots of its cells are taken.
    Source: YOLOv3 (2018, section 2.1), best anchor; YOLOv4's `iou_thresh` (2020), further anchors.
    """
    size = truths.boxes[:, 2:] - truths.boxes[:, :2]  # (M, 2)
    centre = (truths.boxes[:, 2:] + truths.boxes[:, :2]) / 2
    overlap = torch.minimum(size[:, None], slots.shapes).prod(-1)  # (M, K)
    fit = overlap / (size.prod(-1, keepdim=True) + slots.shapes.prod(-1) - overlap)
    cell = (centre[:, None] / slots.pitch).long().clamp(min=0).minimum(slots.grid - 1)  # (M, K, 2)
    place = slots.first + cell[..., 1] * slots.grid[:, 0] + cell[..., 0]  # (M, K) slot of each anchor
    seat = truths.image[:, None] * len(slots) + place  # (M, K) unique over the batch
    rank = fit.argsort(dim=1, descending=True, stable=True)  # (M, K) anchors, best first

    truth, anchor = [], []
    taken = seat.new_empty(0)
    left = torch.arange(len(truths), device=seat.device)
    for turn in range(seat.shape[1]):
        if not len(left):
            break
        mine = rank[left, turn]
        won = _first_come(seat[left, mine], fit[left, mine], taken)
        truth.append(left[won])
        anchor.append(mine[won])
        taken = torch.cat((taken, seat[left[won], mine[won]]))
        left = left[~won]
    more, kind = (fit > extra_iou).nonzero(as_tuple=True)
    won = _first_come(seat[more, kind], fit[more, kind], taken)
    t, k = torch.cat([*truth, more[won]]), torch.cat([*anchor, kind[won]])
    return Positives(truths.image[t], place[t, k], t)


def _first_come(seat: Tensor, fit: Tensor, taken: Tensor) -> Tensor:
    """Which of the n candidates get their seat, bool (n,): of those that want one seat the best fit, if it is free."""
    order = fit.argsort(dim=0, descending=True, stable=True)
    _, which = seat[order].unique(return_inverse=True)
    position = torch.arange(len(order), device=seat.device)
    best = position.new_full((len(order),), len(order)).scatter_reduce(0, which, position, "amin")
    won = torch.zeros(len(seat), dtype=torch.bool, device=seat.device)
    won[order[best[best < len(order)]]] = True
    return won & ~torch.isin(seat, taken)
