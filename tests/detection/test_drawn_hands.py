"""Drawn hands: deterministic, cached, their boxes where the hands are, their solids against points on spheres."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from compress_plugins.detection.drawn_hands import DrawnHands, draw
from compress_plugins.detection.hand_scene import SIDES, draw_scene
from compress_plugins.detection.hand_shape import pose_hand
from compress_plugins.detection.paint import Stuff, draw_hand, random_light
from compress_plugins.detection.solids import FAR, Capsules, Window, extent, height
from hypothesis import given, settings
from hypothesis import strategies as st

from compress import CompressError
from compress.plugins import installed


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "torch-compress"


def test_the_same_seed_draws_the_same_pictures_and_says_that_they_are_synthetic(cache: Path) -> None:
    first = DrawnHands(image_size=64, train=4, val=3).open()
    files = {file: file.stat().st_mtime_ns for file in cache.iterdir()}
    assert len(files) == 2
    again = DrawnHands(image_size=64, train=4, val=3).open()
    assert {file: file.stat().st_mtime_ns for file in cache.iterdir()} == files
    for file in files:
        file.unlink()
    redrawn = DrawnHands(image_size=64, train=4, val=3).open()
    for other in (again, redrawn):
        assert other.fingerprint == first.fingerprint
        for i in range(4):
            assert torch.equal(first.train.sample(i, None)[0], other.train.sample(i, None)[0])
            assert torch.equal(first.train.sample(i, None)[1]["boxes"], other.train.sample(i, None)[1]["boxes"])
    assert first.synthetic and first.classes == ("hand",) and first.problems == () and first.subsets == ()
    assert (len(first.train), len(first.val), first.image_size) == (4, 3, (64, 64))


def test_more_pictures_begin_with_the_fewer_and_splits_and_seeds_share_none() -> None:
    few, more = draw("train", 0, 2, (64, 64)), draw("train", 0, 3, (64, 64))
    assert np.array_equal(few["images"], more["images"][:2])
    others = [draw("val", 0, 2, (64, 64)), draw("train", 1, 2, (64, 64))]
    pictures = {image.tobytes() for part in (more, *others) for image in part["images"]}
    assert len(pictures) == 7
    seeds = {DrawnHands(image_size=64, train=1, val=1, seed=seed).open().fingerprint for seed in range(2)}
    assert len(seeds) == 2


def test_a_spoilt_cache_is_drawn_again_and_none_is_needed(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = DrawnHands(image_size=64, train=2, val=1)
    first = dataset.open().fingerprint
    for file in cache.iterdir():
        file.write_bytes(file.read_bytes()[:100])
    assert dataset.open().fingerprint == first
    assert "drawn again" in caplog.text
    for file in cache.iterdir():
        file.unlink()
    cache.rmdir()
    cache.write_text("a file where the folder should be")
    assert dataset.open().fingerprint == first
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize("frame", [(96, 96), (64, 128)])
def test_every_picture_shows_one_to_four_hands_of_useful_size(frame: tuple[int, int]) -> None:
    counts, sides = [], []
    for seed in range(40):
        image, boxes = draw_scene(np.random.default_rng(seed), frame)
        assert image.shape == (3, *frame) and image.dtype == np.uint8 and image.std() > 3
        assert boxes.dtype == np.float32
        assert (boxes >= 0).all() and (boxes[:, [0, 2]] <= frame[1]).all() and (boxes[:, [1, 3]] <= frame[0]).all()
        counts.append(len(boxes))
        sides += list((boxes[:, 2:] - boxes[:, :2]).max(1) / min(frame))
    assert set(counts) >= {1, 2, 3} and max(counts) <= 4
    assert max(sides) < SIDES[1] + 0.05 and max(sides) > 2 * min(sides)
    assert np.quantile(sides, 0.02) > 0.6 * SIDES[0]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.floats(-3.1, 3.1))
def test_the_mask_of_a_hand_is_where_its_palm_and_fingers_are(seed: int, turn: float) -> None:
    """Alone on the canvas, the drawn part of a hand reaches exactly as far as its capsules do; nothing else changes."""
    rng = np.random.default_rng(seed)
    hand = pose_hand(rng, turn).moved(150, 150, 90)
    away = Capsules(np.full((1, 3), -900.0), np.full((1, 3), -901.0), np.ones(1), np.ones(1))
    hand = dataclasses.replace(hand, forearm=away, sleeve=None)
    canvas = np.full((3, 300, 300), 0.5, np.float32)
    red = Stuff(np.array([0.9, 0.1, 0.1], np.float32), np.zeros((300, 300), np.int8), 0)
    mask, drawn = draw_hand(canvas, hand, red, red, random_light(rng))
    assert np.array_equal(mask, drawn)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    low, high = extent([hand.palm, *hand.fingers])
    found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    np.testing.assert_allclose(found, [*low, *high], atol=1.6)
    reddish = canvas[0] - canvas[1] > 0.02
    assert (reddish <= mask).all() and reddish.sum() > 0.9 * mask.sum()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_a_capsule_is_the_union_of_the_spheres_along_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(8, 32, (2, 3))
    radius = rng.uniform(3, 8)
    solid = Capsules(a[None], b[None], np.array([radius]), np.array([radius]))
    ours = height(solid, Window(0, 0, 40, 40))
    y, x = np.mgrid[:40, :40] + 0.5
    best = np.full((40, 40), -np.inf)
    for t in np.linspace(0, 1, 400):
        centre = a + t * (b - a)
        rest = radius**2 - (x - centre[0]) ** 2 - (y - centre[1]) ** 2
        best = np.maximum(best, np.where(rest > 0, centre[2] + np.sqrt(np.maximum(rest, 0)), -np.inf))
    inside = (ours > FAR / 2) & np.isfinite(best)
    assert ((ours > FAR / 2) != np.isfinite(best)).sum() <= 6  # pixels that the rim just touches
    np.testing.assert_allclose(ours[inside], best[inside], atol=0.6)


def test_wrong_options_are_said() -> None:
    wrong = (({"train": 0}, "train: 0 is less than 1"), ({"seed": -1}, "seed: -1"), ({"image_size": 50}, "of 32"))
    for options, said in wrong:
        with pytest.raises(CompressError, match=said):
            installed().make("datasets", {"uses": "drawn-hands", **options})
    assert installed().make("datasets", "drawn-hands").val >= 300
