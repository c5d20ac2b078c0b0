"""A random generator in, what stands behind and around hands out: backgrounds and things that are not hands."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from .paint import Stuff, draw_solid, skin_tone
from .solids import Capsules, Light


@lru_cache(maxsize=2)
def patterns(shape: tuple[int, int]) -> np.ndarray:
    """The grain of things, the same in every picture: 20 patterns (20, 2H, 2W) int8, ten mottled, ten striped."""
    rng = np.random.default_rng(2017)
    size = 2 * shape[0], 2 * shape[1]
    mottled = [_mottle(rng, size, cells) for cells in (3, 4, 6, 9, 14, 22, 34, 52, 80, 120)]
    striped = [_stripe(rng, size, period * shape[1]) for period in np.geomspace(0.03, 0.25, 10)]
    return np.stack(mottled + striped)


def _mottle(rng: np.random.Generator, size: tuple[int, int], cells: int) -> np.ndarray:
    coarse = Image.fromarray(rng.integers(0, 255, (2 * cells, 2 * cells), np.uint8))
    fine = np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC), np.int16)
    return (fine - 127).clip(-127, 127).astype(np.int8)


def _stripe(rng: np.random.Generator, size: tuple[int, int], period: float) -> np.ndarray:
    """Waves across some direction, bent or straight, soft or sharp."""
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    phase = (x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))) * np.float32(2 * np.pi / period)
    phase += _mottle(rng, size, 5) * np.float32(rng.choice([0, 0.02, 0.06]))
    return np.clip(np.sin(phase) * rng.choice([127, 127, 600]), -127, 127).astype(np.int8)


def pattern(rng: np.random.Generator, shape: tuple[int, int], first: int, last: int) -> np.ndarray:
    """Some part (H, W) int8 of one of the patterns first..last-1, perhaps mirrored."""
    y, x = rng.integers(0, shape[0] + 1), rng.integers(0, shape[1] + 1)
    part = patterns(shape)[rng.integers(first, last), y : y + shape[0], x : x + shape[1]]
    return part[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]


def varied(rng: np.random.Generator, shape: tuple[int, int], first: int, last: int, strength: float) -> np.ndarray:
    """A pattern as brightness (H, W) float32 around 1."""
    return 1 + np.float32(strength / 127) * pattern(rng, shape, first, last)


def material(rng: np.random.Generator, shape: tuple[int, int], colour: np.ndarray | None = None) -> Stuff:
    """A colour (any, unless it is given), with the grain of plain, mottled or striped stuff."""
    colour = any_colour(rng) if colour is None else colour
    kind = rng.random()
    if kind < 0.4:
        return Stuff(colour, pattern(rng, shape, 6, 9), 0.06)
    if kind < 0.7:
        return Stuff(colour, pattern(rng, shape, 2, 7), 0.2)
    return Stuff(colour, pattern(rng, shape, 10, 20), rng.uniform(0.1, 0.5))


def any_colour(rng: np.random.Generator) -> np.ndarray:
    """(3,) float32: mostly muted, now and then saturated, dark to bright."""
    return np.clip(rng.uniform(0.1, 0.95) + rng.normal(0, rng.choice([0.02, 0.06, 0.2]), 3), 0.03, 1).astype(np.float32)


def background(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A wall, a table, a room, cloth, wood, foliage or clutter: (3, H, W) float32 in [0, 1]."""
    image = _blotches(rng, shape, int(rng.choice([2, 3, 5, 9])), any_colour(rng), rng.choice([0.05, 0.12, 0.25]))
    draw = ImageDraw.Draw(image)
    kind = rng.choice(["plain", "room", "clutter", "foliage", "wood"], p=[0.24, 0.32, 0.2, 0.12, 0.12])
    if kind == "room":
        _draw_room(rng, draw, shape)
    elif kind == "clutter":
        _draw_clutter(rng, draw, shape, int(rng.integers(8, 40)))
    elif kind == "foliage":
        for _ in range(int(rng.integers(20, 50))):
            green = np.array([rng.uniform(0.1, 0.6), rng.uniform(0.3, 0.7), rng.uniform(0.05, 0.3)])
            _draw_leaf(rng, draw, shape, rng.uniform(0.05, 0.2) * shape[1], green)
    canvas = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)) * np.float32(1 / 255)  # (H, W, 3) -> (3, H, W)
    shades = varied(rng, shape, 0, 3, rng.uniform(0, 0.3)) * varied(rng, shape, 5, 10, rng.uniform(0, 0.15))
    if kind == "wood":
        canvas *= np.float32(0.2)
        canvas += np.float32(0.8) * skin_tone(rng)[:, None, None]
        shades *= varied(rng, shape, 10, 20, rng.uniform(0.05, 0.25))
    elif kind == "plain" and rng.random() < 0.4:
        shades *= varied(rng, shape, 10, 20, rng.uniform(0.05, 0.35))
    canvas *= shades
    return np.clip(canvas, 0, 1, canvas)


