"""A network in, a smaller one that computes what the masked one computes out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from ..errors import nearest
from ..graph.trace import trace
from ..options import Uses
from ..pruning import analysis
from ..pruning.apply import Pruned, apply
from ..pruning.deviation import deviations
from ..pruning.latency import LatencyTable, cut_to_latency, measure_layers
from ..pruning.remap import compose
from ..pruning.resources import RESOURCES
from ..pruning.schedule import Round, schedule
from ..pruning.selection import plan
from .calibration import BATCH, calibrate, calibrate_criterion
from .network import Network, keep, open_network
from .sensitivity import NUMBERS, Sensitivity
from .stage import Context, Stage, find_start, start_mistakes

if TYPE_CHECKING:
    from ..graph.graph import DependencyGraph
    from ..pruning.plan import Plan
    from ..recipes import Recipe
    from ..registry import Registry
    from ..training.dataset import Data
    from ..training.progress import Progress


class Prune(Stage):
    """Removes the units that matter least and verifies the result; nothing is trained.

    How much goes is a `ratio` or budgets, which are all met: `keep_macs`, `keep_params` and `keep`; or `max_drop`,
    what a `sensitivity` stage found to be harmless.

    criterion: how much each unit matters. scope: whether units compete within their group (`local`), all with each
    other (`global`), or with those of groups that are built alike (`isomorphic`). ratio: the fraction of units removed,
    of each group for scope `local`, of all otherwise. keep_macs: multiply-adds that are left; up to 1 a fraction, above
    how many. keep_params: parameters likewise. keep: any of params, macs, bytes, activations and latency (in ms,
    measured on this device) likewise. ratios: patterns of group names, or `@residual` and `@inner` (groups that several
    layers make, or one), to the ratio that they lose whatever the rest is asked. sensitivity: an earlier stage
    `sensitivity` of the same network. With `max_drop`, each group that no pattern of `ratios` names loses the largest
    ratio that cost at most as much there; with a ratio or budgets and scope `global`, all groups are cut until they
    cost the same. max_drop: of the metric, measured on each group alone. max_ratio: the largest fraction of any other
    group that goes. round_to: resulting sizes are multiples of it; `auto` measures which multiple pays on this device.
    min_keep: units left in each group. blocks: how many residual branches go as a whole, those that the criterion
    scores lowest, alone or beside a ratio or budgets; `ranked` lets them compete with the channels. compensate: gives
    back what the removed channels still added; `fold` puts it into the layers that follow. ignore: patterns of names of
    groups and blocks that stay whole, beside what the policy keeps. heads: whether attention loses `whole` heads or is
    cut `inside` all of them. groups: the same for grouped convolutions. calibration: batches of 16 training images for
    a criterion or a compensation that looks at data. round: which of several rounds this stage is, that reach the ratio
    or the fractions together, with training in between. of: how many rounds there are. schedule: `polynomial` takes
    much in the first rounds and little in the last, `exponential` the same fraction of what is left in each. start:
    whose network to cut: `previous`, `fresh` or an earlier stage's id.
    """

    name = "prune"
    leaves_network: ClassVar[bool] = True
    role: ClassVar[str | None] = "pruned"
    alternatives: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("ratio",),
        ("keep_macs", "keep_params", "keep"),
        ("max_drop",),
    )

    criterion: Annotated[str | dict[str, Any], Uses("criteria")] = "l2"
    scope: Literal["local", "global", "isomorphic"] = "local"
    ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    keep_macs: Annotated[float, Field(gt=0)] | None = None
    keep_params: Annotated[float, Field(gt=0)] | None = None
    keep: dict[str, Annotated[float, Field(gt=0)]] = field(default_factory=dict)
    ratios: dict[str, Annotated[float, Field(ge=0, lt=1)]] = field(default_factory=dict)
    sensitivity: str | None = None
    max_drop: Annotated[float, Field(ge=0)] | None = None
    max_ratio: Annotated[float, Field(gt=0, le=1)] = 1.0
    round_to: Annotated[int, Field(ge=1)] | Literal["auto"] = 1
    min_keep: Annotated[int, Field(ge=1)] = 1
    blocks: Annotated[int, Field(ge=0)] | Literal["ranked"] = 0
    compensate: Annotated[str | dict[str, Any], Uses("compensations")] | None = None
    ignore: list[str] = field(default_factory=list)
    heads: Literal["whole", "inside"] = "whole"
    groups: Literal["whole", "inside"] = "whole"
    calibration: Annotated[int, Field(ge=1)] = 8
    round: Annotated[int, Field(ge=1)] = 1
    of: Annotated[int, Field(ge=1)] = 1
    schedule: Literal["polynomial", "exponential"] = "polynomial"
    start: str = "previous"

    def run(self, context: Context) -> Mapping[str, Any]:
        network = open_network(context, self.start)
        graph = self.trace(network.model, context.example(), context.registry)
        given = None if self.compensate is None else context.registry.make("compensations", self.compensate)
        seen = None
        if given is not None and given.needs_batches:
            who = f"compensation {self.compensate}"
            seen = calibrate(who, self.calibration, context.recipe, context.data, context.progress)
        measured = None if self.sensitivity is None else analysis.read(context.run / self.sensitivity / NUMBERS)

        def cut(keep: Mapping[str, float], table: LatencyTable | None) -> Pruned:
            chosen = self._plan(graph, context.recipe, context.data, keep, context.progress, table, measured)
            return apply(network.model, graph, chosen, compensate=given, calibration=seen)

        budgets = self._budgets()
        if "latency" in budgets:
            pruned, line = cut_to_latency(cut, budgets, network.model, graph)
            context.progress.say(f"{context.id}: {line}")
        else:
            pruned = cut(budgets, None)
        keep(context, Network(pruned.model, compose(network.edits, pruned.edits)))
        context.progress.say(f"{context.id}: {pruned}")
        return facts(network.model, pruned, graph, self._moved(network.model, pruned, graph, context))

    def trace(self, model: nn.Module, example: Tensor, registry: Registry) -> DependencyGraph:
        """The graph of a network as this stage cuts it."""
        return trace(model, example, heads=self.heads, groups=self.groups, rules=registry.op_rules)

    def plan(self, graph: DependencyGraph, recipe: Recipe, data: Data, progress: Progress | None = None) -> Plan:
        """What this stage would remove from the traced network, where nothing has to be measured first.

        data: for a criterion that looks at some.
        """
        budgets, model = self._budgets(), graph.model
        table = measure_layers(model, graph) if "latency" in budgets and model is not None else None
        return self._plan(graph, recipe, data, budgets, progress, table, None)

    def _plan(
        self,
        graph: DependencyGraph,
        recipe: Recipe,
        data: Data,
        budgets: Mapping[str, float],
        progress: Progress | None,
        table: LatencyTable | None,
        measured: analysis.Sensitivity | None,
    ) -> Plan:
        """measured: what the stage named by `sensitivity` found; None before it has run."""
        criterion = recipe.registry.make("criteria", self.criterion)
        asked = 0.0 if self.max_drop is not None else self.ratio
        harmless = measured.tolerated(self.max_drop) if measured is not None and self.max_drop is not None else {}
        return plan(
            graph,
            criterion=criterion,
            ratio=None if asked is None else self._round(asked).ratio,
            scope=self.scope,
            keep=budgets,
            latency=table,
            ratios={glob: self._round(ratio).ratio for glob, ratio in {**harmless, **self.ratios}.items()},
            max_ratio=self.max_ratio,
            round_to=self.round_to,
            min_keep=self.min_keep,
            blocks=self.blocks,
            sensitivity=measured if self.max_drop is None else None,
            ignore=tuple(self.ignore),
            policy=recipe.policy,
            calibration=calibrate_criterion(criterion, self.calibration, recipe, data, progress),
        )

    def _budgets(self) -> dict[str, float]:
        """Resource -> what this stage leaves of it."""
        named = {"macs": self.keep_macs, "params": self.keep_params, **self.keep}
        given = {name: value for name, value in named.items() if value is not None}
        return {name: self._round(1 - value).keep if self.of > 1 else value for name, value in given.items()}

    def _round(self, ratio: float) -> Round:
        """What goes in this round, of a fraction that goes in all of them."""
        return schedule(ratio, self.of, self.schedule)[self.round - 1]

    def _moved(self, model: nn.Module, pruned: Pruned, graph: DependencyGraph, context: Context) -> Mapping[str, float]:
        """How far each layer's outputs are from those before the cut, and a line about it; {} without images."""
        if not len(context.data.train):
            return {}
        images = calibrate(f"stage {context.id}", 1, context.recipe, context.data, None).batches
        found = deviations(model, graph, pruned, [batch for batch, _ in images])
        if found:
            where, most = max(found.items(), key=lambda item: item[1])
            context.progress.say(
                f"{context.id}: layers' outputs have moved by {statistics.median(found.values()):.1%} (median; most "
                f"{where}, {most:.1%}), measured on {BATCH} training images"
            )
        return {layer: value for layer, value in found.items() if math.isfinite(value)}

    def mistakes(self, earlier: Sequence[tuple[str, Stage]], registry: Registry) -> Iterable[tuple[str, str]]:
        yield from start_mistakes(self.start, earlier)
        options = ("ratio", "max_drop", "keep_macs", "keep_params", "keep")
        given = [name for name in options if getattr(self, name) not in (None, {})]
        counted = self.blocks not in (0, "ranked")
        if (not given and not counted) or (len(given) > 1 and given[0] in ("ratio", "max_drop")):
            said = f"{' and '.join(given)} are given" if given else "nothing says how much goes"
            yield (
                given[-1] if given else "uses",
                f"{said}; give ratio, or budgets: keep_macs, keep_params, keep; or sensitivity with max_drop; "
                "or a number of blocks",
            )
        if self.sensitivity is not None:
            yield from self._sensitivity_mistakes(self.sensitivity, earlier)
        elif self.max_drop is not None:
            yield "max_drop", "sensitivity has to name the stage that measures the drops"
        for name in sorted(self.keep):
            if name not in RESOURCES:
                yield "keep", f"there is no resource '{name}' to keep{nearest(name, RESOURCES)}"
            elif getattr(self, f"keep_{name}", None) is not None:
                yield "keep", f"keep_{name} is given beside keep's '{name}'; give one of them"
        if self.round > self.of:
            yield "round", f"round {self.round} of {self.of}: there are not so many"
        if self.of > 1 and any(
            value > 1 for value in (self.keep_macs or 0, self.keep_params or 0, *self.keep.values())
        ):
            yield "of", "several rounds need budgets that are fractions, up to 1"

    def _sensitivity_mistakes(self, id: str, earlier: Sequence[tuple[str, Stage]]) -> Iterable[tuple[str, str]]:
        stages = {name: (n, stage) for n, (name, stage) in enumerate(earlier) if isinstance(stage, Sensitivity)}
        if id not in stages:
            yield "sensitivity", f"no earlier stage '{id}' measures sensitivity{nearest(id, stages)}"
            return
        number, measured = stages[id]
        valid = not list(start_mistakes(self.start, earlier))
        theirs, mine = find_start(measured.start, earlier[:number]), find_start(self.start, earlier) if valid else None
        if valid and theirs != mine:
            yield "sensitivity", f"stage '{id}' measured the network of '{theirs}', and this one cuts that of '{mine}'"
        if self.max_drop is None and (self.scope != "global" or self.blocks == "ranked"):
            yield "sensitivity", "it ranks units of all groups, and no blocks: give max_drop, or scope: global"
        for option in ("heads", "groups"):
            if getattr(measured, option) != getattr(self, option):
                yield option, f"stage '{id}' measured with {option}: {getattr(measured, option)}; both need the same"


