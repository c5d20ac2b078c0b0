"""The dependency graph as a value: groups of interchangeable units, where they occur, and why some stay whole."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Member:
    """A place - one dimension of one parameter or buffer - where a group's units occur.

    index: (k,) int64 positions along `dim`; unit: (k,) int64 in [0, group.size), the unit that lives at each of them.
    A unit may occur several times in one place (a channel flattened over space), a place may hold several groups'.
    role: `out`, `in`, `norm`, `bias` or `other`; buffers (running statistics) carry the role of what they belong to.
    """

    name: str
    dim: int
    index: np.ndarray
    unit: np.ndarray
    role: str
    buffer: bool = False


@dataclass(frozen=True)
class Frozen:
    """Why a group stays whole: `by` is `rule`, `policy` or `verification`; `reason` one sentence."""

    reason: str
    by: str = "rule"

    def __str__(self) -> str:
        return f"{self.reason} [{self.by}]"


@dataclass(frozen=True)
class Link:
    """Ranges of units that must keep equally many survivors, e.g. the two halves of a chunk.

    slots: ((group name, (n,) unit indices), ...), all of one length n.
    """

    slots: tuple[tuple[str, np.ndarray], ...]
    reason: str = ""


@dataclass(frozen=True)
class Group:
    """A layer's interchangeable units with everything that is cut together with them."""

    name: str
    size: int
    members: tuple[Member, ...]
    links: tuple[Link, ...] = ()
    frozen: Frozen | None = field(default=None)


@dataclass(frozen=True)
class Cost:
    """params: elements of all parameters. macs: multiply-adds of convolutions, linear layers and matmuls, at the traced input."""

    params: int
    macs: int
