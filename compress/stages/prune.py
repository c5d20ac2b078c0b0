"""A network in, a smaller one that computes what the masked one computes out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from ..errors import CompressError
from ..graph.trace import trace
from ..options import Uses
from ..pruning.apply import Pruned, apply
from ..pruning.remap import compose
from ..pruning.selection import plan
from ..training.loader import TrainingOrders, load
from .network import Network, keep, open_network
from .stage import Context, Stage, start_mistakes

if TYPE_CHECKING:
    from ..graph.graph import DependencyGraph
    from ..pruning.plan import Plan
    from ..recipes import Recipe
    from ..registry import Registry
    from ..training.dataset import Data


class Prune(Stage):
    """Removes the units that matter least and verifies the result; nothing is trained.

    How much goes is one of `ratio`, `keep_macs` and `keep_params`; without any, a ratio of 0.5.

    criterion: how much each unit matters. scope: whether units compete within their group (`local`) or all with each
    other (`global`). ratio: the fraction of units removed, of each group for scope `local`, of all for `global`.
    keep_macs: multiply-adds that are left; up to 1 a fraction, above how many. keep_params: parameters likewise.
    round_to: resulting sizes are multiples of it. min_keep: units left in each group. compensate: gives back what the
    removed channels still added; `fold` puts it into the layers that follow. ignore: patterns of group names that stay
    whole, beside what the policy keeps. heads: whether attention loses `whole` heads or is cut `inside` all of them.
    groups: the same for grouped convolutions. calibration: batches of training images for a criterion that needs
    gradients. start: whose network to cut: `previous`, `fresh` or an earlier stage's id.
    """

    name = "prune"
    leaves_network: ClassVar[bool] = True
    role: ClassVar[str | None] = "pruned"

    criterion: Annotated[str | dict[str, Any], Uses("criteria")] = "l2"
    scope: Literal["local", "global"] = "local"
    ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    keep_macs: Annotated[float, Field(gt=0)] | None = None
    keep_params: Annotated[float, Field(gt=0)] | None = None
    round_to: Annotated[int, Field(ge=1)] = 1
    min_keep: Annotated[int, Field(ge=1)] = 1
    compensate: Annotated[str | dict[str, Any], Uses("compensations")] | None = None
    ignore: list[str] = field(default_factory=list)
    heads: Literal["whole", "inside"] = "whole"
    groups: Literal["whole", "inside"] = "whole"
    calibration: Annotated[int, Field(ge=1)] = 8
    start: str = "previous"

    def run(self, context: Context) -> Mapping[str, Any]:
        network = open_network(context, self.start)
        graph = self.trace(network.model, context.example(), context.registry)
        chosen = self.plan(graph, context.recipe, context.data)
        given = None if self.compensate is None else context.registry.make("compensations", self.compensate)
        pruned = apply(network.model, graph, chosen, compensate=given)
        keep(context, Network(pruned.model, compose(network.edits, pruned.edits)))
        context.progress.say(f"{context.id}: {pruned}")
        return facts(network.model, pruned)

    def trace(self, model: nn.Module, example: Tensor, registry: Registry) -> DependencyGraph:
        """The graph of a network as this stage cuts it."""
        return trace(model, example, heads=self.heads, groups=self.groups, rules=registry.op_rules)

    def plan(self, graph: DependencyGraph, recipe: Recipe, data: Data) -> Plan:
        """What this stage would remove from the traced network; data: for a criterion that needs gradients."""
        criterion = recipe.registry.make("criteria", self.criterion)
        return plan(
            graph,
            criterion=criterion,
            ratio=self.ratio,
            scope=self.scope,
            keep_macs=self.keep_macs,
            keep_params=self.keep_params,
            round_to=self.round_to,
            min_keep=self.min_keep,
            ignore=tuple(self.ignore),
            policy=recipe.policy,
            **(self._calibrate(recipe, data) if criterion.needs_gradients else {}),
        )

    def _calibrate(self, recipe: Recipe, data: Data) -> dict[str, Any]:
        if not len(data.train):
            raise CompressError(f"criterion {self.criterion} looks at training images, and {data.name} has none")
        orders = TrainingOrders(len(data.train), 16, 1, recipe.seed, "calibration")[: self.calibration]
        batches = load(data.train, orders, seed=recipe.seed, stage="calibration")

        def loss(model: nn.Module, batch: tuple[Tensor, Any]) -> Tensor:
            return recipe.task.loss(model, *batch)["loss"]

        return {"calibration": ((batch.images, batch.targets) for batch in batches), "loss": loss}

    def mistakes(self, earlier: Sequence[tuple[str, Stage]], registry: Registry) -> Iterable[tuple[str, str]]:
        yield from start_mistakes(self.start, earlier)
        given = [name for name in ("ratio", "keep_macs", "keep_params") if getattr(self, name) is not None]
        if len(given) != 1:
            said = f"{' and '.join(given)} are given" if given else "nothing says how much goes"
            yield given[-1] if given else "uses", f"{said}; give one of ratio, keep_macs, keep_params"


def facts(model: nn.Module, pruned: Pruned) -> dict[str, Any]:
    """What the report says of a cut: channels, what stayed whole and why, the verification, the cost."""
    after, checked = dict(widths(pruned.model)), pruned.verification
    assert checked is not None  # this stage always verifies
    return {
        "channels": [{"layer": n, "before": before, "after": after[n]} for n, before in widths(model)],
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
