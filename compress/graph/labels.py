"""Labels: every index of every weight dimension gets an integer; rules say which integers must be equal.

An activation carries, per dimension or block of dimensions, an array of labels, or nothing (batch, space, tokens).
What is recorded here - equalities, pins, links, needs - is turned into units and groups by `units.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .ints import Attribute, Expression, TracedInt
from .tape import Value

Array = np.ndarray


@dataclass(frozen=True)
class Block:
    """Labels over one or several dimensions: labels.shape[i] is the size of dimension dims[i]; dims ascend.

    Over several dimensions, `axes` names each axis: exactly one of them may shrink, decided after the tape.
    """

    dims: tuple[int, ...]
    labels: Array
    axes: tuple[int, ...] = ()


Layout = tuple[Block, ...]
"""What a value carries: blocks over disjoint dimensions; a dimension in none of them carries nothing."""


@dataclass(frozen=True)
class Need:
    """After a cut, `expression` must evaluate to the number of survivors among `labels` (None: to `value`)."""

    expression: Expression
    labels: Array | None
    value: int
    where: str


@dataclass(frozen=True)
class Lift:
    """`labels[i]` stands for everything at position i of `axis` of the block `of`, if that axis shrinks."""

    labels: Array
    of: Array
    position: int
    axis: int


@dataclass
class Site:
    """A reshape that split one labelled dimension in several: one of its axes may shrink.

    rigid: axis number -> why it cannot. labels: over all axes.
    """

    axes: tuple[int, ...]
    labels: Array
    where: str


@dataclass(frozen=True)
class Merge:
    """A reshape made one dimension of several that carry labels: it can shrink where all but one of them stay.

    labels: (n,) of the result. parts: (n,) each, what every position is for each of those dimensions.
    """

    labels: Array
    parts: tuple[Array, ...]
    where: str


@dataclass(frozen=True)
class Term:
    """multiply-adds = coefficient x product over factors of the survivors among each factor's labels.

    call: the number of the recorded call that makes them, -1 for what no call makes.
    """

    coefficient: int
    factors: tuple[Array, ...]
    call: int = -1


@dataclass
class Labels:
    """The growing record of what the rules said."""

    count: int = 0
    layouts: dict[int, Layout] = field(default_factory=dict)  # value id -> layout
    places: dict[tuple[str, int], Array] = field(default_factory=dict)  # (parameter, dim) -> labels
    place_of: dict[int, tuple[str, int]] = field(default_factory=dict)  # id of such an array -> its place
    roles: dict[tuple[str, int], str] = field(default_factory=dict)
    edges: list[tuple[Array, Array]] = field(default_factory=list)
    pins: list[tuple[Array, str | None]] = field(default_factory=list)
    links: list[tuple[tuple[Array, ...], str]] = field(default_factory=list)
    needs: list[Need] = field(default_factory=list)
    lifts: list[Lift] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    merges: list[Merge] = field(default_factory=list)
    rigid: dict[int, str] = field(default_factory=dict)  # axis -> why it cannot shrink
    axis_pairs: list[tuple[int, int]] = field(default_factory=list)  # axes that are one
    contracted: set[int] = field(default_factory=set)  # axes over which a product sums
    n_axes: int = 0
    terms: list[Term] = field(default_factory=list)
    reducers: dict[int, tuple[tuple[int, int, Array], ...]] = field(default_factory=dict)
    unknown: dict[str, list[str]] = field(default_factory=dict)  # op without a rule -> where
    current: int = -1  # index of the call being read
    options: dict[str, str] = field(default_factory=dict)
    attributes: dict[Attribute, int] = field(default_factory=dict)
    sizes: dict[int, tuple[int, ...]] = field(default_factory=dict)  # value id -> shape
    weak: set[int] = field(default_factory=set)  # labels of new tensors' dimensions, which give way to real channels
    used: frozenset[int] = frozenset()  # ids of the values that a call takes or the network returns

    # ---- labels and what holds between them

    def fresh(self, n: int) -> Array:
        """n new labels, (n,)."""
        self.count += n
        return np.arange(self.count - n, self.count)

    def equal(self, a: Array, b: Array) -> None:
        """Index by index, what a and b (of one shape, or broadcastable) stand for lives or dies together."""
        if a is b:
            return
        a, b = np.broadcast_arrays(a, b)
        self.edges.append((a.ravel(), b.ravel()))

    def pin(self, labels: Array, reason: str | None) -> None:
        """What these stand for stays. reason None: not worth a word (a kernel's width)."""
        if labels.size:
            self.pins.append((labels.ravel(), reason))

    def link(self, slots: Sequence[Array], reason: str) -> None:
        """Each of these equally long arrays keeps equally many."""
        self.links.append((tuple(slots), reason))

    def need(self, size: Any, labels: Array | None, where: str) -> None:
        """The code wrote `size` for what has `labels` (None: nothing that can shrink).

        A TracedInt becomes a need; a literal pins the labels, because the code would still ask for as many.
        """
        if isinstance(size, TracedInt):
            self.needs.append(Need(size.origin, labels, int(size), where))
        elif labels is not None:
            self.pin(labels, f"{where} writes the size {int(size)} as a constant")

    # ---- values

    def of(self, value: Value) -> Layout:
        """The layout of a value; a parameter's or buffer's dimensions get labels when they are first met."""
        known = self.layouts.get(value.id)
        if known is None:
            known = () if value.name is None else self.parameter(value.name, value.shape)
            self.layouts[value.id] = known
        return known

    def parameter(self, name: str, shape: tuple[int, ...]) -> Layout:
        """One block for each dimension (size > 1) of a parameter or buffer."""
        blocks = []
        for dim, n in enumerate(shape):
            if n > 1:
                if (name, dim) not in self.places:
                    self.places[name, dim] = place = self.fresh(n)
                    self.place_of[id(place)] = name, dim
                blocks.append(Block((dim,), self.places[name, dim]))
        return tuple(blocks)

    def role(self, value: Any, dim: int, role: str) -> None:
        """Say what a parameter's dimension is to its layer; the first word counts."""
        if isinstance(value, Value) and value.name is not None:
            self.roles.setdefault((value.name, dim), role)

    def along(self, value: Value, dim: int) -> Array | None:
        """Labels along one dimension, (n,), or None. Of a block over several dimensions: its axis, lifted."""
        dim %= max(len(value.shape), 1)
        for block in self.of(value):
            if dim in block.dims:
                return self.lift(block, block.dims.index(dim))
        return None

    def lift(self, block: Block, position: int) -> Array:
        """Labels of one axis of a block, (n,): the block's own where it has only one. Rows that are alike share one."""
        if len(block.dims) == 1:
            return block.labels
        rows = np.moveaxis(block.labels, position, 0)
        lifted = self.fresh(len(rows))
        if len(np.unique(rows.reshape(len(rows), -1)[:, 0])) < len(rows):  # some rows may be alike
            known: dict[bytes, int] = {}
            lifted = lifted[[known.setdefault(row.tobytes(), k) for k, row in enumerate(rows)]]
        self.lifts.append(Lift(lifted, block.labels, position, block.axes[position]))
        return lifted

    def all_labels(self, value: Value) -> list[Array]:
        """Every label array that a value carries."""
        return [block.labels for block in self.of(value)]

    # ---- axes of blocks

    def new_site(self, labels: Array, where: str) -> tuple[int, ...]:
        """New axes, one for each of the array's; returns their numbers."""
        axes = tuple(range(self.n_axes, self.n_axes + labels.ndim))
        self.n_axes += labels.ndim
        self.sites.append(Site(axes, labels, where))
        return axes

    def join_axes(self, a: Iterable[int], b: Iterable[int]) -> None:
        """These axes are the same, pair by pair."""
        self.axis_pairs.extend(zip(a, b, strict=True))

    # ---- for verification

    def reduces(self, survivors: Iterable[tuple[int, int, Array | None]]) -> None:
        """The current call reduces or normalises over labelled dimensions: the masked network runs it on survivors.

        survivors: (argument position, dimension, labels) of each argument to narrow; position -1 - k: widen output k.
        """
        rows = tuple(row for row in survivors if row[2] is not None)
        if rows:
            self.reducers[self.current] = self.reducers.get(self.current, ()) + rows  # type: ignore[operator]


def place_blocks(blocks: Iterable[tuple[tuple[int, ...], Array, tuple[int, ...]]]) -> Layout:
    """Blocks with their dimensions put in ascending order."""
    placed = []
    for dims, labels, axes in blocks:
        order = tuple(np.argsort(dims, kind="stable"))
        if order != tuple(range(len(dims))):
            dims = tuple(dims[i] for i in order)
            labels = labels.transpose(order)
            axes = tuple(axes[i] for i in order) if axes else ()
        placed.append(Block(dims, labels, axes))
    return tuple(sorted(placed, key=lambda block: block.dims))
