"""A canvas, solids and their material in; the canvas with them drawn on it out, and where they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .hand_shape import Hand
from .solids import FAR, Capsules, Light, Window, height, merge, shade, window_of

SKINS = np.array([(0.97, 0.82, 0.72), (0.93, 0.73, 0.60), (0.84, 0.62, 0.47),
                  (0.71, 0.49, 0.35), (0.54, 0.36, 0.26), (0.37, 0.24, 0.18)])  # fmt: skip
SKIN_SHADOW = np.array([1.0, 0.86, 0.80], np.float32)  # light that went through skin is redder
NAIL = np.array([1.08, 0.98, 0.98], np.float32)
SMALLEST_MARKED = 50  # pixels of a hand on which nails and creases can be seen
FACING = 0.25  # the cosine to the viewer from which on they are
CREASES = {"crease": 0.22, "knuckle": 0.14, "line": 0.26}  # how dark


def skin_tone(rng: np.random.Generator) -> np.ndarray:
    """A skin colour (3,) float32 between the lightest and the darkest of SKINS, no two quite alike."""
    at = rng.uniform(0, len(SKINS) - 1)
    low = min(int(at), len(SKINS) - 2)
    tone = SKINS[low] + (at - low) * (SKINS[low + 1] - SKINS[low])
    return np.clip(tone * rng.normal(1, 0.03, 3), 0.05, 1).astype(np.float32)


def random_light(rng: np.random.Generator) -> Light:
    """Light from somewhere above or beside the viewer."""
    angle, up = rng.normal(-np.pi / 2, 1.0), rng.uniform(0.35, 1.3)
    direction = np.array([np.cos(angle) * np.cos(up), np.sin(angle) * np.cos(up), np.sin(up)])
    ambient = rng.uniform(0.35, 0.65)
    return Light(direction, ambient, rng.uniform(1.0, 1.25) - ambient, rng.uniform(0.0, 0.18))


@dataclass(frozen=True)
class Stuff:
    """What a surface is made of: a colour (3,), varied by `strength` times a pattern (H, W) int8 in -127..127."""

    colour: np.ndarray
    pattern: np.ndarray
    strength: float

    def variation(self, window: Window, where: np.ndarray) -> np.ndarray:
        """The brightness (n,) around 1 of the n pixels `where` (h, w) of a window."""
        return 1 + np.float32(self.strength / 127) * self.pattern[window.slices][where]


def draw_hand(canvas: np.ndarray, hand: Hand, skin: Stuff, cloth: Stuff, light: Light) -> tuple[np.ndarray, np.ndarray]:
    """Draw hand, arm and sleeve on the canvas (3, H, W) in place.

    Returns two (H, W) bool masks: palm and fingers; everything drawn.
    """
    size, shape = hand.size, (canvas.shape[1], canvas.shape[2])
    ours, everything = np.zeros(shape, bool), np.zeros(shape, bool)
    window = window_of([hand.palm, *hand.fingers], shape, round(0.25 * size))
    if 0 in window.shape:
        return ours, everything
    arm_window, arm, sleeved = _arm(hand, shape)
    arm_drawn = arm > FAR / 2
    common = window.within(arm_window)
    lower = np.full(window.shape, FAR, np.float32)
    covered = np.zeros(window.shape, bool)
    lower[common.inside(window)] = arm[common.inside(arm_window)]
    covered[common.inside(window)] = sleeved[common.inside(arm_window)]

    own = height(hand.palm, window, 0.12 * size)
    for finger in hand.fingers:
        height(finger, window, 0.025 * size, onto=own)
    hand_seen = (own > FAR / 2) & (own > lower - 0.03 * size) & ~covered
    surface = merge(own, lower, 0.1 * size)
    drawn = surface > FAR / 2

    _cast_shadow(canvas, drawn, window, light, 0.1 * size)
    bright, highlight = shade(arm, arm_drawn, light)
    _put(canvas, arm_window, arm_drawn, _skin_colour(bright, hand, skin, arm_window, arm_drawn) + highlight)
    if hand.sleeve:
        fabric = bright[sleeved[arm_drawn]] * cloth.variation(arm_window, sleeved)
        _put(canvas, arm_window, sleeved, cloth.colour[:, None] * fabric)
    bare = drawn & ~covered
    bright, highlight = shade(surface, bare, light, 0.06 * size, soften=0.015 * size)
    colour = _skin_colour(bright, hand, skin, window, bare)
    if size >= SMALLEST_MARKED:
        ink, nails = (layer[bare] for layer in draw_marks(hand, surface, window))
        colour = colour * (1 - ink) * (1 + 0.6 * nails * (NAIL - 1)[:, None]) + 0.06 * nails
    _put(canvas, window, bare, colour + highlight)
    ours[window.slices] = hand_seen
    everything[arm_window.slices] = arm_drawn
    everything[window.slices] |= drawn
    return ours, everything


def _arm(hand: Hand, shape: tuple[int, int]) -> tuple[Window, np.ndarray, np.ndarray]:
    """The arm's window, its heights (h, w) with the sleeve's, and where the sleeve is outermost."""
    solids = [hand.forearm] + ([hand.sleeve] if hand.sleeve else [])
    window = window_of(solids, shape)
    surface = height(hand.forearm, window)
    if not hand.sleeve:
        return window, surface, np.zeros(window.shape, bool)
    over = height(hand.sleeve, window)
    return window, np.maximum(surface, over), over > surface


def _skin_colour(bright: np.ndarray, hand: Hand, skin: Stuff, window: Window, where: np.ndarray) -> np.ndarray:
    """The colour (3, n) of skin as bright as `bright` (n,): palms paler, shadows redder."""
    tone = skin.colour * (1 + 0.12 * max(hand.palm_seen, 0) * (1.2 - skin.colour))
    shadow = np.clip(np.float32(1.1) - bright, 0, 1)
    lit = bright * skin.variation(window, where)
    redder = zip(tone, 1 - SKIN_SHADOW, strict=True)
    return np.stack([np.float32(base) * lit * (1 - np.float32(loss) * shadow) for base, loss in redder])


def draw_solid(
    canvas: np.ndarray, solid: Capsules, stuff: Stuff, light: Light, shadow: float, blend: float = 0.0
) -> np.ndarray:
    """Draw capsules of one stuff on the canvas (3, H, W) in place; the (H, W) bool mask of where.

    shadow: how far their shadow falls, in pixels.
    """
    mask = np.zeros(canvas.shape[1:], bool)
    window = window_of([solid], (canvas.shape[1], canvas.shape[2]), round(2 * shadow))
    if 0 in window.shape:
        return mask
    surface = height(solid, window, blend)
    drawn = surface > FAR / 2
    bright, highlight = shade(surface, drawn, light)
    if shadow >= 1:
        _cast_shadow(canvas, drawn, window, light, shadow)
    _put(canvas, window, drawn, stuff.colour[:, None] * (bright * stuff.variation(window, drawn)) + highlight)
    mask[window.slices] = drawn
    return mask


def draw_marks(hand: Hand, surface: np.ndarray, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Creases and nails that face the viewer and that nothing covers: how dark, how much nail; (h, w) in [0, 1]."""
    part = window_of([hand.palm, *hand.fingers], (window.y1, window.x1)).within(window)
    there = part.inside(window)
    ink, nails = Image.new("L", part.shape[::-1]), Image.new("L", part.shape[::-1])
    pens = {True: ImageDraw.Draw(nails), False: ImageDraw.Draw(ink)}
    width = max(round(hand.size * 0.012), 1)
    for marks in hand.marks:
        middles = marks.points.mean(1)  # (n, k, 3) -> (n, 3)
        for points, normal, (x, y, z) in zip(marks.points, marks.normals, middles, strict=True):
            column, row = round(x) - part.x0, round(y) - part.y0
            if normal[2] < FACING or not (0 <= row < part.shape[0] and 0 <= column < part.shape[1]):
                continue
            if surface[there][row, column] > z + 0.06 * hand.size:
                continue
            line = [(float(u) - part.x0, float(v) - part.y0) for u, v, _ in points]
            if marks.kind == "nail":
                pens[True].polygon(line, fill=255)
            else:
                strength = int(255 * CREASES[marks.kind] * min(normal[2] * 1.5, 1))
                pens[False].line(line, fill=strength, width=width)
    layers = np.zeros((2, *window.shape), np.float32)
    layers[0][there] = ink.filter(ImageFilter.BoxBlur(width - 1))
    layers[1][there] = nails
    layers *= np.float32(1 / 255)
    return layers[0], layers[1]


