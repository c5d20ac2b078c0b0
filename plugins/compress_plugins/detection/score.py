"""Detections and targets in; mAP, precision, recall and their curves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

MOST_DETECTIONS = 100  # an image, best first: what COCO's evaluation looks at
RECALLS = np.linspace(0, 1, 101)  # where COCO's evaluation reads the precision
OVERLAPS = np.linspace(0.5, 0.95, 10)  # the IoUs that it averages over

Found = Mapping[str, Tensor]
Target = Mapping[str, Any]


def score_detections(
    detections: Sequence[Found], targets: Sequence[Target], classes: tuple[str, ...], subsets: Sequence[str] = ()
) -> tuple[dict[str, float], dict[str, dict[str, float]], dict[str, dict[str, Any]]]:
    """How well detections find the targets of the same images.

    detections: an image each, {"boxes": (n, 4) xyxy pixels, "scores": (n,), "labels": (n,) int64}, in any order.
    targets: {"boxes": (m, 4) xyxy pixels, "labels": (m,) int64, "subset": str or None}. subsets: those to score apart.

    Returns (metrics, the same metrics for each subset, curves). Metrics, all in [0, 1]:
    - map50, map: COCO's mean average precision at IoU 0.5, and averaged over IoU 0.50, 0.55, ... 0.95; the mean over
      the classes that have targets (torchmetrics with pycocotools: ranked by score, 101 recalls, 100 an image).
    - precision50, recall50: at IoU 0.5 and at the one score threshold, `threshold50`, that makes their harmonic mean
      (F1, over all classes together) largest. That threshold is chosen on these very images.
    Without any target every metric is 0; a subset without a target is left out. Raises ValueError where the two
    sequences differ in length or a detection is not finite or inside out.

    curves: "precision-recall", whose mean height is map50; "f1-threshold"; and, where there are several classes,
    "precision-recall/CLASS" of each that has targets, whose mean height is its average precision at IoU 0.5.
    """
    if len(detections) != len(targets):
        raise ValueError(f"{len(detections)} images with detections, but {len(targets)} with targets")
    found = [_best(d) for d in detections]
    truth = [{key: _array(t[key]) for key in ("boxes", "labels")} for t in targets]
    hits = [match(f, t) for f, t in zip(found, truth, strict=True)]
    everything = range(len(targets))
    parts: dict[str, dict[str, float]] = {}
    for subset in subsets:
        chosen = [i for i in everything if targets[i].get("subset") == subset]
        if any(len(truth[i]["boxes"]) for i in chosen):
            parts[subset] = _metrics(found, truth, hits, chosen)
    return _metrics(found, truth, hits, everything), parts, _curves(found, truth, hits, classes)


def match(found: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray], iou: float = 0.5) -> np.ndarray:
    """Which detections of one image are right, (n,) bool.

    In order of score each takes the target of its class that it overlaps most among those still free, if their
    intersection over union is at least `iou`. found must be sorted, best first.
    """
    hit = np.zeros(len(found["scores"]), bool)
    overlap = box_iou(found["boxes"], truth["boxes"])  # (n, m)
    overlap[found["labels"][:, None] != truth["labels"][None, :]] = 0
    for i in np.flatnonzero(overlap.max(1, initial=0) >= iou):
        j = overlap[i].argmax()
        if overlap[i, j] >= iou:
            hit[i] = True
            overlap[:, j] = 0
    return hit


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (n, 4) and (m, 4) xyxy -> (n, m); widths are x1 - x0, no pixel more."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = np.clip(high - low, 0, None).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1][None, :] - inside
    return inside / np.maximum(union, np.finfo(np.float64).tiny)


def _best(detections: Found) -> dict[str, np.ndarray]:
    """One image's detections as arrays, best first, no more than count. Raises ValueError where they are no boxes."""
    arrays = {key: _array(detections[key]) for key in ("boxes", "scores", "labels")}
    boxes, scores = arrays["boxes"], arrays["scores"]
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all() and (boxes[:, 2:] >= boxes[:, :2]).all()):
        raise ValueError("detections must be finite, with x0 <= x1 and y0 <= y1")
    order = np.argsort(-scores, kind="stable")[:MOST_DETECTIONS]
    return {key: value[order] for key, value in arrays.items()}


