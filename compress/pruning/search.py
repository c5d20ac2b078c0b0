"""Atoms in an order, limits and a question in, the removal that answers it out - or which budget cannot be met."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import CompressError
from .atoms import Atoms
from .budget import Removal, fewest, order
from .question import Question
from .resources import Meter, closest
from .staying import in_the_way
from .structure import alike

if TYPE_CHECKING:
    from ..graph.graph import DependencyGraph


@dataclass(frozen=True)
class Limits:
    """Where units may be taken from. own: group name -> a ratio of its own.

    Residual blocks, where they are ranked too, are one more group behind the graph's own: their number, `ranked`, is 0
    where they are not.
    """

    graph: DependencyGraph
    scope: str
    round_to: int
    min_keep: int
    max_ratio: float
    own: Mapping[str, float]
    ranked: int = 0

    def pools(self) -> np.ndarray:
        """(n_groups,) the groups that are ranked together."""
        n = len(self.graph.groups)
        by_scope = {"local": lambda: np.arange(n), "global": lambda: np.zeros(n, dtype=np.int64)}
        pools = by_scope.get(self.scope, lambda: alike(self.graph))()
        if not self.ranked:
            return pools
        return np.append(pools, 0 if self.scope == "global" else pools.max(initial=-1) + 1)

    def least(self, ratio: float | None) -> np.ndarray:
        """(n_groups,) units that each keeps; ratio: what goes from each, where that is asked."""
        everywhere = ratio if ratio is not None and self.scope == "local" else None
        least = [
            max(self.min_keep, self._left(group.size, self.own.get(group.name, everywhere), group.name in self.own))
            for group in self.graph.groups
        ]
        return np.array([*least, *([self._left(self.ranked, everywhere)] if self.ranked else [])], dtype=np.int64)

    def _left(self, size: int, share: float | None, own: bool = False) -> int:
        """What stays of a group by its ratio and by `max_ratio`."""
        asked = 0 if share is None else size - math.floor(share * size + 0.5)
        return asked if own else max(asked, size - math.floor(self.max_ratio * size + 1e-9))

    def multiples(self) -> np.ndarray:
        """(n_groups,) what the size of each is rounded up to."""
        multiples = np.full(len(self.graph.groups), self.round_to, dtype=np.int64)
        return np.append(multiples, 1) if self.ranked else multiples

    def forced(self, atoms: Atoms) -> np.ndarray:
        """(n_atoms,) bool: atoms that lie wholly in groups with a ratio of their own."""
        own = np.array([*(g.name in self.own for g in self.graph.groups), *[False] * bool(self.ranked)], dtype=bool)
        outside = np.bincount(atoms.atom[~own[atoms.group]], minlength=len(atoms))
        return outside == 0


def remove(
    atoms: Atoms,
    question: Question,
    limits: Limits,
    meters: Mapping[str, Meter],
    frozen: Mapping[str, str],
    blocks: np.ndarray,
) -> np.ndarray:
    """(n_units + n_blocks,) bool, the units and blocks that go. blocks: (n_blocks,) bool, those that go in any case.

    Units that live in a block that goes count as units that go.
    """
    n, graph = limits.graph.n_units, limits.graph
    inside = [[slice(graph.start(g), graph.start(g) + graph[g].size) for g in block.groups] for block in graph.blocks]
    forced = limits.forced(atoms)
    rank = order(atoms, limits.pools())
    rank = np.argsort(np.lexsort((rank, ~forced)))  # what has a ratio of its own goes first, as far as that allows
    removal = Removal(atoms, rank, limits.least(question.ratio), limits.multiples())
    always, free = int(forced.sum()), int((~forced).sum())

    def gone(k: int) -> np.ndarray:
        found = removal.units(removal.first(always + k))
        found = np.concatenate([found[:n], found[n:] | blocks if limits.ranked else blocks])
        for number in np.flatnonzero(found[n:]):
            for units in inside[number]:
                found[units] = True
        return found

    if question.ratio is not None and limits.scope == "local":
        return gone(free)
    if question.ratio is not None:
        may = atoms.of[:n] >= 0
        before = np.count_nonzero(gone(0)[:n] & may)
        pool = np.count_nonzero(~forced[atoms.of[:n][may]])
        asked = before + math.floor(question.ratio * pool + 0.5)
        beyond = fewest(lambda k: bool(np.count_nonzero(gone(k)[:n] & may) > asked), free)
        return gone(free if beyond is None else max(beyond - 1, 0))

    dense = {name: read(~np.zeros(n, dtype=bool)) for name, read in meters.items()}
    allowed = {name: value * dense[name] if value <= 1 else value for name, value in question.budgets.items()}

    def met(k: int) -> bool:
        alive = ~gone(k)
        return all(read(alive) <= allowed[name] for name, read in meters.items())

    k = fewest(met, free)
    if k is None:
        alive = ~gone(free)
        least = {name: read(alive) for name, read in meters.items()}
        raise CompressError(infeasible(limits.graph, question, dense, allowed, least, frozen))
    return gone(k)


def lowest(graph: DependencyGraph, scores: np.ndarray, wanted: int, frozen: Mapping[str, str]) -> np.ndarray:
    """(n_blocks,) bool, the blocks that score lowest, `wanted` of them, none of which lies in another.

    scores: (n_blocks,), NaN for those that stay. Raises CompressError where fewer may go, with what keeps the others.
    """
    chosen = np.zeros(len(scores), dtype=bool)
    for number in np.argsort(scores, kind="stable")[: np.count_nonzero(~np.isnan(scores))]:  # NaN comes last
        if chosen.sum() < wanted:
            chosen[number] = True
            chosen = outermost(graph, chosen)
    if chosen.sum() < wanted:
        kept = [f"{b.name} ({frozen.get(b.name, b.frozen)})" for b in graph.blocks if b.frozen or b.name in frozen]
        why = f"; {', '.join(kept[:3])}{f' and {len(kept) - 3} more' if len(kept) > 3 else ''} stay" if kept else ""
        found = f"{chosen.sum()} residual branches may go, of {len(graph.blocks)} found"
        raise CompressError(f"blocks={wanted}: {found}{why}")
    return chosen


def outermost(graph: DependencyGraph, chosen: np.ndarray) -> np.ndarray:
    """(n_blocks,) bool: of these blocks, those that go with no other of them."""
    taken = [graph.blocks[number].tensors if here else frozenset() for number, here in enumerate(chosen)]
    return chosen & np.array([not any(own < other for other in taken) for own in taken], dtype=bool)


def infeasible(
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
    return "; ".join(said) + in_the_way(graph, frozen)
