"""A graph, a criterion and a ratio or budget in, the Plan of which units go out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor, nn

from ..errors import CompressError, nearest
from .atoms import Atoms, form
from .budget import Removal, fewest, order
from .calibration import Calibration
from .criteria import Criterion, describe, find_criterion
from .plan import Plan
from .policy import GroupPolicy
from .question import Question, ask, check_limits, match, own_ratios
from .resources import Meter, closest, meter
from .scoring import look, score
from .shards import Shards
from .structure import alike

if TYPE_CHECKING:
    from ..graph.graph import DependencyGraph
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
) -> Plan:
    """Choose the units that go; nothing is cut yet.

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
    ignore: globs over group names; policy: an architecture's own lore; both keep groups whole, as does a criterion
    that says nothing about a group, or a link to a group that stays whole (Plan.frozen has the reasons).
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
    question = ask(ratio, budgets, ratios)
    model = model if model is not None else graph.model
    if isinstance(weights, str | PathLike):
        weights = Shards(weights)
    multiple = _measured_multiple(graph, model) if round_to == "auto" else round_to
    check_limits(scope, multiple, min_keep, max_ratio)
    chosen = find_criterion(criterion)
    meters = {name: meter(graph, name, model, weights, latency) for name in question.budgets}
    own = own_ratios(graph, question.ratios)
    frozen = {name: "its ratio is 0" for name, value in own.items() if not value and not graph[name].frozen}
    frozen |= {**_ignored(graph, ignore), **_kept_by_policy(graph, policy, model)}
    whole = {g.name for g in graph.groups if g.frozen} | set(frozen)
    data = _calibration(calibration, loss)
    scores = score(graph, chosen, _weights(weights, model), model, look(chosen, model, data), skip=whole)

    silent = {name for name, units in _ranges(graph) if name not in whole and np.isnan(scores[units]).all()}
    if silent and len(silent) == len(graph.groups) - len(whole):
        raise CompressError(f"criterion '{chosen.name}' says nothing about any group that may be cut; choose another")
    frozen |= dict.fromkeys(sorted(silent), f"criterion '{chosen.name}' says nothing about it")

    atoms = form(graph, scores, np.isnan(scores))
    frozen |= _tied(graph, atoms, {g.name for g in graph.groups if g.frozen} | set(frozen))
    if not len(atoms) and (question.ratio or question.budgets):
        raise CompressError(f"nothing may be cut{_in_the_way(graph, frozen)}")
    limits = _Limits(graph, scope, int(multiple), int(min_keep), float(max_ratio), own)
    gone = _remove(atoms, question, limits, meters, frozen)
    removed = {name: np.flatnonzero(gone[units]) for name, units in _ranges(graph) if gone[units].any()}
    settings: dict[str, Any] = {"criterion": describe(chosen), **question.settings(), "scope": scope}
    settings |= {"round_to": int(multiple), "min_keep": int(min_keep), "ignore": list(ignore)}
    settings |= {"policy": None if policy is None else describe(policy)}
    if max_ratio < 1:
        settings["max_ratio"] = float(max_ratio)
    if data is not None:
        settings["calibration"] = data.used
    if "latency" in meters:
        settings["latency_ms"] = {"dense": meters["latency"](graph.alive()), "predicted": meters["latency"](~gone)}
    return Plan(removed, settings, frozen)


@dataclass(frozen=True)
class _Limits:
    """Where units may be taken from. own: group name -> a ratio of its own."""

    graph: DependencyGraph
    scope: str
    round_to: int
    min_keep: int
    max_ratio: float
    own: Mapping[str, float]

    def pools(self) -> np.ndarray:
        """(n_groups,) the groups that are ranked together."""
        n = len(self.graph.groups)
        by_scope = {"local": lambda: np.arange(n), "global": lambda: np.zeros(n, dtype=np.int64)}
        return by_scope.get(self.scope, lambda: alike(self.graph))()

    def least(self, ratio: float | None) -> np.ndarray:
        """(n_groups,) units that each keeps; ratio: what goes from each, where that is asked."""
        least = []
        for group in self.graph.groups:
            share = self.own.get(group.name, ratio if ratio is not None and self.scope == "local" else None)
            asked = 0 if share is None else group.size - math.floor(share * group.size + 0.5)
            most = group.size - math.floor(self.max_ratio * group.size + 1e-9) if group.name not in self.own else 0
            least.append(max(self.min_keep, asked, most))
        return np.array(least, dtype=np.int64)

    def forced(self, atoms: Atoms) -> np.ndarray:
        """(n_atoms,) bool: atoms that lie wholly in groups with a ratio of their own."""
        own = np.array([group.name in self.own for group in self.graph.groups], dtype=bool)
        outside = np.bincount(atoms.atom[~own[atoms.group]], minlength=len(atoms))
        return outside == 0


