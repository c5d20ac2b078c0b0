"""What a recipe can list: a stage works on what earlier stages left in the run's folder, and leaves its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..errors import CompressError, nearest
from ..options import Plugin

if TYPE_CHECKING:
    from ..recipes import Recipe
    from ..registry import Registry
    from ..training.dataset import Data
    from ..training.progress import Progress

DONE = "stage.json"


@dataclass(frozen=True)
class Context:
    """What a stage may know and use.

    id: the stage's name in the recipe. run: the run's folder. earlier: (id, stage) of the stages before this one.
    device: `cpu` or `cuda`. progress: where to say what happens.
    """

    id: str
    run: Path
    earlier: tuple[tuple[str, Stage], ...]
    recipe: Recipe
    data: Data
    device: str
    progress: Progress

    @property
    def registry(self) -> Registry:
        """Everything that has a name, the recipe's own plugin files included."""
        return self.recipe.registry

    @property
    def folder(self) -> Path:
        """The stage's own folder. What is in it survives a kill; a stage that is run again finds it as it was left."""
        return self.run / self.id

    def facts(self, stage: str) -> Mapping[str, Any]:
        """What the finished stage of that id returned from `run`."""
        return json.loads((self.run / stage / DONE).read_text(encoding="utf-8"))["facts"]

    def example(self) -> Tensor:
        """One image-like input, (1, 3, H, W) in [0, 1], always the same."""
        height, width = self.data.image_size
        return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


class Stage(Plugin):
    """One step of a recipe. Everything it makes lies in `context.folder`, so a killed run goes on from there.

    leaves_network: whether `run` leaves a network there (`compress.stages.network.keep`), for later stages to start
    from. role: which row of the report that network is: `baseline`, `sparse`, `pruned` or `finetuned`; of several
    stages with one role, the last before `evaluate` counts. everywhere: whether every process that `torchrun` started
    runs it, or the first one alone while the others wait. alternatives: sets of options of which one alone can be
    given; where a profile or the command line gives one, those below give way.
    """

    leaves_network: ClassVar[bool] = False
    everywhere: ClassVar[bool] = False
    role: ClassVar[str | None] = None
    alternatives: ClassVar[tuple[tuple[str, ...], ...]] = ()

    def run(self, context: Context) -> Mapping[str, Any] | None:
        """Do the work; return what later stages and the report want to know, as plain JSON values.

        A stage is finished when this returns. One that was killed is run again, with what it left in its folder.
        """
        raise NotImplementedError

    def mistakes(self, earlier: Sequence[tuple[str, Stage]], registry: Registry) -> Iterable[tuple[str, str]]:
        """(option, what is wrong with it) for what the options' types cannot say; a recipe is checked with it."""
        return ()


def start_mistakes(start: str, earlier: Sequence[tuple[str, Stage]]) -> Iterable[tuple[str, str]]:
    """What is wrong with a stage's option `start`: the network of an earlier stage, `previous` or `fresh`."""
    valid = ["previous", "fresh", *(id for id, stage in earlier if stage.leaves_network)]
    if start not in valid:
        yield "start", f"no earlier stage '{start}' leaves a network{nearest(start, valid)}"


def find_start(start: str, earlier: Sequence[tuple[str, Stage]]) -> str | None:
    """The id of the stage whose network to start from, None for a fresh one. `previous`: the last that left one.

    Raises CompressError where no earlier stage of that id leaves a network.
    """
    for _, problem in start_mistakes(start, earlier):
        raise CompressError(f"start: {problem}")
    if start == "previous":
        return next((id for id, stage in reversed(earlier) if stage.leaves_network), None)
    return None if start == "fresh" else start


def ancestors(start: str, earlier: Sequence[tuple[str, Stage]]) -> Iterator[str]:
    """The id of the stage whose network `start` names, of the one that this stage started from, and so on.

    Raises CompressError as `find_start`.
    """
    id, names = find_start(start, earlier), [name for name, _ in earlier]
    while id is not None:
        yield id
        number = names.index(id)
        id = find_start(getattr(earlier[number][1], "start", "previous"), earlier[:number])
