"""A YOLO label file in, boxes in fractions of the image out; what is wrong in it is noted and left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .annotated import inside
from .problems import Problems


def labels_of(image: Path) -> Path:
    """Where the labels of an image are: the last folder called `images` (VOC's `JPEGImages`) is `labels` instead."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] in ("images", "JPEGImages"):
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def read_labels(path: Path, classes: int, problems: Problems) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) float32 xyxy in [0, 1] and labels (n,) int64 of one file, `class cx cy w h` a line.

    A line with a class and at least three points (x y ...) is a polygon and gives its bounding box. A missing or empty
    file is an image without objects.
    """
    if not path.is_file():
        problems.add("label files are missing (their images count as empty)", path.name)
        return inside([], [], path.name, problems)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        problems.add("label files cannot be read (their images count as empty)", path.name)
        return inside([], [], path.name, problems)
    rows = [line.split() for line in lines if line.strip()]
    if not rows:
        problems.add("label files are empty (their images count as empty)", path.name)
    boxes, labels = [], []
    for row in rows:
        box = _box(row)
        if box is None:
            problems.add("label lines are not `class cx cy w h` and are left out", path.name)
        elif not (row[0].isdecimal() and int(row[0]) < classes):
            problems.add(f"labels are not a class from 0 to {classes - 1} and are left out", path.name)
        else:
            boxes.append(box)
            labels.append(int(row[0]))
    return inside(boxes, labels, path.name, problems)


def _box(row: list[str]) -> np.ndarray | None:
    """The words of a line -> (4,) xyxy, or None where they are not numbers of a known form."""
    try:
        numbers = np.array([float(word) for word in row[1:]])
    except ValueError:
        return None
    if not np.isfinite(numbers).all():
        return None
    if len(numbers) == 4:
        return np.concatenate([numbers[:2] - numbers[2:] / 2, numbers[:2] + numbers[2:] / 2])
    if len(numbers) >= 6 and len(numbers) % 2 == 0:
        points = numbers.reshape(-1, 2)  # (2k,) -> (k, 2)
        return np.concatenate([points.min(0), points.max(0)])
    return None
