"""`compress data`: data sets as they are in, what is in them - or folders that the `yolo` dataset reads - out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from compress import CompressError, Data, Dataset, find_leaks, nearest

app = typer.Typer(name="data", no_args_is_help=True, add_completion=False)


@app.callback(epilog="Example: compress data check screws\n\nNext:    compress check RECIPE data.root=screws")
def data() -> None:
    """Look at a data set before it is used, or turn one into YOLO folders."""


@app.command(
    epilog="Example: compress data check screws --format voc\n\n"
    "Next:    compress check RECIPE data.uses=voc data.root=screws"
)
def check(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="The folder of the data set, or a .data file.")],
    kind: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help="yolo, voc, coco or darknet-lists; default: the one that fits."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Read a data set as training would: images and boxes by class, what is wrong, images that are in both splits.

    What is wrong is named, counted and survived, as in training: the exit code is 0 where the data can be used.
    """
    dataset = _find(root, kind)
    opened = dataset.open()
    leaks = [] if opened.synthetic else find_leaks(opened)
    splits = {split: _count(opened, split) for split in ("train", "val")}
    found = {
        "format": dataset.name,
        "name": opened.name,
        "classes": list(opened.classes),
        "splits": splits,
        "problems": list(opened.problems),
        "leaks": [{"val": leak.val, "train": leak.train, "distance": leak.distance} for leak in leaks],
    }
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(f"{root}: {dataset.name}, {len(opened.classes)} classes")
    for split, counts in splits.items():
        boxes = ", ".join(f"{number} {name}" for name, number in counts["boxes"].items())
        typer.echo(f"{split}: {counts['images']} images, {counts['empty']} without a box; {boxes}")
    for line in opened.problems:
        typer.echo(line, err=True)
    for leak in leaks:
        typer.echo(f"in both splits, it seems: {leak.val} (val) and {leak.train} (train)", err=True)


def _find(root: Path, kind: str | None) -> Dataset:
    """The data set as its format reads it. Raises CompressError where none, or more than one, fits."""
    from .coco import Coco
    from .darknet_lists import DarknetLists
    from .voc import Voc
    from .yolo_folders import YoloFolders

    formats: dict[str, Any] = {each.name: each for each in (YoloFolders, Voc, Coco, DarknetLists)}
    if kind is not None:
        if kind not in formats:
            raise CompressError(f"--format {kind}: there is no such format{nearest(kind, formats)}")
        return formats[kind](root=root)
    if not root.exists():
        raise CompressError(f"{root}: no such file or folder")
    missing = {name: each(root=root).available() for name, each in formats.items()}
    fitting = [name for name, line in missing.items() if line is None]
    if len(fitting) != 1:
        what = f"could be {' or '.join(fitting)}" if fitting else f"is none of {', '.join(formats)} as it stands"
        raise CompressError(f"{root}: {what}; name one, and what it lacks is said: --format {(fitting or ['yolo'])[0]}")
    return formats[fitting[0]](root=root)


def _count(data: Data, split: str) -> dict[str, Any]:
    """Images, images without a box, and boxes by class of one split."""
    samples = getattr(data, split)
    labels = [samples.sample(index, None)[1]["labels"].tolist() for index in range(len(samples))]
    boxes = Counter(label for each in labels for label in each)
    return {
        "images": len(labels),
        "empty": sum(not each for each in labels),
        "boxes": {name: boxes[number] for number, name in enumerate(data.classes)},
    }


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