def _blotches(
    rng: np.random.Generator, shape: tuple[int, int], cells: int, colour: np.ndarray, spread: float
) -> Image.Image:
    grey, chroma = rng.normal(0, spread, (cells, cells, 1)), rng.normal(0, 0.4 * spread, (cells, cells, 3))
    coarse = np.clip(colour + grey + chroma, 0, 1)
    return Image.fromarray((coarse * 255).astype(np.uint8)).resize(shape[::-1], Image.Resampling.BICUBIC)


def _ink(colour: np.ndarray) -> tuple[int, int, int]:
    r, g, b = (int(255 * min(max(c, 0.0), 1.0)) for c in colour.tolist())
    return r, g, b


def _draw_room(rng: np.random.Generator, draw: ImageDraw.ImageDraw, shape: tuple[int, int]) -> None:
    """Wall and table with things on both."""
    h, w = shape
    horizon = rng.uniform(0.15, 0.7) * h
    tilt = rng.normal(0, 0.06) * h
    table = skin_tone(rng) if rng.random() < 0.25 else any_colour(rng)
    _draw_clutter(rng, draw, (int(horizon) + 1, w), int(rng.integers(2, 10)))
    draw.polygon([(0, horizon - tilt), (w, horizon + tilt), (w, h), (0, h)], fill=_ink(table))
    for _ in range(int(rng.integers(0, 7))):  # sheets, books, plates
        x, y = rng.uniform(0, w), rng.uniform(horizon, h)
        a, b = rng.uniform(0.05, 0.25) * w, rng.uniform(0.02, 0.15) * h
        colour, skew = _ink(any_colour(rng)), rng.normal(0, 0.4) * a
        if rng.random() < 0.5:
            draw.polygon([(x, y), (x + a, y), (x + a + skew, y + b), (x + skew, y + b)], fill=colour)
        else:
            draw.ellipse([x, y, x + a, y + b], fill=colour)


def _draw_clutter(rng: np.random.Generator, draw: ImageDraw.ImageDraw, shape: tuple[int, int], pieces: int) -> None:
    h, w = shape
    for _ in range(pieces):
        x, y, r = rng.uniform(0, w), rng.uniform(0, h), rng.uniform(0.03, 0.25) * w
        colour = _ink(skin_tone(rng) if rng.random() < 0.08 else any_colour(rng))
        kind = rng.random()
        if kind < 0.4:
            corners = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 7))))
            draw.polygon([(x + r * np.cos(t), y + r * np.sin(t)) for t in corners], fill=colour)
        elif kind < 0.65:
            draw.rectangle([x, y, x + r, y + r * rng.uniform(0.3, 2)], fill=colour)
        elif kind < 0.85:
            draw.ellipse([x, y, x + r, y + r * rng.uniform(0.5, 1.5)], fill=colour)
        else:
            draw.line([(x, y), tuple(rng.uniform(0, 1, 2) * [w, h])], fill=colour, width=int(rng.integers(1, 8)))