def _put(canvas: np.ndarray, window: Window, drawn: np.ndarray, colour: np.ndarray) -> None:
    """Colours (3, n) onto the n pixels `drawn` (h, w) of a window of the canvas (3, H, W)."""
    for plane, values in zip(canvas, colour, strict=True):
        plane[window.slices][drawn] = values


def _cast_shadow(canvas: np.ndarray, drawn: np.ndarray, window: Window, light: Light, distance: float) -> None:
    """Darken the canvas beside what will be drawn, away from the light, softly."""
    dx, dy = (round(-v * distance * 1.5) for v in light.direction[:2])
    to = Window(window.x0 + dx, window.y0 + dy, window.x1 + dx, window.y1 + dy).within(window)
    if 0 in to.shape:
        return
    mask = Image.fromarray(drawn.view(np.uint8) * np.uint8(115)).reduce(4)
    coarse = mask.filter(ImageFilter.BoxBlur(float(distance) / 4))
    blurred = np.asarray(coarse.resize(drawn.shape[::-1], Image.Resampling.BILINEAR))
    part = Window(to.x0 - dx, to.y0 - dy, to.x1 - dx, to.y1 - dy).inside(window)
    rows, columns = to.slices
    canvas[:, rows, columns] *= 1 - blurred[part] * np.float32(1 / 255)
