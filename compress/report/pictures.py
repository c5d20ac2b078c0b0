"""A run folder in, the pictures and curves that its stages left there out, ready to stand inside one page."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from .examples import SHOWN
from .figures import TITLES

ROOM = 2_400_000
"""Bytes of base64 that pictures may take, so that the page stays below 3 MB."""

ENDS = (("baseline", "sparse"), ("finetuned", "pruned"))
"""Before and after: in each pair, the first of these networks that has pictures."""


@dataclass(frozen=True)
class Picture:
    """One picture as a data: address. width, height: pixels, None for an SVG, which has its own."""

    source: str
    caption: str
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class Album:
    """What the stages left for the page.

    stages: stage id -> its pictures. examples: for each image, (role's title, picture) of every network that was drawn.
    curves: curve name -> role -> {"x", "y", "xlabel", "ylabel"}. left_out: files that did not fit or could not be read.
    """

    stages: Mapping[str, Sequence[Picture]] = field(default_factory=dict)
    examples: Sequence[Sequence[tuple[str, Picture]]] = ()
    curves: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    left_out: Sequence[str] = ()
    shown: float = SHOWN


def gather(run_folder: Path, roles: Mapping[str, str]) -> Album:
    """Read what stages leave in their folders below a run folder.

    `<stage>/**/*.svg|png`, `<stage>/examples/<role>-<n>.png`, `<stage>/curves.json` (curves by role) and the losses in
    `<stage>/metrics.jsonl`. roles: stage id -> role, in the order of the page; other folders follow by name. Pictures
    are taken in that order until the page is full; examples come first.
    """
    folders = [run_folder / stage for stage in roles if (run_folder / stage).is_dir()]
    folders += [f for f in sorted(run_folder.glob("*")) if f.is_dir() and f not in folders and f.name[0] != "."]
    room, left_out = ROOM, []

    def take(path: Path, caption: str, side: int) -> Picture | None:
        nonlocal room
        try:
            picture = _embed(path, caption, side)
        except (OSError, ValueError) as error:
            left_out.append(f"{path.relative_to(run_folder)} cannot be read: {error}")
            return None
        if len(picture.source) > room:
            left_out.append(f"{path.relative_to(run_folder)} is too large for this page")
            return None
        room -= len(picture.source)
        return picture

    examples: dict[int, list[tuple[str, Picture]]] = {}
    for number, role, path in _drawn(folders):
        if picture := take(path, f"{TITLES[role]}, example {number + 1}", 480):
            examples.setdefault(number, []).append((TITLES[role], picture))
    pictures: dict[str, list[Picture]] = {}
    for folder in folders:
        for path in sorted([*folder.rglob("*.svg"), *folder.rglob("*.png")]):
            if "examples" in path.parts[len(folder.parts) :]:
                continue
            if picture := take(path, _caption(path), 1400):
                pictures.setdefault(folder.name, []).append(picture)
    curves = {**_curves(folders), **_losses({role: run_folder / stage for stage, role in roles.items()})}
    return Album(pictures, list(examples.values()), curves, left_out)


def _drawn(folders: Sequence[Path]) -> list[tuple[int, str, Path]]:
    """(number, role, file) of every example, image by image: one network before the cut, one after it."""
    found = {}
    for folder in folders:
        for path in folder.glob("examples/*-*.png"):
            role, number = path.stem.rsplit("-", 1)
            if number.isdigit():
                found[role, int(number)] = path
    there = {role for role, _ in found}
    shown = [next(role for role in end if role in there) for end in ENDS if there & set(end)]
    return [(n, role, found[role, n]) for n in sorted({n for _, n in found}) for role in shown if (role, n) in found]


def _curves(folders: Sequence[Path]) -> dict[str, dict[str, Any]]:
    curves: dict[str, dict[str, Any]] = {}
    for folder in folders:
        path = folder / "curves.json"
        if path.is_file():
            for role, named in json.loads(path.read_text(encoding="utf-8")).items():
                for name, curve in named.items():
                    curves.setdefault(name, {})[role] = curve
    return curves


def _losses(folders: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Training loss over steps by role, from the step lines of each stage's metrics.jsonl; {} where none trained."""
    losses = {}
    for role, folder in folders.items():
        path = folder / "metrics.jsonl"
        entries = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []
        steps = [(e["step"], e["loss"]) for e in entries if e.get("kind") == "step" and math.isfinite(e["loss"])]
        if steps:
            x, y = zip(*steps, strict=True)
            losses[role] = {"x": x, "y": y, "xlabel": "step", "ylabel": "training loss"}
    return {"loss": losses} if losses else {}


def _caption(path: Path) -> str:
    words = re.sub(r"[-_]+", " ", path.stem).strip()
    return words[:1].upper() + words[1:]


def _embed(path: Path, caption: str, side: int) -> Picture:
    """side: pixels that the longer side of a raster picture has at most."""
    if path.suffix == ".svg":
        return Picture(_address(path.read_bytes(), "image/svg+xml"), caption)
    with Image.open(path) as opened:
        image = opened.convert("RGBA" if "A" in opened.getbands() else "RGB")
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    exact = _webp(image, lossless=True)
    content = exact if len(exact) < 100_000 else _webp(image, quality=86)
    return Picture(_address(content, "image/webp"), caption, image.width, image.height)


def _webp(image: Image.Image, **settings: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, format="WEBP", **settings)
    return content.getvalue()


def _address(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
