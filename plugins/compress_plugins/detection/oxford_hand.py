"""The unpacked Oxford Hand data set in, a YOLO folder out.

A. Mittal, A. Zisserman, P. H. S. Torr: Hand detection using multiple proposals, BMVC 2011;
https://www.robots.ox.ac.uk/~vgg/data/hands/. Training, validation and test images stay apart, as its authors have them.
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from compress import CompressError

from .pictures import UNREADABLE
from .problems import Problems

SPLITS = {
    "train": "training_dataset/training_data",
    "val": "validation_dataset/validation_data",
    "test": "test_dataset/test_data",
}
DATA_YAML = """\
# The Oxford Hand data set (https://www.robots.ox.ac.uk/~vgg/data/hands/) as YOLO folders.
path: .
train: images/train
val: images/val
test: images/test
nc: 1
names: [hand]
"""
WRONG = (KeyError, AttributeError, ValueError, TypeError, IndexError, NotImplementedError, OSError, EOFError)


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote: split -> (images, boxes); and what was wrong and survived, one line a kind."""

    counts: dict[str, tuple[int, int]]
    problems: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(f"{split}: {images} images, {boxes} hands" for split, (images, boxes) in self.counts.items())


def convert(source: Path, destination: Path) -> Converted:
    """Write the data set unpacked in `source` to `destination` as images/, labels/ and data.yaml, all or nothing.

    Each hand is given there by the corners of a rotated rectangle around palm and fingers; the box is the upright
    rectangle around it, as far as it lies in the image. Raises CompressError where a folder is missing, no annotation
    of a split can be read, or `destination` holds something.
    """
    root = _find(source)
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise CompressError(f"{destination}: is there already; name a folder that does not exist, or empty it")
    destination.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=destination.parent, prefix=f".{destination.name}-"))
    try:
        problems = Problems()
        counts = {split: _convert_split(root / folder, beside, split, problems) for split, folder in SPLITS.items()}
        (beside / "data.yaml").write_text(DATA_YAML, encoding="utf-8")
        beside.chmod(0o755)
        if destination.exists():
            destination.rmdir()
        os.replace(beside, destination)
    except BaseException:
        shutil.rmtree(beside)
        raise
    return Converted(counts, problems.lines())


def _find(source: Path) -> Path:
    """The folder that holds the three parts, `source` or its hand_dataset. Raises CompressError naming what is not."""
    needed = [f"{part}/{kind}" for part in SPLITS.values() for kind in ("images", "annotations")]
    for root in (source, source / "hand_dataset"):
        if (root / SPLITS["train"]).is_dir():
            missing = [folder for folder in needed if not (root / folder).is_dir()]
            if missing:
                raise CompressError(f"{root}: {', '.join(missing)} is missing; unpack the whole data set there")
            return root
    raise CompressError(
        f"{source}: no {SPLITS['train']} there; name the folder that the data set was unpacked to (hand_dataset.tar.gz "
        "from https://www.robots.ox.ac.uk/~vgg/data/hands/)"
    )


def _convert_split(source: Path, destination: Path, split: str, problems: Problems) -> tuple[int, int]:
    """Copy the images and write the labels of one split; how many images and boxes."""
    images, labels = destination / "images" / split, destination / "labels" / split
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    written, boxes, unreadable = 0, 0, ""
    for file in sorted((source / "images").glob("*.jpg")):
        annotation = source / "annotations" / f"{file.stem}.mat"
        if not annotation.is_file():
            problems.add("images have no annotation and are left out", file.name)
            continue
        try:
            with Image.open(file) as image:
                size = image.size
        except UNREADABLE:
            problems.add("images cannot be read and are left out", file.name)
            continue
        try:
            rows = to_yolo(read_boxes(annotation), *size)
        except CompressError as error:
            unreadable = str(error)
            problems.add("annotations cannot be read, and their images are left out", annotation.name)
            continue
        seen = (rows[:, 2:] > 0).all(1)
        problems.add("boxes have no area inside their image and are left out", file.name, int((~seen).sum()))
        lines = ["0 {:.6f} {:.6f} {:.6f} {:.6f}\n".format(*row) for row in rows[seen]]
        (labels / f"{file.stem}.txt").write_text("".join(lines), encoding="utf-8")
        shutil.copyfile(file, images / file.name)
        written, boxes = written + 1, boxes + len(lines)
    if not written:
        raise CompressError(unreadable or f"{source / 'images'}: no .jpg image with an annotation there")
    return written, boxes


def read_boxes(annotation: Path) -> np.ndarray:
    """The hands of one .mat file: (n, 4, 2) corners as (x, y), in pixels whose first one spans 0 to 1.

    The file holds a cell array `boxes` of structs with the corners a, b, c, d as MATLAB's (y, x), where the middle of
    the first pixel is 1. Raises CompressError where it holds something else.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        cells = np.atleast_1d(loadmat(annotation, squeeze_me=True, struct_as_record=False)["boxes"])
        corners = [[_corner(cell, name) for name in "abcd"] for cell in cells]
    except (MatReadError, zlib.error, struct.error, *WRONG) as error:
        raise CompressError(
            f"{annotation}: expected MATLAB's cell array `boxes` of corners a, b, c, d as (y, x), found something else "
            f"({type(error).__name__}: {error})"
        ) from error
    return np.array(corners, float).reshape(-1, 4, 2)[:, :, ::-1] - 0.5


def _corner(cell: Any, name: str) -> np.ndarray:
    return np.asarray(getattr(cell, name), float).reshape(2)


def to_yolo(corners: np.ndarray, width: int, height: int) -> np.ndarray:
    """Corners (n, 4, 2) xy pixels -> (n, 4) centre x, y, width, height, fractions of the image, clipped to it."""
    size = np.array([width, height])
    low = np.clip(corners.min(1, initial=np.inf) / size, 0, 1)
    high = np.clip(corners.max(1, initial=-np.inf) / size, 0, 1)
    return np.concatenate([(low + high) / 2, high - low], 1)