def _draw_leaf(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, shape: tuple[int, int], size: float, colour: np.ndarray
) -> None:
    """A leaf of one to seven lobes, like a hand at a glance."""
    lobes, sharp = int(rng.choice([1, 3, 5, 5, 7])), rng.uniform(0.6, 2.5)
    x, y = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
    angle = np.linspace(-np.pi, np.pi, 60)
    radius = size * (0.35 + 0.65 * np.abs(np.cos(angle * lobes / 2)) ** sharp) * (0.3 + 0.7 * np.cos(angle / 2) ** 0.7)
    turn = rng.uniform(0, 2 * np.pi)
    points = [(x + r * np.cos(a + turn), y + r * np.sin(a + turn)) for a, r in zip(angle, radius, strict=True)]
    draw.polygon(points, fill=_ink(colour))
    vein = _ink(colour * rng.uniform(0.6, 1.3))
    for a in np.linspace(-1.6, 1.6, lobes) if lobes > 1 else [0.0]:
        draw.line([(x, y), (x + size * 0.7 * np.cos(a + turn), y + size * 0.7 * np.sin(a + turn))], fill=vein)


def draw_leaf(canvas: np.ndarray, rng: np.random.Generator, light: Light) -> None:
    """One large leaf, green to the colours of autumn, on the canvas in place."""
    h, w = canvas.shape[1:]
    colour = np.array([rng.uniform(0.2, 0.85), rng.uniform(0.3, 0.65), rng.uniform(0.05, 0.4)])
    image = Image.new("RGB", (w, h))
    _draw_leaf(rng, ImageDraw.Draw(image), (h, w), rng.uniform(0.1, 0.3) * w, colour)
    leaf = np.asarray(image)
    there = leaf.any(2)
    for plane, values in zip(canvas, leaf[there].T, strict=True):
        plane[there] = values * np.float32(1 / 255)


def draw_face(canvas: np.ndarray, rng: np.random.Generator, light: Light) -> None:
    """A person: shoulders, neck, head, hair, eyes, mouth."""
    shape = canvas.shape[1:]
    r = rng.uniform(0.05, 0.14) * shape[1]
    x, y = rng.uniform(0.1, 0.9) * shape[1], rng.uniform(0.05, 0.5) * shape[0]
    cloth, skin = material(rng, shape), Stuff(skin_tone(rng), pattern(rng, shape, 6, 9), 0.04)
    brown = np.array([1, 0.8, 0.6], np.float32) * np.float32(rng.uniform(0.05, 0.5))
    hair = Stuff(brown, pattern(rng, shape, 6, 10), 0.3)
    eyes = replace(hair, colour=hair.colour * 0.5)
    lips = replace(skin, colour=skin.colour * np.array([0.8, 0.5, 0.5], np.float32))
    broad = rng.uniform(0.9, 1.15)

    def lump(ax: float, ay: float, az: float, bx: float, by: float, bz: float, radii: tuple, stuff: Stuff) -> None:
        p = np.array([[x + ax * r * broad, y + ay * r, az * r], [x + bx * r * broad, y + by * r, bz * r]])
        solid = Capsules(p[:1], p[1:], np.array(radii[:1]) * r, np.array(radii[1:]) * r, 0.7)
        draw_solid(canvas, solid, stuff, light, 0.2 * r if radii[0] > 0.5 else 0.0)

    if rng.random() < 0.7:
        lump(0, 4, -2, 0, 8, -2, (2.4, 2.6), cloth)
    lump(-1.6, 3.4, -2, 1.6, 3.4, -2, (1.3, 1.3), cloth)
    lump(0, 1, -1, 0, 2, -1, (0.5, 0.6), skin)
    lump(0, -0.35, -0.2, 0, rng.choice([0.0, 0.6]), -0.3, (1.05, 1.0), hair)
    lump(0, 0, 0, 0, 0.55, 0, (0.88, 0.66), skin)
    lump(0, 0.1, 0.6, 0, 0.4, 0.7, (0.1, 0.15), skin)
    for side in (-1, 1):
        lump(side * 0.36, 0.02, 0.5, side * 0.42, 0.02, 0.5, (0.11, 0.11), eyes)
    lump(-0.25, 0.72, 0.4, 0.25, 0.72, 0.4, (0.08, 0.08), lips)


