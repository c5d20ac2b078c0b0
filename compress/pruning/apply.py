"""Model, graph and plan in, a verified smaller model out - or the reason why not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from torch import nn

from ..errors import CompressError, VerificationError
from ..graph.graph import Cost, DependencyGraph, Frozen
from ..graph.labels import Array
from ..graph.trace import trace
from ..graph.walk import named_parameters, named_tensors
from .calibration import Calibration
from .compensation import Compensation, make_compensation
from .criteria import find_criterion
from .plan import Plan
from .remap import compose
from .replay import Blame
from .selection import plan as make_plan
from .surgery import Conflict, Edits, cut, edits
from .verify import Verification, worse
from .verify import verify as compare
from .without import carry, carry_back, take_out


@dataclass(frozen=True)
class Pruned:
    """A cut network and everything about how it came to be.

    model: the new network. frozen: group or block name -> why it stayed whole (rule, policy or verification). before,
    after: parameters and multiply-adds. verification: None where it was not asked for. names: the original's
    parameters, in order.
    """

    model: nn.Module
    plan: Plan
    edits: Edits
    frozen: Mapping[str, Frozen]
    before: Cost
    after: Cost
    verification: Verification | None
    example_inputs: Any
    names: tuple[str, ...] = ()

    def remap(self, state_dict: Mapping[str, Any], names: Iterable[str] | None = None) -> dict[str, Any]:
        """The surviving indices of anything shaped like the original's state: EMA weights, statistics, optimiser state.

        names: the parameters' order in an optimiser's state; needed where it has several groups and does not name them.
        """
        from .remap import remap

        return remap(self.edits, state_dict, None if names is None else list(names), self.names)

    def __str__(self) -> str:
        share = 1 - self.after.params / max(self.before.params, 1), 1 - self.after.macs / max(self.before.macs, 1)
        verified = "not verified" if self.verification is None else str(self.verification)
        blocks = f"{len(self.plan.blocks)} blocks taken out; " if self.plan.blocks else ""
        return (
            f"{blocks}parameters {self.before.params:,} -> {self.after.params:,} (-{share[0]:.1%}), "
            f"multiply-adds {self.before.macs:,} -> {self.after.macs:,} (-{share[1]:.1%}); {verified}"
        )


def apply(
    model: nn.Module,
    graph: DependencyGraph,
    plan: Plan,
    verify: bool = True,
    compensate: str | Compensation | None = None,
    calibration: Calibration | Iterable[Any] | None = None,
) -> Pruned:
    """Cut a copy of the model as planned and prove that it computes what the masked original does.

    Blocks are taken out first, verified; the network without them is traced anew and its channels are cut. A block that
    does not pass stays and is named in `.frozen`. Where code or verification stands in the way of channels, the groups
    to blame are frozen, named in `.frozen`, and the cut is made again without them. compensate: "fold" gives back the
    constants that removed channels added; it comes after verification, which is about the cut. calibration: batches,
    where the compensation looks at data.
    Raises VerificationError where no freezing helps; the given model is never changed.
    """
    check_shapes(model, graph)
    if plan.blocks:
        return _apply_without_blocks(model, graph, plan, verify, compensate, calibration)
    before = graph.cost()
    given = None if compensate is None else make_compensation(compensate)
    data = _data(given, calibration)
    if given is not None:
        plan = given.reserve(model, graph, plan)
    graph = graph.freeze({name: Frozen(reason, by="policy") for name, reason in plan.frozen.items()})
    result, new, verification = None, None, None
    for _ in range(len(plan.removed) + 1):
        try:
            result = edits(graph, plan, model)
        except Conflict as conflict:
            plan, graph = _without(plan, graph, conflict.labels, conflict.reason, by="rule")
            continue
        new = cut(model, result)
        if not verify:
            break
        verification, blame = compare(model, new, graph, plan, result)
        if blame is None:
            break
        plan, graph = _blame(plan, graph, blame)
    else:
        raise VerificationError(
            f"{type(model).__name__} cannot be cut as planned, whatever is frozen; this is a bug in compress"
        )
    assert result is not None and new is not None
    if given is not None:
        new = given.compensate(model, new, graph, plan, result, **data)
    frozen = _frozen(graph)
    after = replace(graph.cost(plan), params=sum(p.numel() for p in named_parameters(new).values()))
    names = tuple(named_parameters(model))
    return Pruned(new, plan, result, frozen, before, after, verification, graph.example_inputs, names)


def _apply_without_blocks(
    model: nn.Module,
    graph: DependencyGraph,
    plan: Plan,
    verify: bool,
    compensate: str | Compensation | None,
    calibration: Calibration | Iterable[Any] | None,
) -> Pruned:
    """`apply` for a plan with blocks. The network without them is traced again only if there is more to do to it."""
    without = take_out(model, graph, plan.blocks, verify)
    graph = graph.freeze({name: Frozen(reason, by="policy") for name, reason in plan.frozen.items()})
    left = replace(plan, removed={}, blocks=without.blocks)
    inside = {name for block in without.blocks for name in graph.block(block).groups}
    whole = {name: reason for name, reason in _frozen(graph).items() if name not in inside}
    done = Pruned(
        without.model,
        left,
        without.edits,
        whole,
        graph.cost(),
        graph.cost(left),
        without.verification,
        graph.example_inputs,
        tuple(named_parameters(model)),
    )
    if plan.removed or compensate is not None:
        options: Any = graph.options
        there = trace(without.model, graph.example_inputs, options["heads"], options["groups"], rules=graph.rules)
        pruned = apply(without.model, there, carry(plan, graph, there), verify, compensate, calibration)
        edits = compose(without.edits, pruned.edits)
        removed, whole = carry_back(edits, pruned.frozen, graph, there)
        done = replace(
            done,
            model=pruned.model,
            plan=replace(left, removed=removed, settings=pruned.plan.settings),
            edits=edits,
            after=pruned.after,
            verification=worse(without.verification, pruned.verification),
        )
    stay = {block.name: block.frozen for block in graph.blocks if block.frozen is not None}
    return replace(done, frozen={**whole, **stay, **without.kept})


def _frozen(graph: DependencyGraph) -> dict[str, Frozen]:
    """Every group that stays whole."""
    return {group.name: group.frozen for group in graph.groups if group.frozen is not None}


def _data(compensation: Compensation | None, calibration: Calibration | Iterable[Any] | None) -> dict[str, Calibration]:
    """The batches for a compensation that looks at data. Raises CompressError where they are missing."""
    if compensation is None or not compensation.needs_batches:
        return {}
    if calibration is None:
        raise CompressError(f"compensation '{compensation.name}' looks at data; pass calibration=batches")
    return {"calibration": calibration if isinstance(calibration, Calibration) else Calibration(calibration)}


def check_shapes(model: nn.Module, graph: DependencyGraph) -> None:
    """Raises CompressError where the graph was traced from another network than the model."""
    shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}
    if shapes != dict(graph.shapes):
        different = next(n for n in {**graph.shapes, **shapes} if shapes.get(n) != graph.shapes.get(n))
        raise CompressError(
            f"the graph is not this model's: '{different}' is {shapes.get(different)} here and "
            f"{graph.shapes.get(different)} in the graph; trace the model again"
        )


def _blame(plan: Plan, graph: DependencyGraph, blame: Blame) -> tuple[Plan, DependencyGraph]:
    """Freeze what the blamed step touches; where nothing of that is cut, the nearest step before it."""
    labels = np.zeros(0, dtype=np.int64)
    alive = graph.alive(plan)
    steps = list(graph.steps)
    before = steps[: steps.index(blame.step) + 1] if blame.step is not None else []
    for step in reversed(before):
        touched = np.concatenate([np.zeros(0, dtype=np.int64), *step.touched])
        if not graph.alive_labels(alive)[touched].all():
            labels = touched
            break
    return _without(plan, graph, labels, blame.what, by="verification")


def _without(
    plan: Plan, graph: DependencyGraph, labels: Array, reason: str, by: Literal["rule", "verification"]
) -> tuple[Plan, DependencyGraph]:
    """The plan without the groups that these labels belong to (all, where none of them is cut) and what is linked."""
    units = graph.unit_of_label[labels]
    names = {
        name
        for name in plan.removed
        if ((units >= graph.start(name)) & (units < graph.start(name) + graph[name].size)).any()
    } or set(plan.removed)
    grew = True
    while grew:
        linked = {name for g in names for link in graph[g].links for name, _ in link.slots} & set(plan.removed)
        grew = not linked <= names
        names |= linked
    left = {name: removed for name, removed in plan.removed.items() if name not in names}
    return replace(plan, removed=left), graph.freeze({name: Frozen(reason, by=by) for name in names})


def prune(
    model: nn.Module,
    example_inputs: Any,
    criterion: Any = "l2",
    ratio: float | None = None,
    scope: Literal["local", "global", "isomorphic"] = "local",
    heads: Literal["whole", "inside"] = "whole",
    groups: Literal["whole", "inside"] = "whole",
    verify: bool = True,
    compensate: str | Compensation | None = None,
    calibration: Calibration | Iterable[Any] | None = None,
    **options: Any,
) -> Pruned:
    """trace, plan and apply in one call. `options` are `plan`'s; see there. Returns a verified, smaller network.

    calibration: batches for whichever of criterion and compensation looks at data; a list where both do.
    """
    graph = trace(model, example_inputs, heads=heads, groups=groups)
    given = None if compensate is None else make_compensation(compensate)
    chosen = find_criterion(criterion)
    data = calibration
    if not (chosen.needs_gradients or chosen.needs_batches) and given is not None and given.needs_batches:
        data = None  # the batches are for the compensation alone
    plan = make_plan(graph, criterion=chosen, ratio=ratio, scope=scope, calibration=data, **options)
    return apply(model, graph, plan, verify=verify, compensate=given, calibration=calibration)