def facts(model: nn.Module, pruned: Pruned, graph: DependencyGraph, moved: Mapping[str, float]) -> dict[str, Any]:
    """What the report says of a cut: channels, blocks, what stayed whole and why, the verification, the cost.

    A layer of a block that is gone has 0 channels left. moved: layer -> how far its outputs are from those before.
    """
    after, checked = dict(widths(pruned.model)), pruned.verification
    assert checked is not None  # this stage always verifies
    return {
        "channels": [
            {"layer": n, "before": before, "after": after.get(n, 0), "deviation": moved.get(n)}
            for n, before in widths(model)
        ],
        "blocks": [{"block": name, **vars(graph.cost_of_block(name))} for name in pruned.plan.blocks],
        "frozen": [{"group": n, "reason": f.reason, "by": f.by} for n, f in pruned.frozen.items()],
        "verification": {
            "passed": checked.passed,
            "max_abs": checked.max_abs,
            "rel": checked.rel,
            "tolerance": checked.tolerance,
            "dtype": checked.dtype,
            "randomised": {"rel": checked.randomised_rel},
        },
        "before": {"params": pruned.before.params, "macs": pruned.before.macs},
        "after": {"params": pruned.after.params, "macs": pruned.after.macs},
    }


def widths(model: nn.Module) -> Iterator[tuple[str, int]]:
    """Module path and output channels of every convolution and linear layer, in the network's order."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            yield name, module.weight.shape[0]
        elif isinstance(module, nn.modules.conv._ConvNd):
            yield name, module.weight.shape[1] * module.groups if module.transposed else module.weight.shape[0]
