"""The commands of the project and those of plugins in, one Typer application out."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from ..errors import CompressError, nearest
from .bench import bench
from .check import check
from .compare import compare
from .detect import detect
from .evaluate import evaluate
from .export import export
from .inspect import inspect
from .list_plugins import list_plugins
from .plan import plan
from .report import report
from .run import run


class Commands(TyperGroup):
    """The project's commands; those of plugins are looked for only when a name is none of these: it takes seconds."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name. Raises CompressError naming the nearest one."""
        found = super().get_command(ctx, cmd_name)
        if found is not None or cmd_name.startswith("-"):
            return found
        from ..plugins import installed

        others = installed().commands
        if cmd_name not in others:
            known = [*self.list_commands(ctx), *others]
            raise CompressError(f"compress: there is no command '{cmd_name}'{nearest(cmd_name, known)}")
        command = others[cmd_name]
        if not isinstance(command, typer.Typer):
            app = typer.Typer(add_completion=False)
            app.command(name=cmd_name)(command)
            command = app
        return typer.main.get_command(command)


def build() -> Any:
    """The command line as something to call with `args`."""
    app = typer.Typer(
        cls=Commands,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    app.callback(epilog=_epilog("compress run yolov3_hand", "compress run --help"))(compress)
    for name, function, example, then in (
        ("run", run, "compress run recipes/yolov3_hand.yaml seed=1", "compress detect RUN PICTURES"),
        ("check", check, "compress check recipes/yolov3_hand.yaml", "compress plan RECIPE"),
        ("plan", plan, "compress plan recipes/yolov3_hand.yaml stages.pruned.ratio=0.7", "compress run RECIPE"),
        ("inspect", inspect, "compress inspect recipes/yolov3_hand.yaml", "compress plan RECIPE"),
        ("eval", evaluate, "compress eval runs/yolov3-hand-20250131-120000 --stage pruned", "compress bench RUN"),
        ("detect", detect, "compress detect runs/hands photos/ clip.mp4 --confidence 0.4", "compress export RUN onnx"),
        ("bench", bench, "compress bench runs/hands --threads 1 --threads 2 --batch 8", "compress export RUN onnx"),
        ("export", export, "compress export runs/hands darknet onnx torch-export --out hands", "compress bench RUN"),
        ("report", report, "compress report runs/hands", "compress compare RUN RUN"),
        ("compare", compare, "compress compare runs/hands-0 runs/hands-1", "compress report RUN"),
        ("plugins", list_plugins, "compress plugins prune", "compress check RECIPE"),
    ):
        app.command(name, epilog=_epilog(example, then))(function)
    return typer.main.get_command(app)


def _epilog(example: str, then: str) -> str:
    """The last lines of a help text."""
    return f"Example: [bold]{escape(example)}[/bold]\n\nNext:    [bold]{escape(then)}[/bold]"


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"torch-compress {version('torch-compress')}")
        raise typer.Exit


def compress(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Make a trained network smaller and faster, and measure what that cost.

    A recipe says what is done: check it, plan it, run it; then use and measure what came out. Plugins add commands:
    compress data converts and checks data sets; compress plugins lists them all.
    """
