"""Two YOLOv3 networks' predictions and the truths in, what the student has to learn from the teacher out."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from compress import Answer, CompressError, Distillation

from .assignment import Positives, Truths, assign, gather
from .predictions import Predictions, Slots, decode

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]


class Detector(Distillation):
    """Boxes and classes of a detector with YOLO heads, from a teacher with the same heads.

    classes * (objectness + class) + boxes * bounded, where

    - objectness and class are KL(teacher || student) of the sigmoids, softened by the temperature T and times T^2: of
      the objectness of all predictions, and of the classes of each, weighted by how sure the teacher is that something
      is there, so that what it says of background does not count (objectness scaling: Mehta, Ozturk, Object Detection
      at 200 Frames per Second, ECCV 2018 workshops);
    - bounded is the teacher-bounded regression of Chen et al., Learning Efficient Object Detection Models with
      Knowledge Distillation, NIPS 2017, section 3.3: |s - y|^2 where |s - y|^2 + margin > |t - y|^2, else 0, with s, t
      and y the boxes of student, teacher and truth as the network says them (offset in cells, logarithm of the size
      over the anchor's). The teacher is no target here: it says when a box is good enough.

    All are sums, divided by the number of predictions that answer for a truth, as the task's losses are.

    classes, boxes: weights of the two parts. margin: by how much the student must be better than its teacher before
    nothing is asked of it. temperature: T. extra_iou: which predictions answer for a truth, as the task yolov3 has it.
    """

    name = "detector"

    classes: Weight = 1.0
    boxes: Weight = 0.5
    margin: Weight = 0.0
    temperature: Annotated[float, Field(gt=0)] = 1.0
    extra_iou: Share = 0.3

    def loss(self, student: Answer, teacher: Answer, targets: Any) -> Tensor:
        """The weighted sum of both parts, a scalar; 0 where both networks say the same and are right."""
        mine, theirs = _predictions(student, "student"), _predictions(teacher, "teacher")
        if mine.classes.shape != theirs.classes.shape:
            raise CompressError(
                f"distillation detector: the student predicts {_said(mine)}, the teacher {_said(theirs)}; both need "
                "the same heads and classes"
            )
        truths = gather(targets, mine.boxes.device)
        positives = assign(truths, mine.slots, self.extra_iou)
        count = max(len(positives.slot), len(mine.boxes))
        soft = soft_loss(mine, theirs, self.temperature)
        return (self.classes * soft + self.boxes * bounded_loss(mine, theirs, truths, positives, self.margin)) / count


def soft_loss(student: Predictions, teacher: Predictions, temperature: float) -> Tensor:
    """T^2 (sum of KL of objectness + sum over predictions of teacher's objectness * KL of its classes), a scalar."""
    objectness = _divergence(student.objectness / temperature, teacher.objectness / temperature)  # (B, N)
    classes = _divergence(student.classes / temperature, teacher.classes / temperature).sum(-1)  # (B, N, C) -> (B, N)
    return temperature**2 * (objectness + teacher.objectness.sigmoid() * classes).sum()


def bounded_loss(
    student: Predictions, teacher: Predictions, truths: Truths, positives: Positives, margin: float
) -> Tensor:
    """Sum over positives of the student's squared error where it is not better than the teacher's by the margin."""
    image, slot, truth = positives.image, positives.slot, positives.truth
    wanted = encode(truths.boxes[truth], student.slots, slot)  # (P, 4)
    own = (encode(student.boxes[image, slot], student.slots, slot) - wanted).square().sum(1)  # (P,)
    bound = (encode(teacher.boxes[image, slot], teacher.slots, slot) - wanted).square().sum(1)
    return (own * (own.detach() + margin > bound)).sum()


def encode(boxes: Tensor, slots: Slots, slot: Tensor) -> Tensor:
    """(P, 4) xyxy pixels -> (P, 4): centre from its cell's corner, in cells; log of width and height over the anchor's.

    slot: (P,) whose cell, stride and anchor each box is told in.
    """
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 / slots.stride[slot] - slots.cell[slot]
    size = ((boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6) / slots.anchor[slot]).log()
    return torch.cat((centre, size), 1)


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of two-way distributions given as logits, elementwise: cross-entropy less entropy."""
    wanted = teacher.sigmoid()
    return bce(student, wanted, reduction="none") - bce(teacher, wanted, reduction="none")


def _predictions(answer: Answer, whose: str) -> Predictions:
    heads, images = getattr(answer.model, "heads", None), answer.inputs[0]
    if heads is None:
        raise CompressError(
            f"distillation detector needs networks with YOLO heads, and the {whose}, {type(answer.model).__name__}, "
            "has no `heads`; take logits or features"
        )
    return decode(answer.outputs, heads, (images.shape[2], images.shape[3]))


def _said(found: Predictions) -> str:
    return f"{found.classes.shape[1]} boxes of {found.classes.shape[2]} classes"
