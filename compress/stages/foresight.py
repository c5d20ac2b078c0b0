"""A network in training in, how large it would be if the recipe's next prune stage cut it now out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from ..errors import CompressError
from .prune import Prune
from .stage import Context, find_start

if TYPE_CHECKING:
    from ..graph.graph import Cost, DependencyGraph


def foresee(context: Context) -> Foresight | None:
    """The first later prune stage that starts from this stage's network; None where none does, or it looks at data."""
    stages = context.recipe.stages
    for number in range(len(context.earlier) + 1, len(stages)):
        stage = stages[number][1]
        if isinstance(stage, Prune) and find_start(stage.start, stages[:number]) == context.id:
            criterion = context.registry.make("criteria", stage.criterion)
            measured_first = criterion.needs_gradients or stage.sensitivity is not None
            return None if measured_first else Foresight(stage, context)
    return None


class Foresight:
    """Plans a stage's cut of a network as it is, again and again; the network is traced once."""

    def __init__(self, prune: Prune, context: Context) -> None:
        self.prune, self.context = prune, context
        self._graph: DependencyGraph | None = None

    def __call__(self, model: nn.Module) -> Cost | None:
        """What would be left; None, and a line, where no such cut could be made of it as it is."""
        context = self.context
        try:
            if self._graph is None:
                example = context.example().to(next(model.parameters()).device)
                self._graph = self.prune.trace(model, example, context.registry)
            return self._graph.cost(self.prune.plan(self._graph, context.recipe, context.data))
        except CompressError as error:
            context.progress.say(f"{context.id}: what pruning would leave cannot be foreseen: {error}")
            return None
