"""`compress run`: a recipe in, a finished run folder out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import CompressError
from .arguments import Profile, Settings, read_recipe

INTERRUPTED = 130


def run(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="Path of a recipe, or the name of a shipped one.")
    ] = None,
    settings: Settings = None,
    profile: Profile = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run's folder; default runs/NAME-TIME.", show_default=False)
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with a run that was stopped.", show_default=False)
    ] = None,
) -> None:
    """Run a recipe from data to report, or go on with a run that was stopped.

    The run's folder holds every stage's network, the smaller model, report.json and report.html.
    """
    from ..stages import run as runs

    try:
        if resume is not None:
            if recipe is not None or settings or profile is not None or out is not None:
                raise CompressError("compress run --resume RUN takes nothing else: the run's folder holds its recipe")
            finished = runs.resume(resume)
        elif recipe is None:
            raise CompressError("compress run: give a RECIPE, or --resume RUN; try: compress run yolov3_hand")
        else:
            finished = runs.start(read_recipe(recipe, settings, profile), out)
    except runs.Interrupted as stopped:
        print(stopped, file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    print(f"done: {finished.folder}; measure it again: compress eval {finished.folder}", file=sys.stderr)