def draw_limb(canvas: np.ndarray, rng: np.random.Generator, light: Light) -> None:
    """A bare arm or leg without a hand, bent, across the whole picture."""
    h, w = canvas.shape[1:]
    angle, thick = rng.uniform(0, 2 * np.pi), rng.uniform(0.03, 0.1) * w
    middle, bend = rng.uniform(0.1, 0.9, 2) * [w, h], angle + rng.normal(0, 0.8)
    far = 2 * max(h, w) * np.array([[np.cos(angle), np.sin(angle)], [np.cos(bend), np.sin(bend)]])
    joints = np.array([[*(middle - far[0]), 0], [*middle, 0], [*(middle + far[1]), 0]])
    radii = thick * np.array([1.2, 0.9, 1.1])
    skin = Stuff(skin_tone(rng), pattern(rng, (h, w), 5, 9), 0.05)
    draw_solid(canvas, Capsules(joints[:-1], joints[1:], radii[:-1], radii[1:], 0.8), skin, light, 0.3 * thick)


def draw_rods(canvas: np.ndarray, rng: np.random.Generator, light: Light) -> None:
    """Fingers without a hand: pens, sausages, bananas or a comb, side by side, skin-coloured or not."""
    h, w = canvas.shape[1:]
    n, thick = int(rng.integers(2, 6)), rng.uniform(0.008, 0.025) * w
    angle, fan, length = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.3), thick * rng.uniform(5, 16)
    foot = rng.uniform(0.1, 0.9, 2) * [w, h]
    a = angle + fan * (np.arange(n) - n / 2)
    across = np.array([-np.sin(angle), np.cos(angle)])
    starts = foot + across * (thick * rng.uniform(1.5, 3) * np.arange(n))[:, None]
    ends = starts + length * np.stack([np.cos(a), np.sin(a)], 1)
    depth = np.zeros((n, 1))
    r = np.full(n, thick)
    stuff = Stuff(skin_tone(rng) if rng.random() < 0.6 else any_colour(rng), pattern(rng, (h, w), 6, 9), 0.05)
    rods = Capsules(np.concatenate([starts, depth], 1), np.concatenate([ends, depth], 1), r, r * rng.uniform(0.5, 1))
    draw_solid(canvas, rods, stuff, light, thick)


def draw_ball(canvas: np.ndarray, rng: np.random.Generator, light: Light) -> None:
    """A ball, an egg, a potato or a heel, often the colour of skin."""
    h, w = canvas.shape[1:]
    r, a = rng.uniform(0.03, 0.12) * w, rng.uniform(0, 2 * np.pi)
    x, y, long = rng.uniform(0, w), rng.uniform(0, h), rng.uniform(0, 1.5)
    ends = np.array([[x, y, 0], [x + long * r * np.cos(a), y + long * r * np.sin(a), 0]])
    stuff = material(rng, (h, w), skin_tone(rng) if rng.random() < 0.7 else None)
    radii = np.array([r, r * rng.uniform(0.6, 1)])
    draw_solid(canvas, Capsules(ends[:1], ends[1:], radii[:1], radii[1:]), stuff, light, 0.3 * r)


DISTRACTORS = {draw_face: 0.3, draw_limb: 0.1, draw_rods: 0.2, draw_ball: 0.15, draw_leaf: 0.25}
"""Each with how often it is taken."""


def draw_obstacle(
    canvas: np.ndarray, rng: np.random.Generator, light: Light, at: np.ndarray, size: float
) -> np.ndarray:
    """A stick, a bottle or a card in front of `at` (x, y), of a hand `size` pixels long; its (H, W) bool mask."""
    h, w = canvas.shape[1:]
    angle, thick = rng.uniform(0, np.pi), size * rng.choice([0.05, 0.12, 0.25]) * rng.uniform(0.7, 1.3)
    along = np.array([np.cos(angle), np.sin(angle)]) * size * rng.uniform(0.3, 2.5)
    middle = at + rng.normal(0, 0.25, 2) * size
    ends = np.array([[*(middle - along), size], [*(middle + along), size]])
    radius = np.array([thick])
    stick = Capsules(ends[:1], ends[1:], radius, radius * rng.uniform(0.5, 1), float(rng.choice([0.15, 1.0])))
    return draw_solid(canvas, stick, material(rng, (h, w)), light, 0.5 * thick)
