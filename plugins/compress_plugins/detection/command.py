"""`compress data`: data sets as their authors give them in, folders that the `yolo` dataset reads out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(name="data", no_args_is_help=True, add_completion=False)


@app.callback(
    epilog="Example: compress data oxford-hand ~/hand_dataset data/oxford-hand\n\n"
    "Next:    compress data oxford-hand --help"
)
def data() -> None:
    """Turn data sets into YOLO folders."""


@app.command(
    "oxford-hand",
    epilog="Example: compress data oxford-hand ~/hand_dataset data/oxford-hand\n\n"
    "Next:    compress check recipes/yolov3_hand.yaml --profile full",
)
def oxford_hand(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Where hand_dataset.tar.gz was unpacked.")],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="The folder to make, e.g. data/oxford-hand.")],
) -> None:
    """Convert the Oxford Hand data set; training, validation and test images stay apart.

    Get it from https://www.robots.ox.ac.uk/~vgg/data/hands/ .
    """
    from .oxford_hand import convert

    converted = convert(source, destination)
    typer.echo(str(converted))
    for line in converted.problems:
        typer.echo(line, err=True)
    typer.echo(f"{destination}: ready; use it with data.root={destination}")
