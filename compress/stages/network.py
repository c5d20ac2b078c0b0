"""A network between two stages: on disk as an artifact, weights and what was cut; in memory as a module."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..checking import plain
from ..pruning import artifact
from ..pruning.surgery import Edits
from .stage import Context, find_start

if TYPE_CHECKING:
    from ..training.architecture import Architecture

ORIGIN = "origin"
"""What plan.json holds a network's origin under."""
WEIGHTS, PLAN = "weights.safetensors", "plan.json"


@dataclass(frozen=True)
class Network:
    """A module in memory. edits: what was cut from the architecture's full network to get it, nothing by default."""

    model: nn.Module
    edits: Edits = field(default_factory=lambda: Edits({}))


def build(context: Context) -> nn.Module:
    """The architecture's full network as every stage with `start: fresh` gets it: the seed decides its weights."""
    recipe, data = context.recipe, context.data
    return build_seeded(recipe.architecture, len(data.classes), data.image_size, recipe.seed)


def build_seeded(architecture: Architecture, classes: int, image_size: tuple[int, int], seed: int) -> nn.Module:
    """The architecture's full network with the weights of that seed. image_size: (height, width)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return architecture.build(classes, image_size)


def open_network(context: Context, start: str) -> Network:
    """The network that `start` names, on the CPU: `fresh`, `previous`, or an earlier stage's id."""
    stage = find_start(start, context.earlier)
    return Network(build(context)) if stage is None else read(context, stage)


def read(context: Context, stage: str) -> Network:
    """The network that a finished stage left, on the CPU. Nothing is traced for it."""
    folder = context.run / stage
    return Network(artifact.load(folder, lambda: build(context)), artifact.read_edits(folder))


def keep(context: Context, network: Network) -> None:
    """Leave a network in the stage's folder for later stages, with what one must know to use it elsewhere."""
    recipe, data = context.recipe, context.data
    origin = {
        "classes": list(data.classes),
        "image_size": list(data.image_size),
        "model": plain(recipe.architecture),
        "data": plain(recipe.dataset),
        "task": plain(recipe.task),
    }
    artifact.write(context.folder, network.model.cpu(), network.edits, context.example(), {ORIGIN: origin})


def artifact_files(folder: Path) -> list[Path]:
    """The files of the network in a stage's folder."""
    return [folder / name for name in (WEIGHTS, PLAN)]
