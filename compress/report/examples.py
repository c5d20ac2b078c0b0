"""Evaluation examples in, pictures with true and found boxes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..files import replaced

SHOWN = 0.3
"""The lowest score of a box that is drawn."""

SIDE = 480
"""Pixels that the longer side of a picture has at least: small network inputs are enlarged by a whole factor."""

SMOOTH = 2
"""Boxes are drawn at this multiple of the size and scaled down, so that their edges are smooth."""

LARGE, SMALL, CROWD = 20, 13, 8
"""Pixels of the text beside a box, and from how many boxes an image has the smaller text."""

COLOURS = ("#21e6b0", "#ffb02e", "#5cb8ff", "#ff6f91", "#c69bff", "#e6f24d")
TRUTH = "#ffffff"


def draw_examples(
    examples: Sequence[Mapping[str, Any]], folder: Path, role: str, classes: Sequence[str] = ()
) -> list[Path]:
    """Draw what a task's evaluation chose to show; return the files `{folder}/{role}-{n}.png`, n from 0.

    Each example holds "image" (H, W, 3) uint8; and, where there are any, "boxes" (n, 4) xyxy pixels, "scores" (n,),
    "labels" (n,) and "truth" (m, 4). True boxes are dashed white, found ones coloured by class with their score; those
    that score below 0.3 are left out. classes: their names; where there are several, a box says which it is.
    """
    paths = []
    for number, example in enumerate(examples):
        path = folder / f"{role}-{number}.png"
        with replaced(path) as beside:
            _draw(example, classes if len(classes) > 1 else ()).save(beside, format="PNG")
        paths.append(path)
    return paths


def _draw(example: Mapping[str, Any], classes: Sequence[str]) -> Image.Image:
    image = Image.fromarray(np.asarray(example["image"], dtype=np.uint8))
    factor = max(1, round(SIDE / max(image.size)))
    size = (image.width * factor, image.height * factor)
    canvas = image.resize((size[0] * SMOOTH, size[1] * SMOOTH), Image.Resampling.BICUBIC)
    draw, scale = ImageDraw.Draw(canvas, "RGBA"), factor * SMOOTH
    for box in _boxes(example.get("truth")) * scale:
        _dashed(draw, box)
    boxes = _boxes(example.get("boxes")) * scale
    scores = np.asarray(example.get("scores", np.ones(len(boxes))), dtype=float).reshape(-1)
    labels = np.asarray(example.get("labels", np.zeros(len(boxes))), dtype=int).reshape(-1)
    pixels = SMALL if (scores >= SHOWN).sum() > CROWD else LARGE
    for place in np.argsort(scores, kind="stable"):  # the surest on top
        if scores[place] >= SHOWN:
            label = int(labels[place])
            text = f"{classes[label]} {scores[place]:.2f}" if label < len(classes) else f"{scores[place]:.2f}"
            _found(draw, boxes[place], text, COLOURS[label % len(COLOURS)], pixels, canvas.width)
    return canvas.resize(size, Image.Resampling.LANCZOS)


def _boxes(boxes: Any) -> np.ndarray:
    """(n, 4) float; n = 0 where there are none."""
    return np.asarray([] if boxes is None else boxes, dtype=float).reshape(-1, 4)


def _dashed(draw: ImageDraw.ImageDraw, box: np.ndarray) -> None:
    x0, y0, x1, y1 = box
    dash, width = 11 * SMOOTH, 3 * SMOOTH
    for (ax, ay), (bx, by) in (((x0, y0), (x1, y0)), ((x1, y0), (x1, y1)), ((x1, y1), (x0, y1)), ((x0, y1), (x0, y0))):
        length = float(np.hypot(bx - ax, by - ay))
        starts = np.arange(0.0, length, 2 * dash)
        for start in starts:
            t0, t1 = start / length, min(1.0, (start + dash) / length)
            ends = [(ax + (bx - ax) * t, ay + (by - ay) * t) for t in (t0, t1)]
            draw.line(ends, fill="#00000088", width=width + 2 * SMOOTH)
            draw.line(ends, fill=TRUTH, width=width)


def _found(draw: ImageDraw.ImageDraw, box: np.ndarray, text: str, colour: str, pixels: int, right: int) -> None:
    """pixels: height of the text in the finished picture. right: where the picture ends."""
    x0, y0, x1, y1 = (float(v) for v in box)
    draw.rectangle((x0, y0, max(x0, x1), max(y0, y1)), outline=colour, width=max(3, pixels // 5) * SMOOTH)
    font = ImageFont.load_default(pixels * SMOOTH)
    width, height = draw.textlength(text, font=font) + pixels // 2 * SMOOTH, 1.3 * pixels * SMOOTH
    left = min(max(0.0, x0), right - width)
    top = y0 - height if y0 >= height else y0
    draw.rectangle((left, top, left + width, top + height), fill=colour)
    draw.text((left + width / 2, top + height / 2), text, fill="#10201b", font=font, anchor="mm")
