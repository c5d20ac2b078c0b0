"""`compress eval`: a run, a recipe or a network's files in, the metrics, size and speed of one network out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import CompressError
from .arguments import AsJson, Profile, Settings, columns, read_recipe, say


def evaluate(
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN|RECIPE|FILE",
            help="The folder of a run, a recipe whose model has weights, or a file that describes a network (a .cfg).",
        ),
    ],
    settings: Settings = None,
    stage: Annotated[
        str | None, typer.Option(metavar="ID", help="The stage of the run whose network to measure; default the last.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="The weights of the network of a FILE.")] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The data to measure a FILE on: the root of any known layout.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="PIXELS", help="Image size for a FILE, 320 or 256x320 (height x width); default its own."),
    ] = None,
    profile: Profile = None,
    as_json: AsJson = False,
) -> None:
    """Measure one network on the validation images: metrics, parameters, multiply-adds, bytes, latency.

    Of a run: the network that a stage left. Of a recipe: its model as it is given, e.g. with model.weights=FILE. Of
    files: compress eval NET.cfg --weights NET.weights --data DIR, with values of the model, the data and the task as
    KEY=VALUE, e.g. data.resize=stretch task.nms_iou=0.45.
    """
    from ..plugins import installed
    from ..recipes import architecture_of, recipe_of
    from ..stages import run as runs
    from ..stages.given import measure_given

    is_run = (Path(what) / runs.RECIPE).is_file()
    is_file = not is_run and architecture_of(Path(what), installed()) is not None
    for option, value, wanted, kind in (
        ("--stage", stage, is_run, "the folder of a run"),
        ("--weights", weights, is_file, "the file of a network"),
        ("--data", data, is_file, "the file of a network"),
        ("--size", size, is_file, "the file of a network"),
    ):
        if value is not None and not wanted:
            raise CompressError(f"compress eval {what}: {option} is for {kind}, and this is none")
    if is_run:
        if settings or profile is not None:
            raise CompressError(f"compress eval {what}: a run has its own recipe and takes no KEY=VALUE or --profile")
        row = runs.evaluate(Path(what), stage)
    elif is_file:
        if profile is not None or data is None:
            problem = "say what to measure it on: --data DIR" if data is None else "--profile is for a recipe"
            raise CompressError(f"compress eval {what}: {problem}")
        if weights is None:
            say(("no --weights: the network is measured as it is before any training",))
        row = measure_given(recipe_of(Path(what), weights, data, _pixels(size), settings or ()))
    else:
        recipe = read_recipe(what, settings, profile)
        say(recipe.notes)
        row = measure_given(recipe)
    print(json.dumps(row, indent=2) if as_json else table(row))


def _pixels(size: str | None) -> tuple[int, int] | None:
    """(height, width) of `320` or `256x320`. Raises CompressError for anything else."""
    sides = size.split("x") if size is not None else []
    if size is None:
        return None
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise CompressError(f"--size {size}: expected pixels, 320 or 256x320 (height x width)")
    return int(sides[0]), int(sides[-1])


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
