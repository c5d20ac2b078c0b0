"""The YOLOv3 task against maps written by hand from the paper's equations."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from compress_plugins.yolov3 import YOLOv3
from torch import Tensor
from written_maps import STRIDES, SURE, Fixed, Head, best_anchor, blank, by_fit, heads, shape_iou, target, write

from compress import CompressError

SIZES = [(160, 160), (96, 224), (256, 128)]


def apart(seed: int, size: tuple[int, int], images: int) -> list[list[list[float]]]:
    """Random truths for each image, at most one in each 32-pixel cell so that no two can want one slot."""
    rng = random.Random(seed)
    cells = [(x, y) for x in range(size[1] // 32) for y in range(size[0] // 32)]
    truths = []
    for _ in range(images):
        chosen = rng.sample(cells, rng.randint(0, min(5, len(cells))))
        boxes = []
        for x, y in chosen:
            cx, cy = 32 * x + rng.uniform(0, 32), 32 * y + rng.uniform(0, 32)
            w, h = rng.uniform(4, 200), rng.uniform(4, 200)
            boxes.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
        truths.append(boxes)
    return truths


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", SIZES)
def test_maps_written_from_the_truth_have_no_loss_and_decode_to_it(size: tuple[int, int], seed: int) -> None:
    """Each truth in the slot of its best anchor of all nine, nothing elsewhere: loss 0, and detect gives the truth."""
    classes, scale_x_y = 1 + seed % 3, (1.0, 1.05, 2.0)[seed % 3]
    nine = heads(classes, scale_x_y=scale_x_y)
    truths = apart(seed, size, 4)
    labels = [[i % classes for i in range(len(boxes))] for boxes in truths]
    maps = blank(nine, 4, size)
    for image, boxes in enumerate(truths):
        for box, label in zip(boxes, labels[image], strict=True):
            write(maps, nine, image, box, label, best_anchor(nine, box))
    model, images = Fixed(nine, maps), torch.zeros(4, 3, *size)
    targets = [target(b, ls) for b, ls in zip(truths, labels, strict=True)]

    parts = YOLOv3(extra_iou=1.0).loss(model, images, targets)
    assert all(0 <= float(v.detach()) < 1e-3 for v in parts.values()), parts

    for found, wanted in zip(YOLOv3(nms_iou=1.0).detect(model, images), targets, strict=True):
        corner = torch.tensor([size[1], size[0]] * 2)
        inside = torch.minimum(wanted["boxes"].clamp(min=0), corner)
        order, theirs = found["boxes"].sum(1).argsort(), inside.sum(1).argsort()
        torch.testing.assert_close(found["boxes"][order], inside[theirs], atol=2e-3, rtol=1e-4)
        assert found["labels"][order].tolist() == wanted["labels"][theirs].tolist()
        assert (found["scores"] > 0.999).all()


def cost(nine: tuple[Head, ...], maps: list[Tensor], box: list[float], extra_iou: float) -> float:
    """The loss of the maps for one 160 x 160 image with one box."""
    task, images = YOLOv3(extra_iou=extra_iou), torch.zeros(1, 3, 160, 160)
    with torch.no_grad():
        return float(task.loss(Fixed(nine, maps), images, [target([box])])["loss"])


def test_moving_the_truth_to_another_anchor_costs() -> None:
    """The oracle can fail: the same box in the second best anchor's slot is a loss."""
    nine, size = heads(), (160, 160)
    box = [40.0, 40.0, 70.0, 100.0]
    places = by_fit(nine, box)
    costs = []
    for place in places[:2]:
        maps = blank(nine, 1, size)
        write(maps, nine, 0, box, 0, place)
        costs.append(cost(nine, maps, box, extra_iou=1.0))
    assert costs[0] < 1e-3 < 1 < costs[1]


