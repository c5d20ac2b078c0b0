"""Links between units in, atoms out: sets of units that go together or not at all, so that every link stays kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

if TYPE_CHECKING:
    from ..graph.graph import DependencyGraph


@dataclass(frozen=True)
class Atoms:
    """What can be removed, in indivisible pieces.

    of: (n_units,) int64, the atom in which each unit is, -1 for units that cannot go. score: (n_atoms,) float64, the
    mean score of an atom's units. atom, group, count: (n_entries,) int64 each, sorted by group: `count` units of
    `atom` are in `group` (by position in graph.groups). sizes: (n_groups,) int64, all units of each group.
    """

    of: np.ndarray
    score: np.ndarray
    atom: np.ndarray
    group: np.ndarray
    count: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.score)


def form(graph: DependencyGraph, scores: np.ndarray, stays: np.ndarray) -> Atoms:
    """Pair linked units by rank, the smallest of each slot with the smallest of every other, and join what is paired.

    A link's slots keep equally many survivors exactly when as many units leave each of them. One unit of every slot
    in a pair does that, and so does any union of pairs: chains of links, and links between parts of one group, become
    connected components (at worst larger than they need be, never wrong). A unit that cannot go keeps what it is
    paired with; units that cannot go are paired with each other first, so that they hold back as few as possible.

    scores: (n_units,), NaN only where `stays`. stays: (n_units,) bool, units that cannot go.
    """
    batches = _batches(graph)
    while True:
        parts = np.arange(graph.n_units)
        joined: list[np.ndarray] = []  # (2, k) each
        for slots in batches:
            position = _positions(parts, scores, stays)
            for slot in slots:
                ranked = np.take_along_axis(slot, np.argsort(position[slot], axis=1), axis=1)
                joined.append(np.stack([np.repeat(ranked[:1], len(ranked) - 1, axis=0).ravel(), ranked[1:].ravel()]))
            first, other = np.concatenate(joined, axis=1)
            edges = coo_matrix((np.ones(len(first), dtype=np.int8), (first, other)), shape=(graph.n_units,) * 2)
            parts = connected_components(edges, directed=False)[1]
        held = np.zeros(graph.n_units, dtype=bool)
        held[parts[stays]] = True
        if (held[parts] == stays).all():
            break
        stays = held[parts]

    sizes = np.array([g.size for g in graph.groups], dtype=np.int64)
    group_of = np.repeat(np.arange(len(sizes)), sizes)
    free = np.flatnonzero(~stays)
    of = np.full(graph.n_units, -1, dtype=np.int64)
    of[free] = np.unique(parts[free], return_inverse=True)[1]
    members = np.bincount(of[free])
    score = np.bincount(of[free], weights=scores[free]) / members if len(free) else np.zeros(0)
    entries, count = np.unique(group_of[free] * (len(score) + 1) + of[free], return_counts=True)
    group, atom = np.divmod(entries, len(score) + 1)  # (entries,) each, sorted by group
    return Atoms(of, score, atom, group, count.astype(np.int64), sizes)


def with_blocks(atoms: Atoms, scores: np.ndarray) -> Atoms:
    """The same with residual blocks as one more group, an atom each: unit numbers n_units and above.

    scores: (n_blocks,), NaN for blocks that cannot go.
    """
    free = np.flatnonzero(~np.isnan(scores))
    new = np.arange(len(atoms), len(atoms) + len(free))
    of = np.full(len(scores), -1, dtype=np.int64)
    of[free] = new
    return Atoms(
        np.concatenate([atoms.of, of]),
        np.concatenate([atoms.score, scores[free]]),
        np.concatenate([atoms.atom, new]),
        np.concatenate([atoms.group, np.full(len(free), len(atoms.sizes))]),
        np.concatenate([atoms.count, np.ones(len(free), dtype=np.int64)]),
        np.append(atoms.sizes, len(free)),
    )


def _positions(parts: np.ndarray, scores: np.ndarray, stays: np.ndarray) -> np.ndarray:
    """(n_units,) each unit's place in the order in which units go: the smallest part first, a part's units in a row."""
    numbers = np.arange(len(parts))
    held = np.bincount(parts, weights=stays) > 0
    mean = np.bincount(parts, weights=np.where(stays, 0, scores)) / np.bincount(parts)
    order = np.lexsort((numbers, stays, parts, np.where(held, np.inf, mean)[parts]))
    position = np.empty_like(order)
    position[order] = numbers
    return position


def _batches(graph: DependencyGraph) -> list[list[np.ndarray]]:
    """Each link once, as unit numbers (slots, n), in the order in which they pair what the ones before have joined.

    First the pieces of one group, then one unit for another, then one unit (a head) for several: the channels that go
    with a head are then whole pairs of halves.
    """
    links = {id(link): link for group in graph.groups for link in group.links if len(link.slots) > 1}
    batches: list[list[np.ndarray]] = [[], [], []]
    for link in links.values():
        slots = np.stack([graph.start(name) + np.asarray(units, dtype=np.int64) for name, units in link.slots])
        alone = all(len(np.unique(slot)) == len(slot) for slot in slots)
        within = len({name for name, _ in link.slots}) == 1
        batches[0 if alone and within else 1 if alone else 2].append(slots)
    return [slots for slots in batches if slots]
