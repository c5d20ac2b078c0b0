"""What the places of a group say in, one score a unit, comparable with other groups' or not, out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..errors import CompressError, nearest

REDUCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sum": lambda said: said.sum(0),
    "mean": lambda said: said.mean(0),
    "max": lambda said: said.max(0),
    "first": lambda said: said[0],
}
"""(places, units) -> (units,)."""


def aggregate(said: Sequence[np.ndarray], how: str) -> np.ndarray:
    """Scores of the places, (units,) each, the one that makes the units first -> scores of the units, (units,)."""
    return _choose(REDUCTIONS, how, "aggregate")(np.stack(said))


def normalize(scores: np.ndarray, how: str, weights: Callable[[], np.ndarray]) -> np.ndarray:
    """(units,) scores of one group -> the same, comparable with another group's. weights: tells how many each unit has.

    Where there is nothing to divide by - all scores are zero, or all the same - they are left undivided.
    """
    return _choose(_NORMALIZERS, how, "normalize")(scores, weights)


def _choose(table: dict[str, Callable[..., np.ndarray]], how: str, option: str) -> Callable[..., np.ndarray]:
    if how not in table:
        raise CompressError(f"{option}: there is no '{how}'{nearest(how, table)}")
    return table[how]


def _by(scores: np.ndarray, divisor: float) -> np.ndarray:
    return scores / abs(divisor) if divisor else scores


def _lamp(scores: np.ndarray) -> np.ndarray:
    """Each score divided by the sum of those that are no smaller, itself included; ties by number."""
    order = np.argsort(scores, kind="stable")
    larger = np.cumsum(scores[order][::-1])[::-1]
    shares = np.empty_like(scores)
    shares[order] = np.divide(scores[order], larger, out=np.zeros_like(scores), where=larger != 0)
    return shares


_NORMALIZERS: dict[str, Callable[[np.ndarray, Callable[[], np.ndarray]], np.ndarray]] = {
    "none": lambda s, weights: s,
    "sum": lambda s, weights: _by(s, s.sum()),
    "mean": lambda s, weights: _by(s, s.mean()),
    "max": lambda s, weights: _by(s, s.max()),
    "size": lambda s, weights: s / weights(),
    "standardize": lambda s, weights: _by(s - s.min(), s.max() - s.min()),
    "gaussian": lambda s, weights: _by(s - s.mean(), s.std()),
    "lamp": lambda s, weights: _lamp(s),
}
