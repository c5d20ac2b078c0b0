"""Pictures and videos in, the same with the boxes that a network finds - and all boxes as JSON values - out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import nn

from ..errors import CompressError
from ..files import replaced
from ..training.progress import Progress
from . import video
from .named import Named

PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""What Pillow raises on broken files."""
COLOURS = ("#21e6b0", "#ffb02e", "#5cb8ff", "#ff6f91", "#c69bff", "#e6f24d")
NAMED = 3


@dataclass(frozen=True)
class Detector:
    """A network at work on pictures. confidence: the lowest score that counts. device: where `model` is."""

    named: Named
    model: nn.Module
    confidence: float
    device: str

    def find(self, pictures: Sequence[np.ndarray]) -> list[list[dict[str, Any]]]:
        """Pictures, each (h, w, 3) uint8 -> for each its boxes {"box": [x0, y0, x1, y1], "score", "label", "class"}.

        Corners are in pixels of the picture, from its top left corner; best first.
        """
        fitted = [self.named.origin.fit(picture) for picture in pictures]
        images = torch.stack([image for image, _ in fitted]).to(self.device).float().div_(255)
        found = self.named.origin.task.detect(self.model, images)
        return [
            self._in_picture(each, place, picture.shape[:2])
            for each, (_, place), picture in zip(found, fitted, pictures, strict=True)
        ]

    def _in_picture(self, found: Any, place: tuple[int, int, int, int], shape: Sequence[int]) -> list[dict[str, Any]]:
        left, top, width, height = place
        size = np.array([shape[1], shape[0]] * 2, float)
        boxes = (found["boxes"].double().numpy() - [left, top] * 2) / ([width, height] * 2) * size
        rows = zip(np.clip(boxes, 0, size), found["scores"].tolist(), found["labels"].tolist(), strict=True)
        classes = self.named.origin.classes
        return [
            {
                "box": [round(v, 2) for v in box.tolist()],
                "score": round(score, 4),
                "label": label,
                "class": classes[label],
            }
            for box, score, label in rows
            if score >= self.confidence and (box[2:] > box[:2]).all()
        ]


def find_files(sources: Sequence[Path]) -> list[tuple[Path, Path]]:
    """(file, its name under the output folder) of every picture and video: files as given, folders with all in them.

    Raises CompressError where a source is missing, is no picture or video, or a folder holds none.
    """
    found: dict[Path, Path] = {}
    for source in sources:
        if source.is_dir():
            files = sorted(path for path in source.rglob("*") if path.suffix.lower() in (*PICTURES, *VIDEOS))
            if not files:
                raise CompressError(f"{source}: no picture or video in it ({', '.join((*PICTURES, *VIDEOS))})")
            found |= {file: file.relative_to(source) for file in files}
        elif not source.is_file():
            raise CompressError(f"{source}: no such file or folder")
        elif source.suffix.lower() not in (*PICTURES, *VIDEOS):
            raise CompressError(f"{source}: neither a picture nor a video ({', '.join((*PICTURES, *VIDEOS))})")
        else:
            found[source] = Path(source.name)
    names = list(found.values())
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise CompressError(f"two files would become {twice} in the output folder; give them in two calls")
    return list(found.items())


