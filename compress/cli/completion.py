"""What is typed so far in, what may come next out - at once, so without torch and without loading a plugin."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path


def complete_recipes(incomplete: str) -> list[str]:
    """Names of shipped recipes, and YAML files and folders."""
    try:
        names = sorted(path.stem for path in Path(str(resources.files("compress_recipes"))).glob("*.yaml"))
    except ModuleNotFoundError:
        names = []
    return [*(name for name in names if name.startswith(incomplete)), *_paths(incomplete, (".yaml", ".yml"))]


def complete_runs(incomplete: str) -> list[str]:
    """Folders of runs and of networks, those under runs/ first; and folders on the way to others."""
    home = Path("runs")
    recent = sorted(home.iterdir(), reverse=True) if home.is_dir() else []
    runs = [str(run) for run in recent if (run / "recipe.yaml").is_file() and str(run).startswith(incomplete)]
    return list(dict.fromkeys([*runs, *_paths(incomplete, (".cfg",))]))


def complete_stages(incomplete: str) -> list[str]:
    """Stages that have left a network in the run that the command line names."""
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""  # bash; the other shells
    runs = [Path(word) for word in line.split() if Path(word, "recipe.yaml").is_file()]
    stages = (plan.parent.name for run in runs for plan in run.glob("*/plan.json"))
    return sorted(stage for stage in stages if stage.startswith(incomplete))


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