@pytest.mark.parametrize("extra_iou", [0.1, 0.3, 0.6])
def test_further_anchors_that_fit_are_trained_too(extra_iou: float) -> None:
    """With extra_iou, the zero of the loss is the truth in its best anchor and in all whose shape IoU is larger."""
    nine, size, box = heads(), (160, 160), [41.0, 43.0, 75.0, 101.0]
    fit = {(h, a): shape_iou(box, nine[h].anchors[a]) for h in range(3) for a in range(3)}
    chosen = {place for place, iou in fit.items() if iou > extra_iou} | {best_anchor(nine, box)}
    maps = blank(nine, 1, size)
    for place in chosen:
        write(maps, nine, 0, box, 0, place)
    assert cost(nine, maps, box, extra_iou) < 1e-3
    head, anchor = next(iter(chosen))
    maps[head][:, anchor * 6 + 4] = -SURE
    assert cost(nine, maps, box, extra_iou) > 1


def loss_and_gradients(
    targets: list[dict[str, Any]], raw: float = 1.0, extra_iou: float = 0.3
) -> tuple[float, list[Tensor]]:
    """The loss of random maps, and the gradient of each; the gradients are finite or this fails."""
    torch.manual_seed(0)
    nine, size = heads(2), (96, 160)
    model = Fixed(nine, [raw * torch.randn_like(m) for m in blank(nine, len(targets), size)])
    parts = YOLOv3(extra_iou=extra_iou).loss(model, torch.zeros(len(targets), 3, *size), targets)
    parts["loss"].backward()
    gradients = [m.grad for m in model.maps if m.grad is not None]
    assert len(gradients) == 3
    assert torch.isfinite(parts["loss"])
    assert all(torch.isfinite(g).all() for g in gradients)
    return float(parts["loss"].detach()), gradients


def test_images_without_targets_teach_that_nothing_is_there() -> None:
    loss, gradients = loss_and_gradients([target([]), target([])])
    assert loss > 0
    for g in gradients:
        per_anchor = g.unflatten(1, (3, 7))
        assert (per_anchor[:, :, 4] > 0).all()
        assert (per_anchor[:, :, [0, 1, 2, 3, 5, 6]] == 0).all()


@pytest.mark.parametrize(
    "box",
    [
        [140.0, 86.0, 180.0, 106.0],  # the centre on the far corner, 1.0 of width and height
        [-20.0, -10.0, 20.0, 10.0],  # on the near one
        [10.0, 10.0, 10.0, 40.0],  # no width
        [5.0, 5.0, 5.01, 5.01],  # a speck
        [0.0, 0.0, 1600.0, 9.6],  # far larger than any anchor
    ],
)
def test_odd_boxes_and_wild_outputs_stay_finite(box: list[float]) -> None:
    loss_and_gradients([target([box]), target([])])
    loss_and_gradients([target([box]), target([])], raw=1e4)


def test_truths_that_want_one_slot_all_get_one() -> None:
    """Up to nine truths of one shape and centre: each has a slot of its own, and the loss can reach 0 for all nine."""
    nine, size = heads(2), (160, 160)
    boxes = [[50.0 - i / 9, 50.0, 80.0 + i / 9, 100.0] for i in range(9)]
    images, targets = torch.zeros(1, 3, *size), [target(boxes, [i % 2 for i in range(9)])]
    model = Fixed(nine, blank(nine, 1, size))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.3)
    for step in range(250):
        optimizer.param_groups[0]["lr"] = 0.5 * 0.96 ** max(step - 100, 0)
        optimizer.zero_grad()
        parts = YOLOv3(extra_iou=1.0).loss(model, images, targets)
        parts["loss"].backward()
        optimizer.step()
    assert float(parts["loss"].detach()) < 0.05
    found = YOLOv3(nms_iou=1.0).detect(model, images)[0]
    assert (found["scores"] > 0.5).sum() == 9


