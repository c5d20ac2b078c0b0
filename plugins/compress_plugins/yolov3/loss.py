"""Predictions and truths in, the three losses of YOLOv3 out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torchvision.ops import complete_box_iou_loss

from .assignment import Positives, Truths
from .predictions import Predictions


def losses(found: Predictions, truths: Truths, positives: Positives) -> dict[str, Tensor]:
    """Scalars `box`, `objectness` and `class`: sums over their predictions, divided by the number of positives.

    (By the number of images where that is larger, so that a batch with few boxes makes no leap.)

    box: 1 - CIoU of a positive's box and its truth (Zheng et al., AAAI 2020, eq. 8-11).
    objectness: cross-entropy, 1 for positives and 0 for the rest; predictions that are no positives and overlap a truth
    by more than their head's ignore_thresh say nothing.
    class: cross-entropy a class, over the positives (YOLOv3, 2018, section 2.2).
    Without truths box and class are 0 and objectness is left: finite, with a gradient everywhere.
    """
    image, slot, truth = positives.image, positives.slot, positives.truth
    count = max(len(slot), len(found.boxes))
    box = complete_box_iou_loss(found.boxes[image, slot], truths.boxes[truth], reduction="sum")
    logits = found.classes[image, slot]  # (P, C)
    named = torch.zeros_like(logits)
    named[torch.arange(len(slot), device=slot.device), truths.labels[truth]] = 1
    wanted = torch.zeros_like(found.objectness)
    wanted[image, slot] = 1
    counted = wanted.bool() | ~_near(found, truths)
    objectness = (bce(found.objectness, wanted, reduction="none") * counted).sum()
    return {
        "box": box / count,
        "objectness": objectness / count,
        "class": bce(logits, named, reduction="sum") / count,
    }


@torch.no_grad()
def _near(found: Predictions, truths: Truths) -> Tensor:
    """Predictions that overlap a truth of their image by more than ignore_thresh, bool (B, N)."""
    near = torch.zeros_like(found.objectness, dtype=torch.bool)
    if not len(truths):
        return near
    boxes = found.boxes[truths.image]  # (M, N, 4): each truth beside its own image's predictions
    low = torch.maximum(boxes[..., :2], truths.boxes[:, None, :2])
    high = torch.minimum(boxes[..., 2:], truths.boxes[:, None, 2:])
    overlap = (high - low).clamp(min=0).prod(-1)  # (M, N)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    whole = area + (truths.boxes[:, 2:] - truths.boxes[:, :2]).prod(-1, keepdim=True) - overlap
    hit = overlap > found.slots.ignore * whole
    votes = torch.zeros_like(found.objectness).index_add(0, truths.image, hit.to(found.objectness.dtype))
    return votes > 0
