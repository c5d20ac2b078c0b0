"""A graph, a criterion and a ratio or budget in, the Plan of which units go out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor, nn

from ..errors import CompressError
from .atoms import form, with_blocks
from .calibration import Calibration
from .criteria import Criterion, describe, find_criterion
from .plan import Plan
from .policy import GroupPolicy
from .question import ask, check_blocks, check_limits, own_ratios
from .resources import meter
from .scoring import look, score, score_blocks
from .search import Limits, lowest, outermost, remove
from .shards import Shards
from .staying import blocks_with, ignored, in_the_way, kept_by_policy, tied

if TYPE_CHECKING:
    from ..graph.graph import DependencyGraph
    from .analysis import Sensitivity
    from .latency import LatencyTable


def plan(
    graph: DependencyGraph,
    criterion: str | Mapping[str, Any] | Criterion = "l2",
    ratio: float | None = None,
    scope: Literal["local", "global", "isomorphic"] = "local",
    keep_macs: float | None = None,
    keep_params: float | None = None,
    round_to: int | Literal["auto"] = 1,
    min_keep: int = 1,
    ignore: Sequence[str] = (),
    policy: GroupPolicy | None = None,
    model: nn.Module | None = None,
    weights: Mapping[str, Tensor] | str | PathLike[str] | None = None,
    calibration: Calibration | Iterable[Any] | None = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    *,
    keep: Mapping[str, float] | None = None,
    max_ratio: float = 1.0,
    ratios: Mapping[str, float] | None = None,
    latency: LatencyTable | None = None,
    blocks: int | Literal["ranked"] = 0,
    sensitivity: Sensitivity | None = None,
) -> Plan:
    """Choose the units and residual blocks that go; nothing is cut yet.

    criterion: a registered name, {"uses": name, option: value}, or an object; the smallest scores go.
    How much goes is a ratio (default 0.5) or budgets:
    ratio: the fraction of units removed, of each group (scope `local`) or of all that may be cut;
    keep_macs, keep_params: what is left, up to 1 as a fraction, above as a number; met with the last unit that fits;
    keep: the same for any of `params`, `macs`, `bytes`, `activations` and `latency`; several are all met.
    scope: `local` shrinks every group in step, `global` takes the smallest scores wherever they are, `isomorphic` does
    so among groups that are built alike and shrinks those classes in step.
    ratios: globs over group names (or `@residual`, `@inner`: groups that several layers make, or one) -> the fraction
    of each that goes whatever the rest is asked; the last that matches counts. max_ratio: at most this fraction of any
    other group goes. round_to: a group that loses units keeps a multiple of it, rounded up; `auto` measures which pays
    on this device. min_keep: units that every group keeps.
    blocks: how many residual branches (graph.blocks) go as a whole, those that the criterion scores lowest; alone where
    neither a ratio nor a budget is given. `ranked`: they compete with the units, as one more group, under the ratio or
    budgets; then units are chosen anew beside the blocks that go. What lives in a block that goes counts as gone.
    sensitivity: what each group alone has cost. Under scope `global` the units then go in the order of the drop they
    were measured to cause, so that all groups are cut until they cost the same; the criterion ranks within the groups.
    ignore: globs over group and block names; policy: an architecture's own lore; both keep groups whole, as does a
    criterion that says nothing about a group, or a link to a group that stays whole (Plan.frozen has the reasons). A
    block stays for the sake of any group in it that is kept so.
    model: default the traced one. weights: parameter name -> tensor, where the model's own are not meant or not there;
    or a safetensors file or a folder of them, of which one tensor at a time is read.
    calibration, loss: batches and (model, batch) -> scalar, for criteria that look at data; or a Calibration with
    both. Plan.settings says how many samples were used. latency: this device's layer times, see `measure_layers`.

    Ties are broken by the rank within the group, then by unit number, so that equal inputs give equal plans.

    Raises CompressError for values out of range, globs that match nothing, scores that are not finite, and budgets
    that cannot be met (naming the closest that can, and what is in the way).
    """
    budgets = {"macs": keep_macs, "params": keep_params}
    for name, value in (keep or {}).items():
        if budgets.get(name) is not None:
            raise CompressError(f"keep_{name} was given beside keep's '{name}'; give one of them")
        budgets[name] = value
    check_blocks(blocks)
    alone = blocks != 0 and blocks != "ranked" and ratio is None and all(b is None for b in budgets.values())
    question = ask(0.0 if alone else ratio, budgets, ratios)
    model = model if model is not None else graph.model
    if isinstance(weights, str | PathLike):
        weights = Shards(weights)
    multiple = _measured_multiple(graph, model) if round_to == "auto" else round_to
    check_limits(scope, multiple, min_keep, max_ratio)
    if sensitivity is not None and (scope != "global" or blocks == "ranked"):
        raise CompressError("sensitivity ranks units of all groups, and no blocks: it needs scope 'global'")
    chosen = find_criterion(criterion)
    meters = {name: meter(graph, name, model, weights, latency) for name in question.budgets}
    own = own_ratios(graph, question.ratios)
    frozen = {name: "its ratio is 0" for name, value in own.items() if not value and not graph[name].frozen}
    frozen |= {**ignored(graph, ignore), **kept_by_policy(graph, policy, model)}
    if sensitivity is not None:
        unmeasured = sensitivity.unmeasured(graph)
        frozen |= {name: why for name, why in unmeasured.items() if not graph[name].frozen and name not in frozen}
    frozen |= blocks_with(graph, frozen)
    whole = {g.name for g in graph.groups if g.frozen} | set(frozen)
    data = _calibration(calibration, loss)
    seen, tensors = look(chosen, model, data), _weights(weights, model)
    scores = score(graph, chosen, tensors, model, seen, skip=whole)
    if sensitivity is not None:
        scores = sensitivity.expected(graph, scores)
    of_blocks = np.full(len(graph.blocks), np.nan)
    if blocks:
        of_blocks = score_blocks(graph, chosen, tensors, model, seen, skip=whole)

    silent = {name for name, units in _ranges(graph) if name not in whole and np.isnan(scores[units]).all()}
    may = [name for name, _ in _ranges(graph) if name not in whole]
    if silent and len(silent) == len(may) and np.isnan(of_blocks).all():
        raise CompressError(f"criterion '{chosen.name}' says nothing about any group that may be cut; choose another")
    if blocks:
        silent |= {b.name for b, s in zip(graph.blocks, of_blocks, strict=True) if np.isnan(s) and not b.frozen} - whole
    frozen |= dict.fromkeys(sorted(silent), f"criterion '{chosen.name}' says nothing about it")

    atoms = form(graph, scores, np.isnan(scores))
    frozen |= tied(graph, atoms, {g.name for g in graph.groups if g.frozen} | set(frozen))
    if not len(atoms) and np.isnan(of_blocks).all() and (question.ratio or question.budgets):
        raise CompressError(f"nothing may be cut{in_the_way(graph, frozen)}")
    limits = Limits(graph, scope, int(multiple), int(min_keep), float(max_ratio), own)
    fixed = np.zeros(len(graph.blocks), dtype=bool)
    if blocks == "ranked" and not np.isnan(of_blocks).all():
        joint = replace(limits, ranked=int(np.count_nonzero(~np.isnan(of_blocks))))
        fixed = remove(with_blocks(atoms, of_blocks), question, joint, meters, frozen, fixed)[graph.n_units :]
        fixed = outermost(graph, fixed)
    elif blocks != "ranked":
        fixed = lowest(graph, of_blocks, blocks, frozen)
    gone = remove(atoms, question, limits, meters, frozen, fixed)
    taken = [block for block, goes in zip(graph.blocks, fixed, strict=True) if goes]
    inside = {name for block in taken for name in block.groups}
    ranges = [(name, units) for name, units in _ranges(graph) if name not in inside]
    removed = {name: np.flatnonzero(gone[units]) for name, units in ranges if gone[units].any()}
    settings: dict[str, Any] = {"criterion": describe(chosen), **question.settings(), "scope": scope}
    settings |= {"round_to": int(multiple), "min_keep": int(min_keep), "ignore": list(ignore)}
    settings |= {"policy": None if policy is None else describe(policy)}
    if sensitivity is not None:
        settings["sensitivity"] = {"metric": sensitivity.metric, "ratios": list(sensitivity.ratios)}
    if max_ratio < 1:
        settings["max_ratio"] = float(max_ratio)
    if blocks:
        settings["blocks"] = blocks if isinstance(blocks, str) else int(blocks)
    if data is not None:
        settings["calibration"] = data.used
    if "latency" in meters:
        settings["latency_ms"] = {"dense": meters["latency"](graph.alive()), "predicted": meters["latency"](~gone)}
    return Plan(removed, settings, frozen, tuple(block.name for block in taken))


def _measured_multiple(graph: DependencyGraph, model: nn.Module | None) -> int:
    """What `round_to="auto"` comes to."""
    from .latency import best_multiple

    if model is None:
        raise CompressError("round_to: 'auto' times the model's layers and the traced one is gone; pass model=")
    return best_multiple(model, graph)


def _weights(weights: Mapping[str, Tensor] | None, model: nn.Module | None) -> Mapping[str, Tensor]:
    """The weights that are given, else the model's own."""
    if weights is not None:
        return weights
    if model is None:
        raise CompressError("the traced model is gone and the graph holds names only; pass model= or weights=")
    return dict(model.named_parameters(remove_duplicate=False))


def _calibration(
    given: Calibration | Iterable[Any] | None, loss: Callable[[nn.Module, Any], Tensor] | None
) -> Calibration | None:
    """Batches and loss as one value; None where there are neither."""
    if isinstance(given, Calibration):
        if loss is not None:
            raise CompressError("loss= was given beside a Calibration, which has its own; give one of them")
        return given
    if given is None and loss is None:
        return None
    if given is None:
        raise CompressError("loss= was given without batches; pass calibration=batches as well")
    return Calibration(given, loss)


def _ranges(graph: DependencyGraph) -> list[tuple[str, slice]]:
    """Each group's name and the numbers of its units."""
    return [(g.name, slice(graph.start(g.name), graph.start(g.name) + g.size)) for g in graph.groups]
