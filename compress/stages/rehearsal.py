"""A recipe and its data in, what it would cut out of an untrained network out - or what is wrong with either."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from ..errors import CompressError
from ..graph.graph import Cost, DependencyGraph, Frozen
from ..graph.trace import trace
from ..training.leaks import find_leaks, leak_lines
from ..training.progress import Progress
from .network import build
from .prune import Prune
from .stage import Context
from .training import Finetune, Training

if TYPE_CHECKING:
    from ..pruning.plan import Plan
    from ..recipes import Recipe
    from ..training.dataset import Data


@dataclass(frozen=True)
class Rehearsed:
    """What one prune stage would do to the untrained network."""

    stage: str
    plan: Plan
    before: Cost
    after: Cost


@dataclass(frozen=True)
class Rehearsal:
    """The untrained network, its graph with the policy's groups frozen, and what each prune stage would remove.

    A second prune stage is rehearsed on the whole network, as if it were the first. One whose ratios are measured by
    the run is left out.
    """

    model: nn.Module
    graph: DependencyGraph
    cuts: tuple[Rehearsed, ...]


def warn(data: Data) -> tuple[str, ...]:
    """What may be wrong with data that can be used: validation images that look like training images.

    Drawn data are left out: nothing in them was split by hand.
    """
    if data.synthetic:
        return ()
    with Progress().bar("looking for images in both splits", len(data.train) + len(data.val)) as advance:
        return leak_lines(find_leaks(data, lambda n: advance(n)))


def rehearse(recipe: Recipe, data: Data) -> Rehearsal:
    """Build, trace, ask the policy and plan; nothing is trained or cut.

    Raises CompressError where a selector matches nothing, a budget cannot be met, a network cannot be built, a
    distillation cannot compare such networks, or a stage trains and there are no images for it.
    """
    trained = next((id_ for id_, stage in recipe.stages if isinstance(stage, Training)), None)
    if trained is not None and not len(data.train):
        raise CompressError(f"stage '{trained}' trains, but {data.name} has no training images, only some to validate")
    context = Context("rehearsal", Path(), (), recipe, data, "cpu", Progress())
    model, example = build(context), context.example()
    graph = trace(model, example, rules=recipe.registry.op_rules)
    kept = recipe.policy.freeze(graph, model) if recipe.policy else {}
    cuts = []
    for id_, stage in recipe.stages:
        if isinstance(stage, Prune):
            whole = stage.trace(model, example, recipe.registry)
            plan = stage.plan(whole, recipe, data)
            if stage.sensitivity is None:  # else what goes is measured first
                cuts.append(Rehearsed(id_, plan, whole.cost(), whole.cost(plan)))
        if isinstance(stage, Finetune):
            stage.try_out(model, data, recipe.registry)
    graph = graph.freeze({name: Frozen(reason, by="policy") for name, reason in kept.items()})
    return Rehearsal(model, graph, tuple(cuts))
