"""Mosaic and multi-scale: boxes stay around what they were around."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compress_plugins.detection.augment import Augment
from compress_plugins.detection.mosaic import mosaic
from compress_plugins.detection.multi_scale import rescale
from compress_plugins.detection.split import DetectionSplit
from hypothesis import given
from hypothesis import strategies as st

from compress import CompressError
from compress.testing.data import _same

FRAME = (64, 96)
COLOURS = ((250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0))


def bright(box: tuple[int, int, int, int], colour: tuple[int, int, int]) -> torch.Tensor:
    """A black image with one box of a colour of its own."""
    image = torch.zeros(3, *FRAME, dtype=torch.uint8)
    image[:, box[1] : box[3], box[0] : box[2]] = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
    return image


def where(image: torch.Tensor, colour: tuple[int, int, int]) -> np.ndarray:
    """(H, W) bool: the pixels of about that colour, those of a blurred edge up to its middle.

    A blurred edge of (250, 250, 0) passes (125, 125, 0), which must not count as red or green.
    """
    return ((image.float() - torch.tensor(colour)[:, None, None]).abs() < 120).all(0).numpy()


def around(image: torch.Tensor, colour: tuple[int, int, int]) -> np.ndarray:
    """xyxy of the pixels of about that colour."""
    y, x = np.nonzero(where(image, colour))
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], np.float32)


@given(seed=st.integers(0, 2**32))
def test_each_box_of_a_mosaic_is_around_its_own_object(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = [(int(rng.integers(0, 40)), int(rng.integers(0, 20))) for _ in COLOURS]
    places = [(x, y, x + int(rng.integers(24, 56)), y + int(rng.integers(20, 44))) for x, y in corners]
    boxes = [np.array([place], np.float32) for place in places]
    image, found, left = mosaic([bright(p, c) for p, c in zip(places, COLOURS, strict=True)], boxes, rng)
    assert image.shape == (3, *FRAME) and found.shape == (len(left), 4)
    for box, which in zip(found, left, strict=True):
        assert np.abs(box - around(image, COLOURS[which])).max() <= 1.5
    well_seen = {k for k, colour in enumerate(COLOURS) if where(image, colour).sum() > 520}
    assert well_seen <= set(left.tolist())


def split(**how: float) -> DetectionSplit:
    places = [(8 * i, 4 * i, 8 * i + 40, 4 * i + 30) for i in range(6)]
    return DetectionSplit(
        images=[bright(place, (250, 250, 250)) for place in places],
        boxes=[np.array([place], np.float32) for place in places],
        labels=[np.array([i]) for i in range(6)],
        names=[f"image-{i}" for i in range(6)],
        subsets=[None] * 6,
        how=Augment(flip=0, scale=0, translate=0, hsv=(0, 0, 0), **how),
    )


def test_a_sample_of_a_mosaic_is_a_function_of_index_and_generator_and_shows_several_images() -> None:
    mixed, plain = split(mosaic=1.0), split()
    seen = set()
    for seed in range(8):
        sample = mixed.sample(2, np.random.default_rng(seed))
        assert _same(sample, mixed.sample(2, np.random.default_rng(seed)))
        seen |= set(sample[1]["labels"].tolist())
        assert len(sample[1]["boxes"]) == len(sample[1]["labels"]) and sample[1]["id"] == "image-2"
    assert len(seen) > 3
    assert _same(mixed.sample(2, None), plain.sample(2, None))  # what is evaluated stays as it is


@given(seed=st.integers(0, 2**32), spread=st.floats(0.05, 0.9))
def test_a_multi_scale_batch_keeps_its_boxes_around_the_objects(seed: int, spread: float) -> None:
    varied = split(multi_scale=spread)
    batch = varied.collate([varied.sample(i, None) for i in (0, 5)])
    images, targets = varied.vary(*batch, np.random.default_rng(seed))
    again, _ = rescale(*batch, spread, np.random.default_rng(seed))
    assert torch.equal(images, again)
    height, width = images.shape[2:]
    assert height % 32 == width % 32 == 0
    for side, full in ((height, FRAME[0]), (width, FRAME[1])):
        assert full * (1 - spread) - 16 <= side <= full * (1 + spread) + 16
    for image, target in zip(images, targets, strict=True):
        box = around(image * 255, (250, 250, 250))
        assert np.abs(box - target["boxes"][0].numpy()).max() <= 1 + max(height / FRAME[0], width / FRAME[1])
    assert batch[0].shape[2:] == FRAME and targets[0]["id"] == "image-0"


@pytest.mark.parametrize("option", ["mosaic", "multi_scale"])
def test_options_out_of_range_are_one_line(option: str) -> None:
    from compress_plugins.detection.drawn_hands import DrawnHands

    with pytest.raises(CompressError, match=f"{option}: 1.5 is not between 0 and 1"):
        DrawnHands(**{option: 1.5})
