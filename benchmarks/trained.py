"""A run's folder, or a network's file with its weights, in; the trained network and its data out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from compress import Data
from compress.recipes import Recipe, recipe_of
from compress.stages import run as runs
from compress.stages.network import build, read
from compress.stages.stage import DONE, Context
from compress.training.progress import Progress


@dataclass(frozen=True)
class Trained:
    """A trained network with what it was trained for. example: (1, 3, H, W)."""

    name: str
    model: nn.Module
    recipe: Recipe
    data: Data
    example: torch.Tensor


def quiet() -> Progress:
    """A progress that nobody hears."""
    return Progress(stream=open(os.devnull, "w"))


def context_of(id: str, folder: Path, recipe: Recipe, data: Data) -> Context:
    """What a stage of that id would know, after all finished stages in the folder; on the CPU."""
    done = tuple((name, stage) for name, stage in recipe.stages if (folder / name / DONE).exists())
    return Context(id, folder, done, recipe, data, "cpu", quiet())


def of_run(folder: Path, stage: str) -> Trained:
    """The network that a stage of a run left. Raises CompressError where the folder is no run's."""
    recipe = runs.load_recipe(folder)
    data = runs.open_data(recipe, quiet())
    context = context_of(stage, folder, recipe, data)
    return Trained(f"{recipe.name}, {stage}", read(context, stage).model.eval(), recipe, data, context.example())


def of_files(cfg: Path, data: Path, settings: Sequence[str] = ()) -> Trained:
    """The network of a cfg with the .weights file beside it. Raises CompressError where one of them is missing."""
    recipe = recipe_of(cfg, cfg.with_suffix(".weights"), data, None, settings)
    opened = runs.open_data(recipe, quiet())
    context = context_of("given", Path(), recipe, opened)
    return Trained(cfg.stem, build(context).eval(), recipe, opened, context.example())
