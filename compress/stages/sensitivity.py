"""A network in, what each of its groups costs when it alone is cut out: numbers, a picture, ratios to prune by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field
from torch import nn

from ..errors import CompressError, nearest
from ..graph.trace import trace
from ..options import Uses
from ..pruning import analysis
from ..training.loader import Order, load
from .calibration import calibrate_criterion
from .evaluation import scored
from .network import open_network
from .stage import Context, Stage, start_mistakes

if TYPE_CHECKING:
    from ..registry import Registry

NUMBERS, PICTURE = "sensitivity.json", "sensitivity.svg"
BATCH = 16

Ratio = Annotated[float, Field(gt=0, lt=1)]


class Sensitivity(Stage):
    """Cuts each group alone, by several ratios, and measures what that costs. The network stays as it is.

    Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, section 3.2. A later prune stage takes its ratios from
    it (`sensitivity` and `max_drop` there).

    ratios: of a group's units that go, ascending. criterion: which of them go first. images: how many the metric is
    taken of, spread evenly over the split; they are kept in memory. split: which images. Validation images that decide
    what is cut flatter the validation afterwards, so `train` is the default. metric: which of the task's; null for its
    headline. ignore: patterns of group names that are left out, beside what the policy keeps. heads: as the prune stage
    has it. groups: likewise. calibration: batches of 16 training images for a criterion that looks at data. start:
    whose network: `previous`, `fresh` or an earlier stage's id.
    """

    name = "sensitivity"

    ratios: tuple[Ratio, ...] = analysis.RATIOS
    criterion: Annotated[str | dict[str, Any], Uses("criteria")] = "l1"
    images: Annotated[int, Field(ge=1)] = 256
    split: Literal["train", "val"] = "train"
    metric: str | None = None
    ignore: list[str] = field(default_factory=list)
    heads: Literal["whole", "inside"] = "whole"
    groups: Literal["whole", "inside"] = "whole"
    calibration: Annotated[int, Field(ge=1)] = 8
    start: str = "previous"

    def run(self, context: Context) -> Mapping[str, Any]:
        from ..report import draw_sensitivity

        recipe, progress = context.recipe, context.progress
        model = open_network(context, self.start).model.to(context.device)
        example, rules = context.example().to(context.device), context.registry.op_rules
        graph = trace(model, example, heads=self.heads, groups=self.groups, rules=rules)
        criterion = context.registry.make("criteria", self.criterion)
        metric, used = self._metric(context)
        name = self.metric or recipe.task.headline
        found = analysis.sensitivity(
            model,
            graph,
            metric,
            criterion,
            self.ratios,
            name=name,
            file=context.folder / NUMBERS,
            settings=used,
            bars=progress,
            ignore=tuple(self.ignore),
            policy=recipe.policy,
            calibration=calibrate_criterion(criterion, self.calibration, recipe, context.data, progress),
        )
        draw_sensitivity(found, context.folder / PICTURE)
        shown = f"{name} of {used['images']} of {used['of']} {used['split']} images"
        progress.say(f"{context.id}: {len(found.values)} groups x {len(self.ratios)} ratios, {shown}")
        return {"file": NUMBERS, "metric": name, "base": found.base, **used}

    def _metric(self, context: Context) -> tuple[Any, dict[str, Any]]:
        """A function (network) -> the metric, and which images it looks at."""
        split = context.data.train if self.split == "train" else context.data.val
        if not len(split):
            raise CompressError(f"{context.id}: {context.data.name} has no {self.split} images to measure with")
        chosen = np.unique(np.linspace(0, len(split) - 1, min(self.images, len(split))).round().astype(int)).tolist()
        orders = [Order(None, tuple(chosen[k : k + BATCH])) for k in range(0, len(chosen), BATCH)]
        batches = list(load(split, orders))
        name = self.metric or context.recipe.task.headline

        def metric(model: nn.Module) -> float:
            metrics = scored(context, model, batches).metrics
            if name not in metrics:
                raise CompressError(f"{context.id}: the task has no metric '{name}'{nearest(name, metrics)}")
            return metrics[name]

        return metric, {"split": self.split, "images": len(chosen), "of": len(split)}

    def mistakes(self, earlier: Sequence[tuple[str, Stage]], registry: Registry) -> Iterable[tuple[str, str]]:
        yield from start_mistakes(self.start, earlier)
        if not self.ratios or list(self.ratios) != sorted(set(self.ratios)):
            yield "ratios", "expected ascending fractions between 0 and 1"