def _array(tensor: Tensor) -> np.ndarray:
    array = tensor.detach().cpu().numpy()
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _metrics(
    found: Sequence[Mapping[str, np.ndarray]],
    truth: Sequence[Mapping[str, np.ndarray]],
    hits: Sequence[np.ndarray],
    chosen: Sequence[int],
) -> dict[str, float]:
    names = ("map50", "map", "precision50", "recall50", "threshold50")
    if not any(len(truth[i]["boxes"]) for i in chosen):
        return dict.fromkeys(names, 0.0)
    found, truth = [found[i] for i in chosen], [truth[i] for i in chosen]
    scores, precision, recall = _ranked(found, truth, [hits[i] for i in chosen])
    if not len(scores):
        return dict.fromkeys(names, 0.0)
    best = int(_f1(precision, recall).argmax())
    operating_point = (float(precision[best]), float(recall[best]), float(scores[best]))
    return dict(zip(names, (*_mean_average_precision(found, truth), *operating_point), strict=True))


def _mean_average_precision(
    found: Sequence[Mapping[str, np.ndarray]], truth: Sequence[Mapping[str, np.ndarray]]
) -> tuple[float, float]:
    """(map50, map) by pycocotools, for images of which at least one has a target."""
    import torch
    from torchmetrics.detection import MeanAveragePrecision

    # torchmetrics' own thresholds are COCO's in float32, which misses recalls that are met exactly
    metric = MeanAveragePrecision(
        iou_type="bbox", iou_thresholds=OVERLAPS.tolist(), rec_thresholds=RECALLS.tolist(), backend="pycocotools"
    )
    metric.warn_on_many_detections = False
    tensors = [[{k: torch.from_numpy(v) for k, v in image.items()} for image in images] for images in (found, truth)]
    metric.update(*tensors)
    result = metric.compute()
    return float(result["map_50"]), float(result["map"])


def _ranked(
    found: Sequence[Mapping[str, np.ndarray]], truth: Sequence[Mapping[str, np.ndarray]], hits: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(scores, precision, recall) when everything from each different score up counts, best first."""
    scores = np.concatenate([f["scores"] for f in found])
    order = np.argsort(-scores, kind="stable")
    scores, right = scores[order], np.concatenate(hits)[order].cumsum()
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if len(scores) else np.zeros(0, int)
    targets = sum(len(t["boxes"]) for t in truth)
    return scores[last], right[last] / (last + 1), right[last] / targets


def _f1(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    return 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)


def _curves(
    found: Sequence[Mapping[str, np.ndarray]],
    truth: Sequence[Mapping[str, np.ndarray]],
    hits: Sequence[np.ndarray],
    classes: tuple[str, ...],
) -> dict[str, dict[str, Any]]:
    """Curves over all images; none without a target."""
    heights = {}
    for label, name in enumerate(classes):
        own = [t["labels"] == label for t in truth]
        if not any(o.any() for o in own):
            continue
        mine = [f["labels"] == label for f in found]
        _, precision, recall = _ranked(
            [{"scores": f["scores"][m]} for f, m in zip(found, mine, strict=True)],
            [{"boxes": t["boxes"][o]} for t, o in zip(truth, own, strict=True)],
            [h[m] for h, m in zip(hits, mine, strict=True)],
        )
        heights[name] = _at_recalls(precision, recall)
    if not heights:
        return {}
    drawn = {"precision-recall": np.mean(list(heights.values()), 0)}
    if len(classes) > 1:
        drawn |= {f"precision-recall/{name}": height for name, height in heights.items()}
    curves = {name: _curve(RECALLS, height, "recall", "precision (IoU 0.5)") for name, height in drawn.items()}
    scores, precision, recall = _ranked(found, truth, hits)
    if len(scores):
        at = np.linspace(0, 1, 101)
        counted = np.searchsorted(-scores, -at, side="right") - 1  # the last score that is at least the threshold
        f1 = np.where(counted >= 0, _f1(precision, recall)[counted], 0)
        curves["f1-threshold"] = _curve(at, f1, "score threshold", "F1 (IoU 0.5)")
    return curves


def _curve(x: np.ndarray, y: np.ndarray, xlabel: str, ylabel: str) -> dict[str, Any]:
    return {"x": x.tolist(), "y": y.tolist(), "xlabel": xlabel, "ylabel": ylabel}


def _at_recalls(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """The best precision at each of RECALLS or beyond, 0 where that much is never found (COCO's interpolation)."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, RECALLS, side="left")
    return np.where(at < len(recall), np.append(envelope, 0)[np.minimum(at, len(recall))], 0)
