"""`compress eval`: a run or a recipe in, the metrics, size and speed of one network out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import CompressError
from .arguments import AsJson, Profile, Settings, columns, read_recipe, say


def evaluate(
    what: Annotated[
        str, typer.Argument(metavar="RUN|RECIPE", help="The folder of a run, or a recipe whose model has weights.")
    ],
    settings: Settings = None,
    stage: Annotated[
        str | None, typer.Option(metavar="ID", help="The stage of the run whose network to measure; default the last.")
    ] = None,
    profile: Profile = None,
    as_json: AsJson = False,
) -> None:
    """Measure one network on the validation images: metrics, parameters, multiply-adds, bytes, latency.

    Of a run: the network that a stage left. Of a recipe: its model as it is given, e.g. with model.weights=FILE.
    """
    from ..stages import run as runs
    from ..stages.given import measure_given

    if (Path(what) / runs.RECIPE).is_file():
        if settings or profile is not None:
            raise CompressError(f"compress eval {what}: a run has its own recipe and takes no KEY=VALUE or --profile")
        row = runs.evaluate(Path(what), stage)
    else:
        if stage is not None:
            raise CompressError(f"compress eval {what}: --stage is for the folder of a run, and this is none")
        recipe = read_recipe(what, settings, profile)
        say(recipe.notes)
        row = measure_given(recipe)
    print(json.dumps(row, indent=2) if as_json else table(row))


def table(row: dict[str, Any]) -> str:
    """A row of report.json as text."""
    latency = row["latency_ms"]
    where = f"{latency['device']}, {latency['threads']} threads, batch {latency['batch']}"
    lines: list[tuple[str, ...]] = [
        ("stage", str(row["stage"])),
        ("parameters", f"{row['params']:,}"),
        ("multiply-adds", f"{row['macs']:,}"),
        ("bytes", f"{row['bytes']:,}"),
        ("latency", f"{latency['median']:.2f} ms ({latency['p10']:.2f} to {latency['p90']:.2f}; {where})"),
        *((name, f"{value:.4f}") for name, value in row["metrics"].items()),
        *((f"{part} {name}", f"{v:.4f}") for part, found in row["subsets"].items() for name, v in found.items()),
    ]
    return columns(lines)
