"""A random generator in, one picture with one to four hands and their boxes out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .hand_shape import pose_hand
from .paint import Stuff, draw_hand, random_light, skin_tone
from .scenery import DISTRACTORS, background, draw_obstacle, material, pattern
from .solids import Light, extent

FINER = 2  # the canvas has twice the picture's pixels each way; averaging them smooths all edges
SIDES = (0.28, 0.66)  # a hand's longer side before anything hides it, as a share of the picture's shorter one
VISIBLE = 0.8  # the share of every hand, as far as it is in the picture, that must stay visible
NUMBERS = (0.66, 0.25, 0.07, 0.02)  # how often there are one to four hands
THINGS = (0.45, 0.37, 0.15, 0.03)  # how often none to three things that are not hands
HIDDEN = 0.1  # how often a hand has something in front of it
ATTEMPTS = 12


@dataclass(frozen=True)
class Seen:
    """Of one hand: where it can be seen, (H, W) bool, and on how many pixels it could before anything hid it."""

    mask: np.ndarray
    whole: int


def draw_scene(rng: np.random.Generator, frame: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Picture (3, H, W) uint8 and the boxes (n, 4) float32 xyxy of its n = 1 to 4 hands, for frame = (H, W) pixels.

    A box is tight around the pixels of palm and fingers that can be seen: neither the forearm, nor what lies outside
    the picture, nor what other things hide belongs to it. Of what lies in the picture of a hand, at least VISIBLE can
    be seen.
    """
    canvas = background(rng, (frame[0] * FINER, frame[1] * FINER))
    light = random_light(rng)
    things = tuple(DISTRACTORS)
    for i in rng.choice(len(things), rng.choice(4, p=THINGS), p=list(DISTRACTORS.values())):
        things[i](canvas, rng, light)
    wanted = 1 + int(rng.choice(4, p=NUMBERS))
    hands: list[Seen] = []
    tone = skin_tone(rng)
    for _ in range(ATTEMPTS):
        if len(hands) == wanted:
            break
        if rng.random() < 0.3:
            tone = skin_tone(rng)  # another person's
        hands = _add_hand(rng, canvas, hands, tone, light, SIDES[1] * (0.4 + 0.6 / np.sqrt(wanted)))
    for i in range(len(hands)):
        if rng.random() < HIDDEN:
            hands = _hide(rng, canvas, hands, i, light)
    boxes = np.array([_box(hand.mask) for hand in hands], np.float32) / FINER
    rows = canvas[:, 0::2] + canvas[:, 1::2]  # (3, 2H, 2W) -> (3, H, 2W)
    small = (rows[:, :, 0::2] + rows[:, :, 1::2]) * np.float32(0.25)  # -> (3, H, W)
    return _photograph(rng, small), boxes


def _add_hand(
    rng: np.random.Generator, canvas: np.ndarray, hands: list[Seen], tone: np.ndarray, light: Light, largest: float
) -> list[Seen]:
    """Draw one more hand, unless it would be too small, too far out of the picture or hide too much of another one."""
    shape = canvas.shape[1], canvas.shape[2]
    side = min(shape)
    turn = rng.choice([0, np.pi / 2, -np.pi / 2, np.pi], p=[0.6, 0.15, 0.15, 0.1]) + rng.normal(0, 0.5)
    hand = pose_hand(rng, turn)
    low, high = extent([hand.palm, *hand.fingers])
    size = float(rng.uniform(SIDES[0], largest) * side / (high - low).max())
    half = size * (high - low) / 2
    reach = np.maximum(np.array(shape[::-1]) - half * 1.2, half * 1.2)  # a tenth of the hand may lie outside
    centre = rng.uniform(half * 0.8, reach)
    x, y = centre - size * (low + high) / 2
    hand = hand.moved(x, y, size)
    skin, cloth = Stuff(tone, pattern(rng, shape, 5, 10), rng.uniform(0.02, 0.08)), material(rng, shape)
    before = canvas.copy()
    mask, drawn = draw_hand(canvas, hand, skin, cloth, light)
    still = _behind(hands, drawn)
    if still is None or not mask.any() or (_box(mask)[2:] - _box(mask)[:2]).max() < 0.8 * SIDES[0] * side:
        canvas[:] = before
        return hands
    return [*still, Seen(mask, int(mask.sum()))]


def _hide(rng: np.random.Generator, canvas: np.ndarray, hands: list[Seen], which: int, light: Light) -> list[Seen]:
    """Put something in front of one hand, unless that would hide too much of any."""
    x0, y0, x1, y1 = _box(hands[which].mask)
    before = canvas.copy()
    drawn = draw_obstacle(canvas, rng, light, np.array([(x0 + x1) / 2, (y0 + y1) / 2]), float(max(x1 - x0, y1 - y0)))
    still = _behind(hands, drawn)
    if still is None:
        canvas[:] = before
        return hands
    return still


def _behind(hands: list[Seen], drawn: np.ndarray) -> list[Seen] | None:
    """What can be seen of the hands behind `drawn` (H, W) bool, or None where that is too little of one."""
    still = [Seen(hand.mask & ~drawn, hand.whole) for hand in hands]
    return still if all(hand.mask.sum() >= VISIBLE * hand.whole for hand in still) else None


def _box(mask: np.ndarray) -> np.ndarray:
    """(4,) xyxy of the true pixels of a mask that has some."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def _photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """What a camera adds: white balance, exposure, contrast, blur or motion, noise. (3, H, W) float32 -> uint8."""
    contrast, exposure = rng.uniform(0.85, 1.15), rng.uniform(0.9, 1.2)
    balance = (exposure * contrast * rng.normal(1, 0.05, 3)).astype(np.float32)
    image = image * balance[:, None, None] + np.float32(0.5 * (1 - contrast))
    blur = rng.random()
    if blur < 0.3:
        image = ndimage.gaussian_filter(image, (0, *[rng.uniform(0.3, 0.8) * image.shape[1] / 160] * 2), truncate=2)
    elif blur < 0.35:
        image = ndimage.uniform_filter1d(image, int(rng.integers(2, 5)), axis=int(rng.integers(1, 3)))
    image = image + np.float32(rng.uniform(0, 0.03)) * rng.standard_normal(image.shape, np.float32)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
