"""`compress detect`: a network and pictures or videos in, the same with boxes and one JSON file out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import CompressError
from .arguments import AsJson, Names, Network, StageOf, Weights

NAME = "detections.json"


def detect(
    network: Network,
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="Pictures, videos, or folders of them.")],
    stage: StageOf = None,
    weights: Weights = None,
    names: Names = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where drawn pictures and JSON go.")] = Path("detected"),
    confidence: Annotated[
        float, typer.Option(metavar="X", help="The lowest score of a box that counts, from 0 to 1.")
    ] = 0.25,
    batch: Annotated[int, typer.Option(metavar="N", help="Pictures at once.")] = 8,
    device: Annotated[str, typer.Option(metavar="cpu|cuda|auto", help="Where to compute.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Find things in pictures and videos: draws the boxes and writes them all to detections.json.

    Boxes are in pixels of the picture, x0 y0 x1 y1. Videos need PyAV, the extra `video`.
    """
    from ..files import write_json
    from ..stages import detect as detects
    from ..stages.named import open_named
    from ..stages.run import find_device

    if not 0 <= confidence <= 1:
        raise CompressError(f"compress detect: --confidence {confidence}: expected a score from 0 to 1")
    if batch < 1:
        raise CompressError(f"compress detect: --batch {batch}: expected at least 1")
    files = detects.find_files(sources)
    place = find_device(device)
    named = open_named(network, stage, weights, names)
    detector = detects.Detector(named, named.model.to(place), confidence, place)
    found = detects.detect(detector, files, out, batch)
    write_json(out / NAME, found)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    boxes = sum(len(each["boxes"]) for each in (*found["pictures"], *(f for v in found["videos"] for f in v["frames"])))
    counts = {kind: len(found[kind]) for kind in ("pictures", "videos") if found[kind]}
    things = " and ".join(f"{n} {kind if n != 1 else kind.removesuffix('s')}" for kind, n in counts.items())
    print(f"{boxes} boxes in {things}: {out}")
    print(f"all boxes: {out / NAME}", file=sys.stderr)
