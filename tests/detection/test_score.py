"""mAP, precision and recall against a scorer that shares nothing with the project, and against cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compress_plugins.detection import score_detections
from hypothesis import given, settings
from hypothesis import strategies as st

CLASSES = ("a", "b", "c")


def iou(p: np.ndarray, q: np.ndarray) -> float:
    w = min(p[2], q[2]) - max(p[0], q[0])
    h = min(p[3], q[3]) - max(p[1], q[1])
    inside = max(w, 0) * max(h, 0)
    return inside / ((p[2] - p[0]) * (p[3] - p[1]) + (q[2] - q[0]) * (q[3] - q[1]) - inside)


def right_ones(found: list[dict], truth: list[dict], label: int, threshold: float) -> list[tuple[float, bool]]:
    """(score, whether it is right) of all detections of a class, best first, an image's first hundred only."""
    result = []
    for f, t in zip(found, truth, strict=True):
        best_first = sorted(range(len(f["scores"])), key=lambda i: -float(f["scores"][i]))[:100]
        free = [j for j in range(len(t["boxes"])) if t["labels"][j] == label]
        for i in best_first:
            if f["labels"][i] != label:
                continue
            overlaps = [(iou(f["boxes"][i].double().numpy(), t["boxes"][j].double().numpy()), j) for j in free]
            most, j = max(overlaps, default=(0.0, -1))
            if most >= threshold:
                free.remove(j)
            result.append((float(f["scores"][i]), most >= threshold))
    return sorted(result, key=lambda one: -one[0])


def average_precision(found: list[dict], truth: list[dict], label: int, threshold: float) -> float | None:
    """COCO's: at 101 recalls, the best precision at that recall or beyond."""
    targets = sum(int((t["labels"] == label).sum()) for t in truth)
    if not targets:
        return None
    points, right = [], 0
    for seen, (_, is_right) in enumerate(right_ones(found, truth, label, threshold), 1):
        right += is_right
        points.append((right / targets, right / seen))
    at = [max((p for r, p in points if r >= recall), default=0.0) for recall in np.linspace(0, 1, 101)]
    return sum(at) / 101


def random_images(seed: int, n: int, crowd: int = 6) -> tuple[list[dict], list[dict]]:
    """Targets, and detections near some of them, doubled, mislabelled and made up."""
    rng = np.random.default_rng(seed)
    found, truth = [], []
    for _ in range(n):
        m = int(rng.integers(0, crowd))
        boxes = rng.uniform(0, 100, (m, 2)).repeat(2, 0).reshape(m, 4)[:, [0, 2, 1, 3]]
        boxes[:, 2:] = boxes[:, :2] + rng.uniform(3, 60, (m, 2))
        labels = rng.integers(0, 3, m)
        near = np.concatenate([boxes, boxes[rng.random(m) < 0.4]])
        near = near + rng.normal(0, 2.5, near.shape)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        near_labels = np.concatenate([labels, rng.integers(0, 3, len(near) - m)])
        k = int(rng.integers(0, crowd))
        invented = rng.uniform(0, 80, (k, 4))
        invented[:, 2:] = invented[:, :2] + rng.uniform(1, 50, (k, 2))
        every = np.concatenate([near, invented])
        scores = rng.permutation(1000)[: len(every)] / 1000 + rng.uniform(0, 0.0005)
        found.append({
            "boxes": torch.tensor(every, dtype=torch.float32),
            "scores": torch.tensor(scores, dtype=torch.float32),
            "labels": torch.tensor(np.concatenate([near_labels, rng.integers(0, 3, k)])),
        })  # fmt: skip
        truth.append({
            "boxes": torch.tensor(boxes, dtype=torch.float32),
            "labels": torch.tensor(labels),
            "subset": str(rng.choice(["ego", "asl"])),
        })  # fmt: skip
    return found, truth


def nothing() -> dict:
    return {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}


def one(box: list[float], score: float = 0.9, label: int = 0) -> dict:
    return {"boxes": torch.tensor([box]), "scores": torch.tensor([score]), "labels": torch.tensor([label])}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12))
