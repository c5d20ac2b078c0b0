"""A graph, a criterion and a ratio or budget in, the Plan of which units go out."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor, nn

from ..errors import CompressError, nearest
from .atoms import Atoms, form
from .budget import Removal, fewest, order_by_score, order_by_share
from .criteria import Criterion, describe, find_criterion
from .plan import Plan
from .policy import GroupPolicy
from .scoring import gradients, score
from .shards import Shards

if TYPE_CHECKING:
    from ..graph.graph import DependencyGraph

DEFAULT_RATIO = 0.5


def plan(
    graph: DependencyGraph,
    criterion: str | Criterion = "l2",
    ratio: float | None = None,
    scope: Literal["local", "global"] = "local",
    keep_macs: float | None = None,
    keep_params: float | None = None,
    round_to: int = 1,
    min_keep: int = 1,
    ignore: Sequence[str] = (),
    policy: GroupPolicy | None = None,
    model: nn.Module | None = None,
    weights: Mapping[str, Tensor] | str | PathLike[str] | None = None,
    calibration: Iterable[Any] | None = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
) -> Plan:
    """Choose the units that go; nothing is cut yet.

    criterion: a registered name or an object; the smallest scores go. One question at most (default ratio=0.5):
    ratio: the fraction of units removed, of each group (scope `local`) or of all that may be cut (`global`);
    keep_macs, keep_params: what is left, up to 1 as a fraction, above as a number; met with the last unit that fits.
    scope: with a budget, `local` shrinks every group in step and `global` takes the smallest scores wherever they are.
    round_to: a group that loses units keeps a multiple of it, rounded up. min_keep: units that every group keeps.
    ignore: globs over group names; policy: an architecture's own lore; both keep groups whole, as does a criterion
    that says nothing about a group, or a link to a group that stays whole (Plan.frozen has the reasons).
    model: default the traced one. weights: parameter name -> tensor, where the model's own are not meant or not there;
    or a safetensors file or a folder of them, of which one tensor at a time is read.
    calibration, loss: batches and (model, batch) -> scalar, for criteria that need gradients.

    Ties are broken by the rank within the group, then by unit number, so that equal inputs give equal plans.

    Raises CompressError for values out of range, globs that match nothing, scores that are not finite, and budgets
    that cannot be met (naming the closest that can, and what is in the way).
    """
    question = _question(ratio, keep_macs, keep_params)
    _check(scope=scope, round_to=round_to, min_keep=min_keep)
    chosen = find_criterion(criterion)
    model = model if model is not None else graph.model
    if isinstance(weights, str | PathLike):
        weights = Shards(weights)
    frozen = {**_ignored(graph, ignore), **_kept_by_policy(graph, policy, model)}
    whole = {g.name for g in graph.groups if g.frozen} | set(frozen)
    scores = score(graph, chosen, *_sources(chosen, model, weights, calibration, loss), skip=whole)

    silent = {name for name, units in _ranges(graph) if name not in whole and np.isnan(scores[units]).all()}
    if silent and len(silent) == len(graph.groups) - len(whole):
        raise CompressError(f"criterion '{chosen.name}' says nothing about any group that may be cut; choose another")
    frozen |= dict.fromkeys(sorted(silent), f"criterion '{chosen.name}' says nothing about it")

    atoms = form(graph, scores, np.isnan(scores))
    frozen |= _tied(graph, atoms, {g.name for g in graph.groups if g.frozen} | set(frozen))
    if not len(atoms) and question.get("ratio", 1) > 0:
        raise CompressError(f"nothing may be cut{_in_the_way(graph, frozen)}")
    gone = _remove(graph, atoms, question, scope, round_to, min_keep, frozen)
    removed = {name: np.flatnonzero(gone[units]) for name, units in _ranges(graph) if gone[units].any()}
    settings: dict[str, Any] = {"criterion": describe(chosen), **question, "scope": scope}
    settings |= {"round_to": int(round_to), "min_keep": int(min_keep), "ignore": list(ignore)}
    settings |= {"policy": None if policy is None else describe(policy)}
    return Plan(removed, settings, frozen)


def _remove(
    graph: DependencyGraph,
    atoms: Atoms,
    question: Mapping[str, float],
    scope: str,
    round_to: int,
    min_keep: int,
    frozen: Mapping[str, str],
) -> np.ndarray:
    """(n_units,) bool, the units that go."""
    ((what, value),) = question.items()
    rank = order_by_score(atoms) if scope == "global" else order_by_share(atoms)
    least = np.full(len(atoms.sizes), min_keep)
    if what == "ratio" and scope == "local":
        least = np.maximum(least, atoms.sizes - np.floor(value * atoms.sizes + 0.5).astype(np.int64))
    removal = Removal(atoms, rank, least, round_to)
    if what == "ratio" and scope == "local":
        return removal.units(removal.first(len(atoms)))
    if what == "ratio":
        asked = np.floor(value * np.count_nonzero(atoms.of >= 0) + 0.5)
        beyond = fewest(lambda k: np.count_nonzero(removal.units(removal.first(k))) > asked, len(atoms))
        return removal.units(removal.first(len(atoms) if beyond is None else beyond - 1))

    kind = what.removeprefix("keep_")

    def cost(k: int) -> int:
        return getattr(graph.cost_of(~removal.units(removal.first(k))), kind)

    dense = cost(0)
    budget = value * dense if value <= 1 else value
    k = fewest(lambda k: cost(k) <= budget, len(atoms))
    if k is None:
        raise CompressError(_infeasible(graph, what, value, cost(len(atoms)), dense, frozen))
    return removal.units(removal.first(k))


def _question(ratio: float | None, keep_macs: float | None, keep_params: float | None) -> dict[str, float]:
    """The one of the three that is asked, by name."""
    asked = {"ratio": ratio, "keep_macs": keep_macs, "keep_params": keep_params}
    given = {name: value for name, value in asked.items() if value is not None} or {"ratio": DEFAULT_RATIO}
    if len(given) > 1:
        raise CompressError(f"{' and '.join(given)} were given; a plan answers one of ratio, keep_macs and keep_params")
    ((name, value),) = given.items()
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise CompressError(f"{name}: expected a number, found {value!r}")
    value = value if isinstance(value, int) else float(value)
    if name == "ratio" and not 0 <= value < 1:
        raise CompressError(f"ratio: the fraction of units removed, expected in [0, 1), found {value}")
    if name != "ratio" and not 0 < value < float("inf"):
        raise CompressError(f"{name}: expected a fraction in (0, 1] or a number above 1, found {value}")
    return {name: value}


def _check(scope: str, round_to: int, min_keep: int) -> None:
    if scope not in ("local", "global"):
        raise CompressError(f"scope: expected 'local' or 'global', found {scope!r}")
    for name, value in {"round_to": round_to, "min_keep": min_keep}.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise CompressError(f"{name}: expected an integer of at least 1, found {value!r}")


def _sources(
    criterion: Criterion,
    model: nn.Module | None,
    weights: Mapping[str, Tensor] | None,
    calibration: Iterable[Any] | None,
    loss: Callable[[nn.Module, Any], Tensor] | None,
) -> tuple[Mapping[str, Tensor], nn.Module | None, Mapping[str, Tensor]]:
    """Weights, their model and gradients, as `score` takes them."""
    if weights is None and model is None:
        raise CompressError("the traced model is gone and the graph holds names only; pass model= or weights=")
    if not criterion.needs_gradients:
        if calibration is not None or loss is not None:
            raise CompressError(f"criterion '{criterion.name}' needs no data; leave out calibration= and loss=")
        found: Mapping[str, Tensor] = {}
    elif model is None:
        raise CompressError(f"criterion '{criterion.name}' needs gradients and the traced model is gone; pass model=")
    else:
        found = gradients(model, calibration, loss)
    if weights is None and model is not None:
        weights = dict(model.named_parameters(remove_duplicate=False))
    return weights or {}, model, found


def _ignored(graph: DependencyGraph, ignore: Sequence[str]) -> dict[str, str]:
    if isinstance(ignore, str):
        raise CompressError(f"ignore: expected a list of globs over group names, found one string; write ({ignore!r},)")
    names = [group.name for group in graph.groups]
    reasons: dict[str, str] = {}
    for glob in ignore:
        matched = fnmatch.filter(names, glob)
        if not matched:
            homes = {
                group.name
                for group in graph.groups
                for member in group.members
                if member.role == "out" and fnmatch.fnmatchcase(member.name.rpartition(".")[0], glob)
            }
            hint = f"; those layers are cut with group {', '.join(sorted(homes))}" if homes else nearest(glob, names)
            raise CompressError(f"ignore: '{glob}' matches no group{hint}")
        reasons |= dict.fromkeys(matched, f"ignore '{glob}'")
    return reasons


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
    graph: DependencyGraph, what: str, value: float, closest: int, dense: int, frozen: Mapping[str, str]
) -> str:
    least = np.ceil(1e4 * closest / dense) / 1e4 if value <= 1 else closest
    return (
        f"{what}={value:.12g} cannot be met: at least {closest:,} of {dense:,} stay; "
        f"ask for {what}={least:.12g} or more{_in_the_way(graph, frozen)}"
    )


def _in_the_way(graph: DependencyGraph, frozen: Mapping[str, str]) -> str:
    """The largest groups that stay whole and why, as the end of a sentence."""
    kept = [(g.size, g.name, frozen.get(g.name, g.frozen)) for g in graph.groups if g.frozen or g.name in frozen]
    largest = sorted(kept, key=lambda k: (-k[0], k[1]))[:3]
    names = ", ".join(f"{name} ({size} units: {reason})" for size, name, reason in largest)
    more = f" and {len(kept) - len(largest)} more groups" if len(kept) > len(largest) else ""
    return f"; in the way: {names}{more}" if kept else ""
