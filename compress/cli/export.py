"""`compress export`: a network and formats in, files that compute the same out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import CompressError
from .arguments import AsJson, Names, Network, StageOf, Weights, say_line


def export(
    network: Network,
    formats: Annotated[
        list[str],
        typer.Argument(metavar="FORMAT...", help="darknet, onnx, torch-export, or another exporter's name."),
    ],
    stage: StageOf = None,
    weights: Weights = None,
    names: Names = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where each format gets a folder of its own.")] = Path(
        "exported"
    ),
    as_json: AsJson = False,
) -> None:
    """Write a network in other formats. Each file is read back and run, and is refused if it computes something else.

    A refused file is not left behind, and the exit code is 1.
    """
    from ..stages.export import write_formats
    from ..stages.named import open_named

    named = open_named(network, stage, weights, names)
    exporters = [named.origin.registry.make("exporters", each) for each in dict.fromkeys(formats)]
    for exporter in exporters:
        place = out / exporter.name
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise CompressError(f"{place}: is there already; remove it, or name another folder with --out")
    written = write_formats(named.model, named.origin.example(), exporters, out, say_line)
    if as_json:
        print(json.dumps({name: {**facts, "folder": str(out / name)} for name, facts in written.items()}, indent=2))