def test_map_is_that_of_an_independent_scorer(seed: int, n: int) -> None:
    found, truth = random_images(seed, n)
    metrics, subsets, curves = score_detections(found, truth, CLASSES, ("ego",))

    def mean_ap(chosen: list[int], threshold: float) -> float:
        f, t = [found[i] for i in chosen], [truth[i] for i in chosen]
        each = [ap for label in range(3) if (ap := average_precision(f, t, label, threshold)) is not None]
        return float(np.mean(each)) if each else 0.0

    everything = list(range(n))
    assert metrics["map50"] == pytest.approx(mean_ap(everything, 0.5), abs=1e-6)
    thresholds = np.arange(50, 100, 5) / 100
    assert metrics["map"] == pytest.approx(np.mean([mean_ap(everything, t) for t in thresholds]), abs=1e-6)
    ego = [i for i in everything if truth[i]["subset"] == "ego"]
    if any(len(truth[i]["boxes"]) for i in ego):
        assert subsets["ego"]["map50"] == pytest.approx(mean_ap(ego, 0.5), abs=1e-6)
    else:
        assert subsets == {}
    if any(len(t["boxes"]) for t in truth):
        assert np.mean(curves["precision-recall"]["y"]) == pytest.approx(metrics["map50"], abs=1e-6)
    for label, name in enumerate(CLASSES):
        expected = average_precision(found, truth, label, 0.5)
        alone = curves.get(f"precision-recall/{name}")
        assert (alone is None) == (expected is None), name
        if alone is not None:
            assert np.mean(alone["y"]) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_precision_and_recall_are_those_at_the_best_threshold(seed: int) -> None:
    found, truth = random_images(seed, 6)
    targets = sum(len(t["boxes"]) for t in truth)
    metrics, _, curves = score_detections(found, truth, CLASSES)
    ranked = sorted((r for label in range(3) for r in right_ones(found, truth, label, 0.5)), key=lambda r: -r[0])
    points = []
    for threshold in sorted({score for score, _ in ranked}):
        kept = [is_right for score, is_right in ranked if score >= threshold]
        precision, recall = sum(kept) / len(kept), sum(kept) / max(targets, 1)
        points.append((2 * precision * recall / max(precision + recall, 1e-12), precision, recall, threshold))
    if not targets:
        assert set(metrics.values()) == {0.0} and curves == {}
        return
    best = max(points)[0] if points else 0.0
    p, r = metrics["precision50"], metrics["recall50"]
    assert 2 * p * r / max(p + r, 1e-12) == pytest.approx(best, abs=1e-9)
    at = [(precision, recall) for _, precision, recall, threshold in points if threshold == metrics["threshold50"]]
    assert at == [pytest.approx((p, r))] or not points
    for x, y in zip(curves["f1-threshold"]["x"][::10], curves["f1-threshold"]["y"][::10], strict=True):
        above = [f1 for f1, _, _, threshold in points if threshold >= x]
        assert y == pytest.approx(above[0] if above else 0.0)


def test_every_target_found_exactly_scores_one() -> None:
    _, truth = random_images(3, 8)
    found = [{**t, "scores": torch.full((len(t["boxes"]),), 0.5)} for t in truth]
    metrics, _, _ = score_detections(found, truth, CLASSES)
    assert metrics == pytest.approx({"map50": 1, "map": 1, "precision50": 1, "recall50": 1, "threshold50": 0.5})


def test_a_box_is_as_wide_as_its_corners_are_apart() -> None:
    """IoU 0.4902; with a pixel more each way it would be 0.5: a right one."""
    truth = [{"boxes": torch.tensor([[0.0, 0.0, 51.0, 1.0]]), "labels": torch.tensor([0]), "subset": None}]
    assert score_detections([one([0.0, 0.0, 25.0, 1.0])], truth, ("a",))[0]["map50"] == 0
    assert score_detections([one([0.0, 0.0, 25.5, 1.0])], truth, ("a",))[0]["map50"] == pytest.approx(1)


def test_the_score_ranks_whatever_the_order() -> None:
    truth = [{"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([0]), "subset": None}]
    wrong, right = one([50.0, 50, 60, 60], 0.3), one([0.0, 0, 10, 10], 0.8)
    wrong_first = {key: torch.cat([wrong[key], right[key]]) for key in wrong}
    assert score_detections([wrong_first], truth, ("a",))[0]["map50"] == pytest.approx(1)
    wrong_first["scores"] = torch.tensor([0.9, 0.8])
    assert score_detections([wrong_first], truth, ("a",))[0]["map50"] == pytest.approx(0.5)


def test_nothing_found_and_nothing_to_find() -> None:
    truth = [{"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([0]), "subset": "s"}]
    empty = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "subset": "s"}]
    zero = dict.fromkeys(("map50", "map", "precision50", "recall50", "threshold50"), 0.0)
    metrics, subsets, curves = score_detections([nothing()], truth, ("a",), ("s", "t"))
    assert (metrics, subsets) == (zero, {"s": zero})
    assert set(curves) == {"precision-recall"} and not any(curves["precision-recall"]["y"])
    assert score_detections([one([0.0, 0, 10, 10])], empty, ("a",), ("s",)) == (zero, {}, {})
    assert score_detections([], [], ("a",)) == (zero, {}, {})
    mixed = score_detections([one([0.0, 0, 10, 10]), one([0.0, 0, 10, 10], 0.95)], truth + empty, ("a",))[0]
    assert mixed["map50"] == pytest.approx(0.5)  # what is found where nothing is counts as wrong


def test_only_the_best_hundred_of_an_image_count() -> None:
    truth = [{"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([0]), "subset": None}]
    many = {
        "boxes": torch.tensor([[50.0, 50, 60, 60]] * 100 + [[0.0, 0, 10, 10]]),
        "scores": torch.tensor([0.9] * 100 + [0.8]),
        "labels": torch.zeros(101, dtype=torch.int64),
    }
    assert score_detections([many], truth, ("a",))[0]["recall50"] == 0
    many["scores"][100] = 0.95
    assert score_detections([many], truth, ("a",))[0]["map50"] == pytest.approx(1)


@pytest.mark.parametrize("box", [[0.0, 0, float("nan"), 1], [5.0, 0, 4, 1], [0.0, 0, float("inf"), 1]])
def test_what_is_no_box_is_refused(box: list[float]) -> None:
    truth = [{"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([0]), "subset": None}]
    with pytest.raises(ValueError, match="finite"):
        score_detections([one(box)], truth, ("a",))
    with pytest.raises(ValueError, match="0 images with detections, but 1"):
        score_detections([], truth, ("a",))