def _remove(
    atoms: Atoms,
    question: Question,
    limits: _Limits,
    meters: Mapping[str, Meter],
    frozen: Mapping[str, str],
) -> np.ndarray:
    """(n_units,) bool, the units that go."""
    forced = limits.forced(atoms)
    rank = order(atoms, limits.pools())
    rank = np.argsort(np.lexsort((rank, ~forced)))  # what has a ratio of its own goes first, as far as that allows
    removal = Removal(atoms, rank, limits.least(question.ratio), limits.round_to)
    always, free = int(forced.sum()), int((~forced).sum())

    def gone(k: int) -> np.ndarray:
        return removal.units(removal.first(always + k))

    if question.ratio is not None and limits.scope == "local":
        return gone(free)
    if question.ratio is not None:
        before = np.count_nonzero(gone(0))
        pool = np.count_nonzero(~forced[atoms.of[atoms.of >= 0]])
        asked = before + math.floor(question.ratio * pool + 0.5)
        beyond = fewest(lambda k: bool(np.count_nonzero(gone(k)) > asked), free)
        return gone(free if beyond is None else max(beyond - 1, 0))

    whole = np.zeros(limits.graph.n_units, dtype=bool)
    dense = {name: read(~whole) for name, read in meters.items()}
    allowed = {name: value * dense[name] if value <= 1 else value for name, value in question.budgets.items()}

    def met(k: int) -> bool:
        alive = ~gone(k)
        return all(read(alive) <= allowed[name] for name, read in meters.items())

    k = fewest(met, free)
    if k is None:
        alive = ~gone(free)
        least = {name: read(alive) for name, read in meters.items()}
        raise CompressError(_infeasible(limits.graph, question, dense, allowed, least, frozen))
    return gone(k)


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


def _ignored(graph: DependencyGraph, ignore: Sequence[str]) -> dict[str, str]:
    if isinstance(ignore, str):
        raise CompressError(f"ignore: expected a list of globs over group names, found one string; write ({ignore!r},)")
    return {name: f"ignore '{glob}'" for glob in ignore for name in match(graph, glob, "ignore")}


def _kept_by_policy(graph: DependencyGraph, policy: GroupPolicy | None, model: nn.Module | None) -> dict[str, str]:
    if policy is None:
        return {}
    if model is None:
        raise CompressError(f"policy '{policy.name}' looks at the model and the traced one is gone; pass model=")
    reasons, names = dict(policy.freeze(graph, model)), {group.name: group for group in graph.groups}
    for name in reasons:
        if name not in names:
            raise CompressError(f"policy '{policy.name}' keeps '{name}', which is no group{nearest(name, names)}")
    return {name: reason for name, reason in reasons.items() if not names[name].frozen}


def _tied(graph: DependencyGraph, atoms: Atoms, whole: set[str]) -> dict[str, str]:
    """Groups of which no unit can go because of links alone, with the links' reasons."""
    reasons = {}
    for group in graph.groups:
        start = graph.start(group.name)
        if group.name not in whole and (atoms.of[start : start + group.size] < 0).all():
            others = sorted({name for link in group.links for name, _ in link.slots} & whole)
            because = "; ".join(sorted({link.reason for link in group.links if link.reason})) or "linked"
            reasons[group.name] = f"keeps as many units as {', '.join(others) or 'groups that stay whole'}: {because}"
    return reasons


def _ranges(graph: DependencyGraph) -> list[tuple[str, slice]]:
    """Each group's name and the numbers of its units."""
    return [(g.name, slice(graph.start(g.name), graph.start(g.name) + g.size)) for g in graph.groups]


def _infeasible(
    graph: DependencyGraph,
    question: Question,
    dense: Mapping[str, float],
    allowed: Mapping[str, float],
    least: Mapping[str, float],
    frozen: Mapping[str, str],
) -> str:
    """Which budgets cannot be met, the closest that can, and what is in the way; one line."""
    said = []
    for name, value in question.budgets.items():
        if least[name] > allowed[name]:
            nearby = closest(dense[name], least[name], value)
            stay = f"at least {least[name]:,} of {dense[name]:,} stay"
            said.append(f"keep_{name}={value:.12g} cannot be met: {stay}; ask for keep_{name}={nearby:.12g} or more")
    return "; ".join(said) + _in_the_way(graph, frozen)


def _in_the_way(graph: DependencyGraph, frozen: Mapping[str, str]) -> str:
    """The largest groups that stay whole and why, as the end of a sentence."""
    kept = [(g.size, g.name, frozen.get(g.name, g.frozen)) for g in graph.groups if g.frozen or g.name in frozen]
    largest = sorted(kept, key=lambda k: (-k[0], k[1]))[:3]
    names = ", ".join(f"{name} ({size} units: {reason})" for size, name, reason in largest)
    more = f" and {len(kept) - len(largest)} more groups" if len(kept) > len(largest) else ""
    return f"; in the way: {names}{more}" if kept else ""
