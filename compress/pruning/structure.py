"""Groups in, which of them are built alike out."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..graph.graph import DependencyGraph, Group


def alike(graph: DependencyGraph) -> np.ndarray:
    """(n_groups,) int64: one number for all groups that occur in the same kinds of places, equally often.

    A place's kind: its role, dimension, kernel, and how often a unit occurs in it. Groups of such a class are ranked
    together by scope `isomorphic` (Fang et al., Isomorphic Pruning for Vision Models, ECCV 2024, section 3.2, where
    substructures of one topology form a class).
    """
    numbers: dict[frozenset[tuple[object, int]], int] = {}
    return np.array([numbers.setdefault(_kinds(graph, g), len(numbers)) for g in graph.groups], dtype=np.int64)


def _kinds(graph: DependencyGraph, group: Group) -> frozenset[tuple[object, int]]:
    places: Counter[object] = Counter()
    for member in group.members:
        shape = graph.shapes[member.name]
        kernel = shape[2:] if len(shape) > 2 else ()
        places[member.role, member.dim, len(shape), kernel, len(member.index) // group.size, member.buffer] += 1
    return frozenset(places.items())