def detect(
    detector: Detector, files: Sequence[tuple[Path, Path]], out: Path, batch: int, progress: Progress | None = None
) -> dict[str, Any]:
    """Draw what is found into `out`, and return it all.

    Returns {"network", "classes", "confidence", "pictures": [{"file", "drawn", "width", "height", "boxes"}], "videos":
    [{"file", "drawn", "width", "height", "frames_per_second", "frames": [{"seconds", "boxes"}]}], "unreadable"}.
    Files that cannot be read are left out and named. Raises CompressError where none can be read.
    """
    progress = progress or Progress()
    pictures = [(file, name) for file, name in files if file.suffix.lower() in PICTURES]
    videos = [(file, name) for file, name in files if file.suffix.lower() in VIDEOS]
    if videos:
        video.require()
    unreadable: list[str] = []
    drawn: list[dict[str, Any]] = []
    if pictures:
        with progress.bar("detecting", len(pictures)) as advance:
            for group in _groups(pictures, batch, unreadable, advance):
                for (file, name, pixels), boxes in zip(group, detector.find([p for *_, p in group]), strict=True):
                    height, width = pixels.shape[:2]
                    facts = {"width": width, "height": height, "boxes": boxes}
                    drawn.append({"file": str(file), "drawn": str(_save(draw(pixels, boxes), out / name)), **facts})
    shown = [each for file, name in videos if (each := _video(detector, file, out / name, batch, progress, unreadable))]
    if not drawn and not shown:
        raise CompressError(f"{files[0][0]}: cannot be read, nor any other of the {len(files)} files")
    if unreadable:
        more = f" and {len(unreadable) - NAMED} more" if len(unreadable) > NAMED else ""
        progress.say(f"{len(unreadable)} files cannot be read and are left out: {', '.join(unreadable[:NAMED])}{more}")
    return {
        "network": detector.named.name,
        "classes": list(detector.named.origin.classes),
        "confidence": detector.confidence,
        "pictures": drawn,
        "videos": shown,
        "unreadable": unreadable,
    }


def _groups(
    files: Sequence[tuple[Path, Path]], batch: int, unreadable: list[str], advance: Any
) -> Iterator[list[tuple[Path, Path, np.ndarray]]]:
    group: list[tuple[Path, Path, np.ndarray]] = []
    for file, name in files:
        try:
            with Image.open(file) as image:
                group.append((file, name, np.array(ImageOps.exif_transpose(image).convert("RGB"))))
        except UNREADABLE:
            unreadable.append(str(file))
        advance(1)
        if len(group) == batch:
            yield group
            group = []
    if group:
        yield group


def _save(image: Image.Image, wanted: Path) -> Path:
    """Write a picture in its own format where that is JPEG or PNG, else as PNG; the path it got."""
    kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}.get(wanted.suffix.lower())
    place = wanted if kind else wanted.with_name(f"{wanted.name}.png")
    with replaced(place) as beside:
        image.save(beside, format=kind or "PNG", quality=92)
    return place


def _video(
    detector: Detector, file: Path, out: Path, batch: int, progress: Progress, unreadable: list[str]
) -> dict[str, Any] | None:
    out = out.with_suffix(".mp4")
    frames: list[dict[str, Any]] = []
    try:
        with video.reading(file) as clip, progress.bar(f"detecting in {file.name}", max(clip.frames, 1)) as advance:
            with video.writing(out, clip.rate, clip.size) as write:
                for group in clip.batches(batch):
                    for pixels, boxes in zip(group, detector.find(group), strict=True):
                        frames.append({"seconds": round(float(len(frames) / clip.rate), 4), "boxes": boxes})
                        write(np.asarray(draw(pixels, boxes)))
                    advance(len(group))
            width, height = clip.size
            facts = {"width": width, "height": height, "frames_per_second": round(float(clip.rate), 4)}
    except video.Unreadable:
        unreadable.append(str(file))
        return None
    return {"file": str(file), "drawn": str(out), **facts, "frames": frames}


def draw(pixels: np.ndarray, boxes: Sequence[dict[str, Any]]) -> Image.Image:
    """A picture (h, w, 3) uint8 with its boxes, each in its class's colour with class and score, the surest on top."""
    image = Image.fromarray(pixels)
    line = max(2, round(max(image.size) / 400))
    letters = max(11, 6 * line)  # pixels high
    font = ImageFont.load_default(letters)
    canvas = ImageDraw.Draw(image)
    for each in reversed(boxes):
        x0, y0, x1, y1 = each["box"]
        colour, text = COLOURS[each["label"] % len(COLOURS)], f"{each['class']} {each['score']:.2f}"
        canvas.rectangle((x0, y0, x1, y1), outline=colour, width=line)
        width, height = canvas.textlength(text, font=font) + 2 * line, letters + 2 * line
        left, top = min(max(0.0, x0), max(0.0, image.width - width)), y0 - height if y0 >= height else y0
        canvas.rectangle((left, top, left + width, top + height), fill=colour)
        canvas.text((left + width / 2, top + height / 2), text, fill="#10201b", font=font, anchor="mm")
    return image
