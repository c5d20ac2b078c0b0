"""Groups written by hand in, what `plan` needs of a dependency graph out: for tests that do without tracing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from compress import Criterion, Frozen, Group, Link, Member
from compress.graph.graph import Cost


@dataclass
class HandMadeGraph:
    """Groups in a row; layer i has a parameter for each pair of survivors of groups i-1 and i (3 inputs come first)."""

    groups: tuple[Group, ...]
    shapes: dict[str, tuple[int, ...]]
    model: nn.Module | None = None
    costs: int = field(default=0)
    blocks: tuple = ()

    @property
    def n_units(self) -> int:
        return sum(g.size for g in self.groups)

    def start(self, name: str) -> int:
        position = 0
        for group in self.groups:
            if group.name == name:
                return position
            position += group.size
        raise KeyError(name)

    def __getitem__(self, name: str) -> Group:
        return next(g for g in self.groups if g.name == name)

    def cost_of(self, alive: np.ndarray) -> Cost:
        self.costs += 1
        widths = [3] + [int(alive[self.start(g.name) :][: g.size].sum()) for g in self.groups]
        params = sum(a * b for a, b in pairwise(widths))
        return Cost(params, 10 * params)


def column(size: int, units: np.ndarray | None = None) -> Member:
    """A hand-made group's only place; `make_graph` names it."""
    return Member("", 0, np.arange(size), np.arange(size) if units is None else units, "out")


def make_graph(
    sizes: dict[str, int], links: tuple[Link, ...] = (), frozen: dict[str, Frozen] | None = None, seed: int = 0
) -> tuple[HandMadeGraph, dict[str, torch.Tensor]]:
    """A graph of groups with one (size, 2) parameter each, and random weights for them."""
    generator = torch.Generator().manual_seed(seed)
    groups, shapes, weights = [], {}, {}
    for name, size in sizes.items():
        mine = tuple(link for link in links if any(name == slot for slot, _ in link.slots))
        member = replace(column(size), name=f"{name}.weight")
        groups.append(Group(name, size, (member,), mine, (frozen or {}).get(name)))
        shapes[member.name] = (size, 2)
        weights[member.name] = torch.rand(size, 2, generator=generator)
    return HandMadeGraph(tuple(groups), shapes), weights


class Given(Criterion):
    """Scores as they stand in the first column of the weight."""

    name = "given"

    def score(self, part):
        return part.tensor.movedim(part.dim, 0)[:, 0]


class Silent(Criterion):
    """Says nothing about groups whose names start with the letter."""

    name = "silent"
    letter: str

    def score(self, part):
        return None if part.name.startswith(self.letter) else part.tensor.abs().movedim(part.dim, 0).flatten(1).sum(1)