@pytest.mark.parametrize("extra_iou", [0.2, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_order_of_boxes_does_not_matter(seed: int, extra_iou: float) -> None:
    truths = apart(seed, (96, 160), 3)
    rng = random.Random(seed)
    mixed = [rng.sample(boxes, len(boxes)) for boxes in truths]
    one, gradients = loss_and_gradients([target(b) for b in truths], extra_iou=extra_iou)
    other, mixed_gradients = loss_and_gradients([target(b) for b in mixed], extra_iou=extra_iou)
    assert one == pytest.approx(other, rel=1e-5)
    torch.testing.assert_close(gradients, mixed_gradients, rtol=1e-4, atol=1e-6)


def test_predictions_near_a_truth_are_no_negatives() -> None:
    """A second anchor's box on the truth: no objectness gradient there, but one in every other empty slot."""
    nine, size, box = heads(), (160, 160), [40.0, 40.0, 70.0, 100.0]
    maps = blank(nine, 1, size)
    places = by_fit(nine, box)
    row, column = write(maps, nine, 0, box, 0, places[1])
    model = Fixed(nine, maps)
    YOLOv3(extra_iou=1.0).loss(model, torch.zeros(1, 3, *size), [target([box])])["loss"].backward()
    empty = 0
    for h, m in enumerate(model.maps):
        objectness = m.grad.unflatten(1, (3, 6))[0, :, 4]
        if h == places[1][0]:
            assert objectness[places[1][1], row, column] == 0
        empty += int((objectness == 0).sum())
    assert empty == 1


def test_evaluation_of_perfect_maps_is_perfect_and_of_empty_ones_is_zero() -> None:
    nine, size = heads(2), (160, 96)
    boxes = [[10.0, 10.0, 40.0, 60.0], [50.0, 90.0, 90.0, 150.0], [10.0, 100.0, 30.0, 130.0]]
    maps = blank(nine, 3, size)
    for image, box in enumerate(boxes):
        for place in [(h, a) for h in range(3) for a in range(3)]:  # nine times: suppression has to remove eight
            write(maps, nine, image, box, image % 2, place)
    targets = [target([b], [i % 2], "ab"[i % 2]) for i, b in enumerate(boxes)]
    seen: list[int] = []
    batches = [(torch.full((3, 3, *size), 0.5), targets)] * 4
    model = Fixed(nine, maps).train()
    perfect = YOLOv3().evaluate(model, batches, ("x", "y"), seen.append)
    assert perfect.metrics["map50"] == pytest.approx(1)
    assert perfect.subsets["a"]["map50"] == pytest.approx(1)
    assert perfect.classes == {name: {"ap50": pytest.approx(1)} for name in ("x", "y")}
    assert seen == [3, 3, 3, 3]
    assert model.training
    assert len(perfect.examples) == 6
    for example in perfect.examples:
        assert example["image"].shape == (*size, 3)
        assert example["image"].dtype == "uint8"
        assert len(example["boxes"]) == len(example["truth"]) == 1
    empty = YOLOv3().evaluate(Fixed(nine, blank(nine, 3, size)), batches, ("x", "y"))
    assert empty.metrics["map50"] == 0
    with pytest.raises(CompressError, match="no images"):
        YOLOv3().evaluate(model, [], ("x", "y"))


def test_boxes_of_different_images_and_classes_do_not_suppress_each_other() -> None:
    nine, size, box = heads(2), (160, 160), [40.0, 40.0, 70.0, 100.0]
    maps = blank(nine, 2, size)
    write(maps, nine, 0, box, 0, (0, 0))
    write(maps, nine, 0, box, 1, (1, 0))
    write(maps, nine, 1, box, 0, (2, 0))
    found = YOLOv3().detect(Fixed(nine, maps), torch.zeros(2, 3, *size))
    assert [sorted(f["labels"].tolist()) for f in found] == [[0, 1], [0]]


def test_a_network_without_heads_is_refused() -> None:
    with pytest.raises(CompressError, match="Linear has no `heads`"):
        YOLOv3().loss(torch.nn.Linear(2, 2), torch.zeros(1, 3, 32, 32), [target([])])


def test_strides_come_from_the_maps() -> None:
    """Maps half as large mean cells twice as large: the centre of the middle cell is the image's centre either way."""
    assert STRIDES == (32, 16, 8)
    for size, shown in (((96, 96), (96, 96)), ((96, 96), (192, 192)), ((96, 160), (48, 80))):
        nine = heads()
        maps = blank(nine, 1, size)
        row, column = maps[0].shape[2] // 2, maps[0].shape[3] // 2
        maps[0][0, 4, row, column] = SURE
        maps[0][0, 5, row, column] = SURE
        box = YOLOv3(score_floor=0.5).detect(Fixed(nine, maps), torch.zeros(1, 3, *shown))[0]["boxes"][0]
        assert float(box[0] + box[2]) / 2 == pytest.approx(shown[1] / 2)
        assert float(box[1] + box[3]) / 2 == pytest.approx(shown[0] / 2)
