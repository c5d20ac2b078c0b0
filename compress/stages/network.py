"""A network between two stages: on disk as an artifact, weights and what was cut; in memory as a module."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ..pruning import artifact
from ..pruning.surgery import Edits
from .stage import Context, find_start

WEIGHTS, PLAN = "weights.safetensors", "plan.json"


@dataclass(frozen=True)
class Network:
    """A module in memory. edits: what was cut from the architecture's full network to get it, nothing by default."""

    model: nn.Module
    edits: Edits = field(default_factory=lambda: Edits({}))


def build(context: Context) -> nn.Module:
    """The architecture's full network as every stage with `start: fresh` gets it: the seed decides its weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.recipe.seed)
        return context.recipe.architecture.build(len(context.data.classes), context.data.image_size)


def open_network(context: Context, start: str) -> Network:
    """The network that `start` names, on the CPU: `fresh`, `previous`, or an earlier stage's id."""
    stage = find_start(start, context.earlier)
    return Network(build(context)) if stage is None else read(context, stage)


def read(context: Context, stage: str) -> Network:
    """The network that a finished stage left, on the CPU. Nothing is traced for it."""
    folder = context.run / stage
    return Network(artifact.load(folder, lambda: build(context)), artifact.read_edits(folder))


def keep(context: Context, network: Network) -> None:
    """Leave a network in the stage's folder for later stages."""
    artifact.write(context.folder, network.model.cpu(), network.edits, context.example())


def artifact_files(folder: Path) -> list[Path]:
    """The files of the network in a stage's folder."""
    return [folder / name for name in (WEIGHTS, PLAN)]
