"""What is typed so far in, what may come next out - at once, so without torch and without loading a plugin."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any


def complete_recipes(incomplete: str) -> list[str]:
    """Names of shipped recipes, and YAML files and folders."""
    try:
        shipped = Path(str(resources.files("compress_recipes"))).glob("*.yaml")
    except ModuleNotFoundError:
        shipped = iter(())
    names = sorted(path.stem for path in shipped)
    return [*(name for name in names if name.startswith(incomplete)), *_paths(incomplete, (".yaml", ".yml"))]


def complete_runs(incomplete: str) -> list[str]:
    """Folders of runs and of networks, those under runs/ first; and folders on the way to others."""
    home = Path("runs")
    recent = sorted(home.iterdir(), reverse=True) if home.is_dir() else []
    runs = [str(run) for run in recent if (run / "recipe.yaml").is_file() and str(run).startswith(incomplete)]
    return list(dict.fromkeys([*runs, *_paths(incomplete, ())]))


def complete_stages(ctx: Any, incomplete: str) -> list[str]:
    """Stages of the run that the command names, those that have left a network."""
    run = Path(str(ctx.params.get("network") or ctx.params.get("what") or ctx.params.get("run") or "."))
    return sorted(plan.parent.name for plan in run.glob("*/plan.json") if plan.parent.name.startswith(incomplete))


def _paths(incomplete: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Folders, with a slash, and files of those suffixes that begin so."""
    folder, start = os.path.split(incomplete)
    try:
        entries = sorted(os.scandir(folder or "."), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(start) and (start.startswith(".") or not entry.name.startswith(".")):
            if entry.is_dir():
                yield os.path.join(folder, entry.name) + os.sep
            elif entry.name.endswith(suffixes) and suffixes:
                yield os.path.join(folder, entry.name)
