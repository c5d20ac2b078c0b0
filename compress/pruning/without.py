"""A network and blocks of its graph in, the network without them, verified, out - and the rest of the plan for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from ..errors import CompressError
from ..graph.blocks import Block, StandIn
from ..graph.graph import DependencyGraph, Frozen, Group, Member
from .plan import Plan
from .surgery import Edits, cut
from .verify import Verification, verify


@dataclass(frozen=True)
class Without:
    """What became of a network when blocks were taken out. kept: block name -> why verification kept it."""

    model: nn.Module
    blocks: tuple[str, ...]
    edits: Edits
    verification: Verification | None
    kept: Mapping[str, Frozen] = field(default_factory=dict)


def take_out(model: nn.Module, graph: DependencyGraph, names: Iterable[str], verified: bool = True) -> Without:
    """A copy of the model without these blocks.

    It is compared with the original in which each block's branch is zero where it is added to its stream, on random and
    on real weights. Where they differ, each block is tried alone; those that do not pass stay, and are named; if the
    others do not pass together, all stay. Raises CompressError for a block that is frozen.
    """
    wanted = [graph.block(name) for name in dict.fromkeys(names)]
    for block in wanted:
        if block.frozen:
            raise CompressError(f"block '{block.name}' stays: {block.frozen}; take it out of the plan")
    if not verified:
        edits = _edits(graph, wanted)
        return Without(cut(model, edits), _names(wanted), edits, None)

    def check(blocks: Sequence[Block]) -> tuple[Verification, str]:
        edits = _edits(graph, blocks)
        found, blame = verify(model, cut(model, edits), graph, Plan({}, blocks=_names(blocks)), edits)
        return found, "" if blame is None else blame.what

    verification, differs = check(wanted)
    kept: dict[str, Frozen] = {}
    if differs:
        for block in wanted:
            reason = check([block])[1] if len(wanted) > 1 else differs
            if reason:
                kept[block.name] = Frozen(reason, by="verification")
        wanted = [block for block in wanted if block.name not in kept]
        verification, differs = check(wanted)
    if differs:
        kept |= {block.name: Frozen(differs, by="verification") for block in wanted}
        wanted = []
        verification, _ = check(wanted)
    edits = _edits(graph, wanted)
    return Without(cut(model, edits), _names(wanted), edits, verification, kept)


def _names(blocks: Iterable[Block]) -> tuple[str, ...]:
    return tuple(block.name for block in blocks)


def _edits(graph: DependencyGraph, blocks: Sequence[Block]) -> Edits:
    """The stand-ins of all blocks; what lies in a module that is replaced anyway is left out."""
    replaced: dict[str, StandIn] = {}
    for block in sorted(blocks, key=lambda block: len(block.calls)):
        replaced |= {stand_in.path: stand_in for stand_in in block.stand_ins}
    whole = Edits({}, replaced=replaced)
    return Edits({}, {}, dict(graph.shapes), {path: each for path, each in replaced.items() if not whole.gone(path)})


def carry(plan: Plan, before: DependencyGraph, after: DependencyGraph) -> Plan:
    """The units of a plan in the graph of the network without its blocks, found again by parameter, dimension, index.

    A unit goes where all of its places were to go.
    """
    gone = np.append(~before.alive(plan)[: before.n_units], False)
    named = [*np.repeat([g.name for g in before.groups], [g.size for g in before.groups]), None]
    removed, frozen = {}, {}
    for group in after.groups:
        going, places = np.zeros(group.size, dtype=np.int64), np.zeros(group.size, dtype=np.int64)
        for member in group.members:
            units = before.unit_of_label[before.places[member.name, member.dim][member.index]]
            np.add.at(going, member.unit, gone[units])
            np.add.at(places, member.unit, 1)
            reasons = [plan.frozen[name] for name in {named[unit] for unit in units} if name in plan.frozen]
            if reasons:
                frozen[group.name] = reasons[0]
        units = np.flatnonzero(going == places)
        if group.frozen is None and 0 < len(units) < group.size:
            removed[group.name] = units
    return Plan(removed, plan.settings, frozen)


def carry_back(
    edits: Edits, frozen: Mapping[str, Frozen], before: DependencyGraph, after: DependencyGraph
) -> tuple[dict[str, np.ndarray], dict[str, Frozen]]:
    """The other way: units that went, and groups that stayed whole and why, by the names of the graph before.

    frozen: by the names of the graph after. edits: from the first network to the last.
    """
    homes: dict[tuple[str, int], list[Group]] = defaultdict(list)
    for group in after.groups:
        for member in group.members:
            homes[member.name, member.dim].append(group)
    removed: dict[str, np.ndarray] = {}
    whole: dict[str, Frozen] = {}
    for group in before.groups:
        gone = np.zeros(group.size, dtype=bool)
        for member in group.members:
            kept = edits.select.get(member.name, {}).get(member.dim)
            if kept is not None:
                gone[member.unit[~np.isin(member.index, kept)]] = True
            for home in homes[member.name, member.dim]:
                if home.name in frozen and _meet(home, member):
                    whole.setdefault(group.name, frozen[home.name])
        if gone.any():
            removed[group.name] = np.flatnonzero(gone)
    return removed, {group.name: whole[group.name] for group in before.groups if group.name in whole}


def _meet(group: Group, place: Member) -> bool:
    """Whether some of a group's units are at the same indices of a place."""
    here = [m.index for m in group.members if (m.name, m.dim) == (place.name, place.dim)]
    return any(np.isin(index, place.index).any() for index in here)
