"""Atoms and an order in, the removal that meets a number of units, a number of parameters or of multiply-adds out."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from .atoms import Atoms


class Removal:
    """What goes when the first k atoms of an order are asked to go, within what every group must keep.

    rank: (n_atoms,) int64, the place of each atom in the order, 0 goes first. least: (n_groups,) int64, the number of
    units a group keeps at least. round_to: (n_groups,) int64, a group that loses units keeps a multiple of it.
    """

    def __init__(self, atoms: Atoms, rank: np.ndarray, least: np.ndarray, round_to: np.ndarray) -> None:
        self.atoms, self.rank, self.round_to = atoms, rank, round_to
        self.least = np.minimum(least, atoms.sizes)
        last_first = np.lexsort((-rank[atoms.atom], atoms.group))  # entries by group, the last to go first
        bounds = np.searchsorted(atoms.group[last_first], np.arange(len(atoms.sizes) + 1))
        self.entries = [last_first[a:b] for a, b in pairwise(bounds)]

    def first(self, k: int) -> np.ndarray:
        """(n_atoms,) bool: the first k atoms less those given back, the last to go first, until every group is served.

        Giving back only ever adds units, and a whole group is served, so it ends. Rounding is therefore up: never
        more goes than was asked.
        """
        atoms, gone = self.atoms, self.rank < k
        while True:
            kept = atoms.sizes - np.bincount(
                atoms.group, weights=atoms.count * gone[atoms.atom], minlength=len(atoms.sizes)
            ).astype(np.int64)
            short = np.flatnonzero(self._wanted(kept, self.least, atoms.sizes, self.round_to) > kept)
            if not len(short):
                return gone
            for group in short:
                entries = self.entries[group]
                entries = entries[gone[atoms.atom[entries]]]
                back = np.cumsum(atoms.count[entries])
                size = atoms.sizes[group]
                keeps = size - (back[-1] if len(back) else 0)
                need = self._wanted(keeps, self.least[group], size, self.round_to[group]) - keeps
                if need > 0:
                    gone[atoms.atom[entries[: np.searchsorted(back, need) + 1]]] = False

    def units(self, gone: np.ndarray) -> np.ndarray:
        """(n_units,) bool, the units of the atoms that go."""
        return np.concatenate([gone, [False]])[self.atoms.of]  # atom -1, which stays, reads the last

    @staticmethod
    def _wanted(kept: np.ndarray, least: np.ndarray, size: np.ndarray, round_to: np.ndarray) -> np.ndarray:
        """How many units a group that would keep `kept` must keep; elementwise."""
        wanted = np.maximum(kept, least)
        return np.minimum(-(-wanted // round_to) * round_to, size)


def order(atoms: Atoms, pool: np.ndarray) -> np.ndarray:
    """(n_atoms,) int64 rank, 0 goes first: every pool shrinks in step, its smallest scores first.

    pool: (n_groups,) int64, the pool whose units are ranked together that a group is in. One pool for all groups is
    the order of scores; a pool for each group shrinks every group in step. Equal scores go by their rank within their
    groups, then by number.
    """
    own = np.arange(len(atoms.sizes))
    alone = _share(atoms, own, np.zeros(len(atoms)))
    share = _share(atoms, pool, alone)
    return _rank(np.lexsort((np.arange(len(atoms)), alone, atoms.score, share)))


def fewest(meets: Callable[[int], bool], most: int) -> int | None:
    """The smallest k in [0, most] found by bisection with meets(k), None where meets(most) is not."""
    if not meets(most):
        return None
    if meets(0):
        return 0
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if meets(middle) else (middle, high)
    return high


def _share(atoms: Atoms, pool: np.ndarray, among_equals: np.ndarray) -> np.ndarray:
    """(n_atoms,) float64 in (0, 1): how much of its pool has gone when half of the atom has; mean over its groups.

    among_equals: (n_atoms,), the order of atoms of one score in one pool.
    """
    pools = pool[atoms.group]  # of each entry
    atom = atoms.atom
    order = np.lexsort((atom, among_equals[atom], atoms.score[atom], pools))
    atom, of, count = atom[order], pools[order], atoms.count[order]
    before = np.cumsum(count) - count
    start = np.searchsorted(of, np.arange(pool.max(initial=0) + 1))
    before = before - np.concatenate([before, [0]])[start][of]  # units of the same pool that go before this atom
    share = (before + count / 2) / np.bincount(pool, weights=atoms.sizes)[of]
    return np.bincount(atom, weights=share, minlength=len(atoms)) / np.bincount(atom, minlength=len(atoms))


def _rank(order: np.ndarray) -> np.ndarray:
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank
