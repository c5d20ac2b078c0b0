"""What a user calls a network - a run, a stage of it, an artifact, a file - in, the network ready for use out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from ..errors import CompressError
from ..pruning import artifact
from .network import ORIGIN, PLAN, build_seeded
from .run import RECIPE, load_recipe
from .stage import DONE, Stage, find_start

GREY = 114  # of 255, what fills the input beside a picture

if TYPE_CHECKING:
    from ..recipes import Recipe
    from ..registry import Registry
    from ..training.architecture import Architecture
    from ..training.dataset import Dataset
    from ..training.task import Task


@dataclass(frozen=True)
class Origin:
    """What a network comes from and what it takes to use it.

    image_size: (height, width) of its input in pixels. dataset: how a picture becomes its input, None where nothing
    says so. task: what it was trained for. recipe: that of its run, None where it was taken away from there.
    """

    classes: tuple[str, ...]
    image_size: tuple[int, int]
    architecture: Architecture
    dataset: Dataset | None
    task: Task
    registry: Registry
    recipe: Recipe | None = None

    def example(self, batch: int = 1) -> Tensor:
        """Image-like inputs, (batch, 3, H, W) in [0, 1], always the same."""
        return torch.rand(batch, 3, *self.image_size, generator=torch.Generator().manual_seed(0))

    def whole(self) -> nn.Module:
        """The architecture's full network, untrained, in eval mode: what was there before anything was cut."""
        seed = self.recipe.seed if self.recipe else 0
        return build_seeded(self.architecture, len(self.classes), self.image_size, seed).eval()

    def fit(self, picture: np.ndarray) -> tuple[Tensor, tuple[int, int, int, int]]:
        """A picture (h, w, 3) uint8 -> (3, H, W) uint8 as the network wants it, and where it lies there.

        Left, top, width, height in pixels. Without a data set: whole, in the middle, grey beside it.
        """
        if self.dataset is not None:
            return self.dataset.fit(picture)
        height, width = self.image_size
        image = ImageOps.contain(Image.fromarray(picture), (width, height), Image.Resampling.BILINEAR)
        place = ((width - image.width) // 2, (height - image.height) // 2)
        frame = Image.new("RGB", (width, height), (GREY,) * 3)
        frame.paste(image, place)
        return torch.from_numpy(np.array(frame)).permute(2, 0, 1), (*place, image.width, image.height)


@dataclass(frozen=True)
class Named:
    """A network that a user asked for. name: what to call it. model: in eval mode, on the CPU."""

    name: str
    model: nn.Module
    origin: Origin


def open_named(
    where: str | Path, stage: str | None = None, weights: Path | None = None, names: Path | None = None
) -> Named:
    """The network that is meant.

    where: the folder of a run, or of a network (a run's `model` or a stage's, or a copy of one anywhere), or a file
    that describes one, such as a .cfg. stage: of a run, whose network; None for the last that left one. weights, names:
    of a file, its weights and its classes' names. Raises CompressError where there is no such network.
    """
    folder = Path(where)
    if folder.is_file():
        if stage is not None:
            raise CompressError(f"{folder}: --stage is for the folder of a run, and this is a file")
        return _of_file(folder, weights, names)
    if weights is not None or names is not None:
        raise CompressError(f"{folder}: --weights and --names are for a network's file, and this is none")
    if (folder / RECIPE).is_file():
        recipe, done = finished(folder)
        id = find_start(stage or "previous", done)
        if id is None:
            raise CompressError(f"{folder}: no stage has left a network yet; `compress run --resume {folder}` goes on")
        return _open(folder / id, id, recipe)
    if not (folder / PLAN).is_file():
        raise CompressError(
            f"{folder}: neither the folder of a run (with {RECIPE}) nor of a network (with {PLAN}), nor a file; "
            "`compress run RECIPE` makes both"
        )
    if stage is not None:
        raise CompressError(f"{folder}: --stage is for the folder of a run, and this is the folder of one network")
    run = folder.resolve().parent
    return _open(folder, folder.resolve().name, load_recipe(run) if (run / RECIPE).is_file() else None)


def finished(run: Path) -> tuple[Recipe, tuple[tuple[str, Stage], ...]]:
    """A run's recipe, and (id, stage) of those that are done. Raises CompressError where the folder is no run's."""
    recipe = load_recipe(run)
    return recipe, tuple((id, stage) for id, stage in recipe.stages if (run / id / DONE).exists())


def _open(folder: Path, name: str, recipe: Recipe | None) -> Named:
    origin = _origin(folder, recipe)
    return Named(name, artifact.load(folder, origin.whole).eval(), origin)


def _of_file(file: Path, weights: Path | None, names: Path | None) -> Named:
    """The network of a file that an architecture reads."""
    from ..plugins import installed
    from ..recipes import architecture_of

    registry = installed()
    reader = architecture_of(file, registry)
    if reader is None:
        known = sorted({suffix for each in registry.architectures.values() for suffix in each.reads})
        raise CompressError(f"{file}: no architecture reads such files; expected {' or '.join(known)}, or a folder")
    for option, given in (("--weights", weights), ("--names", names)):
        if given is None or not given.is_file():
            what = "its classes, one name a line" if option == "--names" else "its weights"
            lack = f"needs {what}" if given is None else f"no such file: {given}"
            raise CompressError(f"{file}: {lack}; {option} FILE")
    assert names is not None
    classes = tuple(line.strip() for line in names.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    uses, option = reader
    architecture = registry.make("architectures", {"uses": uses, option: str(file), "weights": str(weights)})
    size = architecture.native_size()
    if not classes or size is None or architecture.task is None:
        lacking = f"{names} names no class" if not classes else f"architecture {uses} says no image size or task"
        raise CompressError(f"{file}: {lacking}")
    origin = Origin(classes, size, architecture, None, registry.make("tasks", architecture.task), registry)
    return Named(file.name, origin.whole(), origin)


def _origin(folder: Path, recipe: Recipe | None) -> Origin:
    """From the run's recipe; without one from plan.json, with installed plugins only: it can run no code."""
    from ..plugins import installed

    kept = artifact.read_settings(folder).get(ORIGIN, {})
    try:
        classes, size = tuple(kept["classes"]), tuple(kept["image_size"])
        if recipe is not None:
            return Origin(
                classes, size, recipe.architecture, recipe.dataset, recipe.task, recipe.registry, recipe=recipe
            )
        registry = installed()
        architecture, dataset = registry.make("architectures", kept["model"]), registry.make("datasets", kept["data"])
        return Origin(classes, size, architecture, dataset, registry.make("tasks", kept["task"]), registry)
    except (KeyError, TypeError):
        raise CompressError(
            f"{folder}: its {PLAN} does not say which model, data and task it is of; "
            "expected a network that a stage of a run left"
        ) from None
