"""Tapered capsules in space in, the height of what a viewer sees of them, and its shading, out.

Pixels of the canvas throughout: x to the right, y down, z towards the viewer (who looks along -z, without perspective).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

FAR = np.float32(-1e6)  # the height where there is nothing


@dataclass(frozen=True)
class Capsules:
    """n tapered capsules: a, b (n, 3) the ends of their axes, ra, rb (n,) the radii there; depth is scaled by flat."""

    a: np.ndarray
    b: np.ndarray
    ra: np.ndarray
    rb: np.ndarray
    flat: float = 1.0

    def moved(self, to: np.ndarray, scale: float) -> Capsules:
        """Scaled about the origin, then moved by `to` (3,)."""
        return Capsules(self.a * scale + to, self.b * scale + to, self.ra * scale, self.rb * scale, self.flat)


@dataclass(frozen=True)
class Window:
    """A rectangle of the canvas: columns x0..x1, rows y0..y1 (excluded)."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def shape(self) -> tuple[int, int]:
        return max(self.y1 - self.y0, 0), max(self.x1 - self.x0, 0)

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def inside(self, other: Window) -> tuple[slice, slice]:
        """Where this window lies in an array of the shape of another one that contains it."""
        return slice(self.y0 - other.y0, self.y1 - other.y0), slice(self.x0 - other.x0, self.x1 - other.x0)

    def within(self, other: Window) -> Window:
        return Window(max(self.x0, other.x0), max(self.y0, other.y0), min(self.x1, other.x1), min(self.y1, other.y1))


def extent(solids: Sequence[Capsules]) -> tuple[np.ndarray, np.ndarray]:
    """The corners (x, y) of the rectangle that the solids can touch, each (2,)."""
    ends = np.concatenate([np.concatenate([s.a[:, :2], s.b[:, :2]]) for s in solids])  # (k, 2)
    radii = np.concatenate([np.concatenate([s.ra, s.rb]) for s in solids])[:, None]
    return (ends - radii).min(0), (ends + radii).max(0)


def window_of(solids: Sequence[Capsules], canvas: tuple[int, int], margin: int = 2) -> Window:
    """The part of a (height, width) canvas that the solids can touch; empty where they lie outside."""
    low, high = extent(solids)
    corners = (*np.floor(low - margin).astype(int), *np.ceil(high + margin).astype(int))
    return Window(*(int(c) for c in corners)).within(Window(0, 0, canvas[1], canvas[0]))


def height(solid: Capsules, window: Window, blend: float = 0.0, onto: np.ndarray | None = None) -> np.ndarray:
    """The nearest surface of the capsules over each pixel of the window, (h, w) float32, FAR beside them.

    blend: surfaces whose heights differ by less than this many pixels flow into one another. onto: a surface that they
    are added to, in place.
    """
    out = np.full(window.shape, FAR, np.float32) if onto is None else onto
    for a, b, ra, rb in zip(solid.a, solid.b, solid.ra, solid.rb, strict=True):
        low, high = np.minimum(a[:2] - ra, b[:2] - rb) - 1, np.maximum(a[:2] + ra, b[:2] + rb) + 2
        part = Window(int(low[0]), int(low[1]), int(high[0]), int(high[1])).within(window)
        if 0 not in part.shape:
            there = part.inside(window)
            out[there] = merge(out[there], _capsule_height(a, b, ra, rb, solid.flat, part), blend)
    return out


def merge(one: np.ndarray, other: np.ndarray, blend: float) -> np.ndarray:
    """The higher of two heights, raised where they are nearly equal (the polynomial smooth maximum)."""
    top = np.maximum(one, other)
    if blend <= 0:
        return top
    near = one - other
    np.abs(near, out=near)
    np.subtract(np.float32(blend), near, out=near)
    np.maximum(near, 0, out=near)
    near *= near
    near *= np.float32(0.25 / blend)
    top += near
    return top


def _capsule_height(a: np.ndarray, b: np.ndarray, ra: float, rb: float, flat: float, window: Window) -> np.ndarray:
    x = np.arange(window.x0, window.x1, dtype=np.float32)[None, :] + np.float32(0.5 - a[0])
    y = np.arange(window.y0, window.y1, dtype=np.float32)[:, None] + np.float32(0.5 - a[1])
    dx, dy, dz = (float(v) for v in b - a)
    length = float(np.hypot(dx, dy)) + 1e-3
    cos, sin = np.float32(dx / length), np.float32(dy / length)
    slope, grow = dz / length, np.float32((rb - ra) / length)
    along = x * cos + y * sin
    across = y * cos - x * sin
    across *= across
    at = np.clip(along, 0, length)
    if abs(slope) > 0.05:
        # the highest point over a pixel lies uphill of the axis' nearest one by slope / sqrt(1 + slope^2) half chords
        chord = np.float32(ra) + grow * at
        chord *= chord
        chord -= across
        np.maximum(chord, 0, out=chord)
        np.sqrt(chord, out=chord)
        chord *= np.float32(slope / np.hypot(1, slope))
        chord += along
        at = np.clip(chord, 0, length, out=chord)
    rest = np.float32(ra) + grow * at
    rest *= rest
    rest -= across
    along -= at
    along *= along
    rest -= along
    beside = rest <= 0
    np.maximum(rest, 0, out=rest)
    np.sqrt(rest, out=rest)
    rest *= np.float32(flat)
    at *= np.float32(slope)
    rest += at
    rest += np.float32(a[2])
    rest[beside] = FAR
    return rest


@dataclass(frozen=True)
class Light:
    """direction: (3,) unit vector towards the light. ambient, diffuse: its share from everywhere and from there."""

    direction: np.ndarray
    ambient: float
    diffuse: float
    shine: float


def shade(
    surface: np.ndarray, solid: np.ndarray, light: Light, reach: float = 0.0, soften: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Heights (h, w), of which the n in the mask `solid` count -> (brightness (n,), highlight (n,)).

    Wrapped diffuse light, darker in hollows narrower than `reach` pixels; folds narrower than `soften` are smoothed.
    """
    floor = surface[solid].min() if solid.any() else np.float32(0)
    filled = np.where(solid, surface, floor - np.float32(reach / 2 + 1))
    if soften >= 1:
        filled = ndimage.uniform_filter(filled, 2 * round(soften) + 1, mode="nearest")
    gy, gx = np.gradient(filled) if min(filled.shape) > 1 else (np.zeros_like(filled), np.zeros_like(filled))
    gx, gy = np.clip(gx[solid], -4, 4), np.clip(gy[solid], -4, 4)
    norm = 1 / np.sqrt(1 + gx * gx + gy * gy)
    lx, ly, lz = (np.float32(v) for v in light.direction)
    bright = np.maximum(((lz - gx * lx - gy * ly) * norm + np.float32(0.25)) * np.float32(light.diffuse / 1.25), 0)
    bright += np.float32(light.ambient)
    if reach >= 1:
        around = ndimage.uniform_filter(filled, int(reach) * 2 + 1, mode="nearest")
        hollow = np.maximum((around - filled)[solid], 0)
        bright *= np.clip(1 - np.float32(0.9 / reach) * hollow, 0.35, 1)
    half = np.array([lx, ly, lz + 1], np.float32) / np.linalg.norm([lx, ly, lz + 1]).astype(np.float32)
    highlight = np.maximum((half[2] - gx * half[0] - gy * half[1]) * norm, 0)
    highlight *= highlight * highlight  # to the power of 3, 6, 12, 24
    for _ in range(3):
        highlight *= highlight
    highlight *= np.float32(light.shine)
    return bright, highlight
