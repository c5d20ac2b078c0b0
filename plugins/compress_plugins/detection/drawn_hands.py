"""A seed in, two splits of hands that this project draws itself out; drawn once, then kept in a cache file."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from compress import CompressError, Data

from . import hand_scene, hand_shape, paint, scenery, solids
from .hand_scene import draw_scene
from .split import DetectionDataset, DetectionSplit

logger = logging.getLogger(__name__)


class DrawnHands(DetectionDataset):
    """Hands drawn by this project, so that everything runs without data: synthetic, deterministic, one class.

    Each picture shows one to four articulated hands of any skin tone, with forearms, under some light, among things
    that are not hands. Boxes are tight around what can be seen of palm and fingers. The pictures are drawn at the first
    use and kept in $XDG_CACHE_HOME/torch-compress, or ~/.cache/torch-compress.
    """

    name = "drawn-hands"
    image_size: int | tuple[int, int] = 160
    seed: int = 0
    """Another seed, other pictures."""
    train: int = 1500
    """How many training images."""
    val: int = 320
    """How many validation images; they are the same whatever `train` is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, value, least in (("train", self.train, 1), ("val", self.val, 1), ("seed", self.seed, 0)):
            if value < least:
                raise CompressError(f"{option}: {value} is less than {least}")

    def open(self) -> Data:
        """Read the pictures from the cache or draw them."""
        frame = self.frame()
        drawn = [_load_or_draw(split, self.seed, n, frame) for split, n in (("train", self.train), ("val", self.val))]
        digest = hashlib.sha256()
        for part in drawn:
            for key in sorted(part):
                digest.update(np.ascontiguousarray(part[key]).data)
        train, val = (self._split(split, part) for split, part in zip(("train", "val"), drawn, strict=True))
        return Data(
            name=self.name,
            classes=("hand",),
            train=train,
            val=val,
            image_size=frame,
            fingerprint=digest.hexdigest(),
            synthetic=True,
        )

    def _split(self, split: str, drawn: dict[str, np.ndarray]) -> DetectionSplit:
        ends = np.cumsum(drawn["counts"])
        boxes = np.split(drawn["boxes"], ends[:-1])
        return DetectionSplit(
            images=torch.from_numpy(drawn["images"]),
            boxes=boxes,
            labels=[np.zeros(len(b), np.int64) for b in boxes],
            names=[f"{split}-{i:05d}" for i in range(len(boxes))],
            subsets=[None] * len(boxes),
            how=self.how(),
        )


def _load_or_draw(split: str, seed: int, n: int, frame: tuple[int, int]) -> dict[str, np.ndarray]:
    """From the cache where possible: images (n, 3, H, W) uint8, counts (n,) int64 of hands, boxes (their sum, 4)."""
    file = _cache_folder() / f"drawn-hands-{_key(split, seed, n, frame)}.safetensors"
    try:
        return load_file(file)
    except FileNotFoundError:
        pass
    except (SafetensorError, OSError) as error:
        logger.warning("%s cannot be read (%s); the pictures are drawn again", file, error)
    logger.info("drawing %d pictures of hands (%s), once; they are kept in %s", n, split, file)
    drawn = draw(split, seed, n, frame)
    try:
        _save(drawn, file)
    except OSError as error:
        logger.warning("%s cannot be written (%s); the pictures will be drawn again next time", file, error)
    return drawn


def draw(split: str, seed: int, n: int, frame: tuple[int, int]) -> dict[str, np.ndarray]:
    """Pictures 0..n-1 of a split, each a function of (split, seed, its number, frame) alone."""
    images = np.empty((n, 3, *frame), np.uint8)
    boxes = []
    for i in range(n):
        images[i], own = draw_scene(np.random.default_rng([seed, {"train": 0, "val": 1}[split], i]), frame)
        boxes.append(own)
    counts = np.array([len(own) for own in boxes], np.int64)
    return {"images": images, "counts": counts, "boxes": np.concatenate(boxes).astype(np.float32)}


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch-compress"


def _key(split: str, seed: int, n: int, frame: tuple[int, int]) -> str:
    """Names what was asked for and the very code that draws it, so that no old picture is taken for a new one."""
    code = [Path(module.__file__ or "").read_bytes() for module in (hand_scene, hand_shape, paint, scenery, solids)]
    asked = json.dumps([split, seed, n, frame, np.__version__]).encode()
    return hashlib.sha256(b"\0".join([asked, *code])).hexdigest()[:20]


def _save(drawn: dict[str, np.ndarray], file: Path) -> None:
    """Write beside the file and move into place, so that two runs at once cannot spoil it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=file.parent, prefix=file.name)
    os.close(handle)
    try:
        save_file(drawn, beside)
        os.replace(beside, file)
    except OSError:
        os.unlink(beside)
        raise
