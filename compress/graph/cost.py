"""Surviving units in, parameters and multiply-adds out: exact sums of products of survivor counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .graph import Cost
from .labels import Array, Term

if TYPE_CHECKING:
    from .graph import DependencyGraph


@dataclass(frozen=True)
class Prices:
    """All counting factors of a network laid end to end, so that one pass over the labels prices any cut.

    labels: the factors' label arrays joined; bounds: (factors,) where each starts. params, macs: (coefficient, the
    numbers of the factors that multiply it) of every parameter and every recorded product.
    """

    labels: Array
    bounds: Array
    params: tuple[tuple[int, tuple[int, ...]], ...]
    macs: tuple[tuple[int, tuple[int, ...]], ...]

    @classmethod
    def of(cls, graph: DependencyGraph) -> Prices:
        """Collect the factors of a graph's parameters and recorded products."""
        arrays: list[Array] = []
        known: dict[int, int] = {}

        def number(array: Array) -> int:
            if id(array) not in known:
                known[id(array)] = len(arrays)
                arrays.append(array)
            return known[id(array)]

        def price(terms: Iterable[Term]) -> tuple[tuple[int, tuple[int, ...]], ...]:
            return tuple(
                (term.coefficient, tuple(number(f) for f in (*term.factors, *graph.blocks_of_call(term.call))))
                for term in terms
            )

        params = price(tensor_term(graph, name) for name in sorted(graph.parameters))
        macs = price(graph.terms)
        lengths = [len(array) for array in arrays]
        bounds = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64) if arrays else np.zeros(0, np.int64)
        return cls(np.concatenate(arrays) if arrays else np.zeros(0, np.int64), bounds, params, macs)

    def cost(self, alive_labels: np.ndarray) -> Cost:
        """alive_labels: (labels,) bool -> Cost."""
        counts = (
            np.add.reduceat(alive_labels[self.labels].astype(np.int64), self.bounds).tolist()
            if len(self.bounds)
            else []
        )
        return Cost(_total(self.params, counts), _total(self.macs, counts))


def tensor_term(graph: DependencyGraph, name: str, each: int = 1) -> Term:
    """What a parameter or buffer takes, `each` an element: with the blocks that it goes with as factors of 0 or 1."""
    coefficient, factors = each, [*graph.blocks_of_tensor(name)]
    for dim, n in enumerate(graph.shapes[name]):
        place = graph.places.get((name, dim))
        if place is None:
            coefficient *= n
        else:
            factors.append(place)
    return Term(coefficient, tuple(factors))


def _total(terms: tuple[tuple[int, tuple[int, ...]], ...], counts: list[int]) -> int:
    total = 0
    for coefficient, factors in terms:
        for factor in factors:
            coefficient *= counts[factor]
        total += coefficient
    return total
