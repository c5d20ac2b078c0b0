"""What several commands take, said once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .completion import complete_recipes, complete_runs, complete_stages

if TYPE_CHECKING:
    from ..recipes import Recipe

RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="Path of a recipe, or the name of a shipped one.", autocompletion=complete_recipes
    ),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.", autocompletion=complete_runs)]
Network = Annotated[
    str,
    typer.Argument(
        metavar="NETWORK",
        help="The folder of a run, of one of its stages, or of a network by itself (RUN/model); or a .cfg file.",
        autocompletion=complete_runs,
    ),
]
Weights = Annotated[Path | None, typer.Option("--weights", metavar="FILE", help="The weights of a .cfg file.")]
Names = Annotated[
    Path | None, typer.Option("--names", metavar="FILE", help="The classes of a .cfg file, one name a line.")
]
StageOf = Annotated[
    str | None,
    typer.Option(
        "--stage",
        metavar="ID",
        help="The stage of the run whose network to take; default the last.",
        autocompletion=complete_stages,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Values in place of the recipe's, e.g. stages.pruned.ratio=0.7."),
]
Profile = Annotated[
    str | None, typer.Option(metavar="NAME", help="The recipe's profile to use; auto chooses by what the machine has.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def read_recipe(name: str, settings: list[str] | None, profile: str | None) -> Recipe:
    """The checked recipe; what is wrong with installed plugins is said on stderr. Raises CompressError."""
    from ..plugins import installed
    from ..recipes import load

    registry = installed()
    for problem in registry.problems:
        print(f"warning: {problem}", file=sys.stderr)
    return load(name, settings or [], profile, registry)


def say(lines: tuple[str, ...]) -> None:
    """Lines beside the result, on stderr."""
    for line in lines:
        say_line(line)


def say_line(line: str) -> None:
    """One line beside the result, now."""
    print(line, file=sys.stderr, flush=True)


def columns(rows: list[tuple[str, ...]], right: tuple[int, ...] = ()) -> str:
    """Rows as aligned text; the columns numbered in `right` are aligned to the right.

    >>> print(columns([("a", "1"), ("bcd", "20")], right=(1,)))
    a     1
    bcd  20
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: tuple[str, ...]) -> str:
        cells = [cell.rjust(widths[i]) if i in right else cell.ljust(widths[i]) for i, cell in enumerate(row)]
        return "  ".join(cells).rstrip()

    return "\n".join(map(line, rows))
