"""What a detector learns from another, against maps written by hand and the papers' formulas in plain Python."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from compress_plugins.yolov3 import Detector
from torch import Tensor, nn
from written_maps import STRIDES, Fixed, best_anchor, blank, heads, target, write

from compress import Answer, CompressError, Distiller

SIZE = (96, 160)
BOXES = [[10.0, 20.0, 60.0, 80.0], [90.0, 8.0, 150.0, 50.0]]


def answer(nine: Any, maps: list[Tensor], size: tuple[int, int] = SIZE) -> Answer:
    model = Fixed(nine, maps)
    images = torch.zeros(len(maps[0]), 3, *size)
    return Answer(model, (images,), model(images), {})


def written(nine: Any, boxes: list[list[float]], label: int = 0) -> list[Tensor]:
    """Maps that find these boxes exactly, each in the slot of its truth."""
    maps = blank(nine, 1, SIZE)
    for box, truth in zip(boxes, BOXES, strict=True):
        write(maps, nine, 0, box, label, best_anchor(nine, truth))
    return maps


def moved(boxes: list[list[float]], by: float) -> list[list[float]]:
    """A pixel or so to the right: the cell and the best anchor stay."""
    return [[x1 + by, y1, x2 + by, y2] for x1, y1, x2, y2 in boxes]


def squared(nine: Any, by: float) -> float:
    """Sum over the two truths of the squared error of a box that is `by` pixels off: (by / stride)^2."""
    return sum((by / STRIDES[best_anchor(nine, truth)[0]]) ** 2 for truth in BOXES)


def loss(student: Answer, teacher: Answer, **options: Any) -> float:
    options = {"extra_iou": 1.0, **options}
    return float(Detector(**options).loss(student, teacher, [target(BOXES)]).detach())


@pytest.mark.parametrize(
    ("student", "teacher", "margin", "bounded"),
    [
        (2.0, 1.0, 0.0, True),  # worse than its teacher
        (1.0, 2.0, 0.0, False),  # better
        (1.0, 1.0, 0.0, False),  # as good
        (1.0, 1.5, 10.0, True),  # better, but not by the margin
        (1.0, 3.0, 0.001, False),  # better by the margin
    ],
)
def test_boxes_are_bounded_by_the_teacher(student: float, teacher: float, margin: float, bounded: bool) -> None:
    """Chen et al., section 3.3: |s - y|^2 where |s - y|^2 + m > |t - y|^2, else 0."""
    nine = heads()
    mine, theirs = (answer(nine, written(nine, moved(BOXES, by))) for by in (student, teacher))
    found = loss(mine, theirs, classes=0.0, boxes=1.0, margin=margin)
    expected = squared(nine, student) / len(BOXES) if bounded else 0.0
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-6)


def divergence(student: float, teacher: float) -> float:
    p, q = (1 / (1 + math.exp(-x)) for x in (teacher, student))
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("scale_x_y", [1.0, 1.05])
def test_objectness_and_classes_are_divergences(temperature: float, scale_x_y: float) -> None:
    """Random maps; every prediction in plain Python, classes weighted by the teacher's objectness."""
    generator, classes = torch.Generator().manual_seed(0), 3
    nine = heads(classes, scale_x_y=scale_x_y)
    mine, theirs = ([2 * torch.randn(m.shape, generator=generator) for m in blank(nine, 2, (32, 64))] for _ in range(2))
    expected = 0.0
    for s, t in zip(mine, theirs, strict=True):
        s, t = (m.unflatten(1, (3, 5 + classes)).movedim(2, -1).reshape(-1, 5 + classes).tolist() for m in (s, t))
        for a, b in zip(s, t, strict=True):
            expected += divergence(a[4] / temperature, b[4] / temperature)
            sure = 1 / (1 + math.exp(-b[4]))
            expected += sure * sum(divergence(a[k] / temperature, b[k] / temperature) for k in range(5, 5 + classes))
    none = [target([]), target([])]
    student, teacher = (answer(nine, maps, (32, 64)) for maps in (mine, theirs))
    found = Detector(boxes=0.0, temperature=temperature).loss(student, teacher, none)
    assert float(found.detach()) == pytest.approx(temperature**2 * expected / 2, rel=1e-4)  # two images, no truths
    assert float(Detector().loss(teacher, teacher, none).detach()) == pytest.approx(0, abs=1e-4)


def test_a_student_moves_towards_the_truth_until_it_is_better_than_its_teacher() -> None:
    """The teacher is a bound, not a target: descending on the bounded term ends where the teacher's error is."""
    nine = heads()
    theirs = answer(nine, written(nine, moved(BOXES, 2.0)))
    mine = answer(nine, written(nine, moved(BOXES, 5.0)))
    optimizer = torch.optim.SGD(mine.model.parameters(), lr=3.0)
    detector = Detector(classes=0.0, boxes=1.0, extra_iou=1.0)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        value = detector.loss(mine, theirs, [target(BOXES)])
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    assert losses[0] == pytest.approx(squared(nine, 5.0) / 2, rel=1e-3)
    assert losses[-1] == 0.0 and all(a >= b - 1e-6 for a, b in pairwise(losses))
    perfect = answer(nine, written(nine, BOXES))
    left = loss(mine, perfect, classes=0.0, boxes=1.0)
    assert 0.5 * squared(nine, 2.0) / 2 < left < squared(nine, 2.0) / 2  # it stopped at once when it was better


def test_networks_that_are_no_detectors_or_others_are_one_line() -> None:
    nine = heads()
    fine = answer(nine, written(nine, BOXES))
    three = heads(3)
    other = answer(three, blank(three, 1, SIZE))
    plain = Answer(nn.Identity(), fine.inputs, fine.outputs, {})
    for student, teacher, said in (
        (plain, fine, "the student, Identity, has no `heads`"),
        (fine, plain, "the teacher, Identity, has no `heads`"),
        (fine, other, "the student predicts 945 boxes of 1 classes, the teacher 945 boxes of 3 classes"),
    ):
        with pytest.raises(CompressError, match=said) as caught:
            Detector().loss(student, teacher, [target(BOXES)])
        assert "\n" not in str(caught.value)


def test_it_is_found_by_name() -> None:
    nine = heads()
    model = Fixed(nine, written(nine, BOXES))
    distiller = Distiller(model, model, {"uses": "detector", "weight": 2.0})
    with distiller.watch() as lesson:
        model(torch.zeros(1, 3, *SIZE))
    assert float(lesson.losses([target(BOXES)])["loss"].detach()) == pytest.approx(0, abs=1e-5)
