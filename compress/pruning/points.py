"""A graph, two cuts and a module's name in, which indices of the one's output the other still has out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..errors import CompressError, nearest
from ..graph.graph import DependencyGraph
from ..graph.labels import Array
from .surgery import Edits, surviving_index


@dataclass(frozen=True, eq=False)
class Kept:
    """What a smaller network has left of a larger one, at the outputs of any module.

    graph: of the network that both were cut from, traced with the `heads` and `groups` that the cuts were made with.
    smaller, larger: what was cut from it; the larger one may be the whole network.
    """

    graph: DependencyGraph
    smaller: Edits
    larger: Edits = field(default_factory=lambda: Edits({}))

    @cached_property
    def _alive(self) -> tuple[Array, Array]:
        return survivors(self.graph, self.smaller), survivors(self.graph, self.larger)

    def at(self, module: str) -> tuple[Mapping[int, np.ndarray], ...]:
        """For each tensor that the module returns, call by call: dimension -> (k,) int64, what to take of the larger's.

        Raises CompressError where the network has no such module, the trace did not meet it, or the smaller network
        has something that the larger one lost.
        """
        if module not in self.graph.returned:
            met = [name for name in self.graph.returned if name]
            raise CompressError(f"no module '{module}' returns anything in this network{nearest(module, met)}")
        small, large = self._alive
        taken = []
        for shape, layout in self.graph.returned[module]:
            of_each: dict[int, np.ndarray] = {}
            for dim in range(len(shape)):
                index = surviving_index(shape, layout, dim, small)
                if index is None:
                    continue
                there = surviving_index(shape, layout, dim, large)
                assert there is not None  # the same layout
                if not np.isin(index, there).all():
                    raise CompressError(f"'{module}' has channels that were cut from the larger network")
                if len(index) < len(there):
                    of_each[dim] = np.searchsorted(there, index)
            taken.append(of_each)
        return tuple(taken)


def survivors(graph: DependencyGraph, edits: Edits) -> Array:
    """(labels,) bool: the labels that a cut left, read off the indices that survive in each place.

    A label that stands in no place - a row of a reshape - is there as long as anything of its unit is.
    """
    alive, placed = (np.full(len(graph.unit_of_label), start) for start in (True, False))
    for name, by_dim in edits.select.items():
        for dim in by_dim:
            if (name, dim) not in graph.places:
                raise CompressError(f"the graph is not of the network that was cut: it has no '{name}' to cut in {dim}")
    for (name, dim), place in graph.places.items():
        placed[place] = True
        index = edits.select.get(name, {}).get(dim)
        if index is not None:
            gone = np.ones(len(place), dtype=bool)
            gone[index] = False
            alive[place[gone]] = False
    units = np.zeros(graph.n_units + 1, dtype=bool)  # the last stands for labels that belong to no unit
    units[graph.unit_of_label[alive & placed]] = True
    units[-1] = True
    return np.where(placed, alive, units[graph.unit_of_label])
