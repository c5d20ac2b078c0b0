"""Attention that divides by the root of its width in, what has to be multiplied where that width shrinks, out.

`scaled_dot_product_attention` takes the width from its query when it runs, so of a cut query it divides by the root of
less. The query's own layer can make up for that, if what it gives goes to that attention and nowhere else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .flow import Flow
from .labels import Array, Block, Labels, Layout
from .rules.reduce import freeze_along
from .tape import Call, Tape, Value

ATTENTION = "scaled_dot_product_attention"

MOVED = {
    "view", "_unsafe_view", "reshape", "permute", "transpose", "t", "select", "slice", "split", "split_with_sizes",
    "unsafe_split", "chunk", "unsafe_chunk", "unbind", "expand", "clone", "contiguous", "_to_copy", "alias", "detach",
    "squeeze", "unsqueeze", "flatten", "unflatten", "cat", "stack", "neg", "index_select", "roll", "flip",
    "repeat_interleave",
}  # fmt: skip
"""Ops whose results are what they take, in other places."""

CHANNELS = {"addmm": -1, "mm": -1, "linear": -1, "bmm": -1, "convolution": 1}
"""Products -> the dimension along which a weight's rows make their results."""

NORMS = {"native_layer_norm": (2, 3), "_fused_rms_norm": (2,), "native_group_norm": (1, 2), "native_batch_norm": (1, 2)}
"""Norms -> where their scale and shift stand among the arguments."""


@dataclass(frozen=True, eq=False)
class Scale:
    """A query of an attention that divides by the root of its width D.

    shape, layout: of the query, (..., L, D). places: (parameter, dim) -> the positions that make it, all of which one
    factor scales. calls: numbers of the calls whose results are other ones then, up to the product with the key.
    """

    shape: tuple[int, ...]
    layout: Layout
    places: Mapping[tuple[str, int], Array]
    calls: frozenset[int]


def read_scales(tape: Tape, labels: Labels, parameters: Collection[str]) -> tuple[Scale, ...]:
    """Every attention whose query may become narrower; the width of all others is pinned, with the reason."""
    attentions: dict[int, list[int]] = {}
    for number, call in enumerate(tape.calls):
        if _is_scaling(call):
            attentions.setdefault(_pair(call)[0].id, []).append(number)
    flow = Flow.of(tape) if attentions else None
    found = []
    for numbers in attentions.values():
        assert flow is not None
        scaled = [tape.calls[number].args[0] for number in numbers]  # the query, and then the key
        pair = _pair(tape.calls[numbers[0]])
        known = len(scaled) == 2 and all(_comes_from(x, given, flow) for x, given in zip(scaled, pair, strict=True))
        scale = _Way(frozenset(numbers), scaled[0], flow, labels, parameters).scale() if known else None
        if scale is not None:
            found.append(scale)
            continue
        for number, x in zip(numbers, scaled, strict=True):
            where = tape.calls[number].where
            reason = f"{where} scales attention by its width, and no layer before it can make up for that alone"
            freeze_along(x, [len(x.shape) - 2, len(x.shape) - 1], reason, labels)
    return tuple(found)


def _is_scaling(call: Call) -> bool:
    """Whether it multiplies query or key of an attention by what the attention makes of the width."""
    if call.op != "mul" or call.python is None or call.python[0] != ATTENTION:
        return False
    return call.python[2].get("scale") is None and all(isinstance(value, Value) for value in _pair(call))


def _pair(call: Call) -> tuple[Value, Value]:
    """The query and the key that an attention was given."""
    assert call.python is not None
    _, args, kwargs = call.python
    query: Any = args[0] if args else kwargs.get("query")
    key: Any = args[1] if len(args) > 1 else kwargs.get("key")
    return query, key


def _comes_from(value: Value, origin: Value, flow: Flow) -> bool:
    """Whether a value is another one, moved about."""
    while value.id != origin.id:
        call = flow.calls[flow.maker[value.id]] if value.id in flow.maker else None
        if call is None or call.op not in MOVED or not call.values:
            return False
        value = call.values[0]
    return True


@dataclass
class _Way:
    """The way back from a query to the parameters that make it."""

    attention: frozenset[int]
    query: Value
    flow: Flow
    labels: Labels
    parameters: Collection[str]
    places: dict[tuple[str, int], Array] = field(default_factory=dict)
    met: set[int] = field(default_factory=set)
    wanted: Array = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def scale(self) -> Scale | None:
        """What scales the query; None where nothing does, or it would scale something else too."""
        layout, last = self.labels.of(self.query), len(self.query.shape) - 1
        self.wanted = _labels([block for block in layout if last in block.dims])
        if not len(self.wanted) or not self._follow():
            return None
        self.met |= self.attention
        takers = {name: set(self.flow.takers[name]) for name, _ in self.places}
        if not self.places or any(not calls <= self.met for calls in takers.values()) or self._leaks():
            return None
        return Scale(self.query.shape, layout, dict(self.places), frozenset(self.met | self._onwards()))

    def _onwards(self) -> set[int]:
        """The calls that move query and key on to their product, where the two factors meet."""
        found: set[int] = set()
        open_ = [out for number in self.attention for out in self.flow.calls[number].outs]
        while open_:
            for number in self.flow.users.get(open_.pop().id, ()):
                if number not in found and self.flow.calls[number].op in MOVED:
                    found.add(number)
                    open_ += self.flow.calls[number].outs
        return found

    def _follow(self) -> bool:
        """Walk back from the query, through what only moves or multiplies it, to what makes it."""
        open_, seen = [self.query], {self.query.id}
        while open_:
            number = self.flow.maker.get(open_.pop().id)
            if number is None:
                return False
            self.met.add(number)
            further = self._before(self.flow.calls[number])
            if further is None:
                return False
            for value in further:
                if value.id not in seen:
                    seen.add(value.id)
                    open_.append(value)
        return True

    def _before(self, call: Call) -> list[Value] | None:
        """What must be scaled for a call's result to be scaled; its own parameters are noted. None: it cannot."""
        op = call.op.rstrip("_")
        moving = [value for value in call.values if value.id in self.flow.moving]
        others = [value for value in call.values if value.id not in self.flow.moving]
        if op in MOVED:
            return moving if not others else None
        if op in CHANNELS:
            return [] if len(moving) == 1 and self._rows(call, others) else None
        if op in NORMS:
            given = [call.args[at] for at in NORMS[op]]
            has_scale = isinstance(given[0], Value) and all(self._element(v, call) for v in given if v is not None)
            return [] if has_scale else None
        if op == "mul" and len(moving) == 1:
            scaled = [value for value in others if value.name in self.parameters]
            return moving if not scaled else [] if self._element(scaled[0], call) else None
        if op == "div" and moving == [call.args[0]]:
            return moving
        if op in ("add", "sub") and all(isinstance(arg, Value) for arg in call.args[:2]):
            return moving if all(self._element(value, call) for value in others) else None
        return None

    def _rows(self, call: Call, others: Sequence[Value]) -> bool:
        """Note the rows of a product's weight, and of its bias, that make the query."""
        positions = self._positions(call.outs[0], CHANNELS[call.op.rstrip("_")] % len(call.outs[0].shape))
        if positions is None:
            return False
        for value in map(self._behind, others):
            if value is None:
                return False
            rows = (dim for dim in range(len(value.shape)) if np.isin(self.wanted, self._place(value, dim)).all())
            dim = next(rows, None)
            if dim is not None:
                noted = self._note(value, dim, np.flatnonzero(np.isin(self._place(value, dim), self.wanted)))
            else:
                noted = len(value.shape) == 1 and self._note(value, 0, positions)
            if not noted:
                return False
        return True

    def _behind(self, value: Value) -> Value | None:
        """The parameter that a value is, moved about; None where it is none."""
        while value.name is None:
            number = self.flow.maker.get(value.id)
            if number is None or self.flow.calls[number].op not in MOVED or len(self.flow.calls[number].values) != 1:
                return None
            self.met.add(number)
            value = self.flow.calls[number].values[0]
        return value

    def _place(self, value: Value, dim: int) -> Array:
        return self.labels.places.get((value.name or "", dim), np.zeros(0, dtype=np.int64))

    def _element(self, value: Value, call: Call) -> bool:
        """Note the elements of a parameter that is added to what makes the query, or multiplied with it."""
        out = call.outs[0]
        long = [dim for dim, n in enumerate(value.shape) if n > 1]
        if not long:
            return False
        shift = len(out.shape) - len(value.shape)
        if call.op in ("native_batch_norm", "native_group_norm"):
            shift = 1
        for dim in long:
            positions = self._positions(out, dim + shift)
            if positions is not None and (len(long) == 1 or len(positions) == value.shape[dim]):
                return self._note(value, dim, positions)
        return False

    def _note(self, value: Value, dim: int, positions: Array) -> bool:
        """Note positions of a parameter. False for what is none, or where others of it were noted before."""
        if value.name is None or value.name not in self.parameters or positions[-1] >= len(self._place(value, dim)):
            return False
        return np.array_equal(self.places.setdefault((value.name, dim), positions), positions)

    def _positions(self, value: Value, dim: int) -> Array | None:
        """Which positions along a dimension become the query; None where that cannot be told."""
        for block in self.labels.of(value):
            if dim in block.dims:
                mine = np.isin(block.labels, self.wanted)
                if mine.all():
                    return np.arange(value.shape[dim])
                if len(block.dims) == 1 and mine.sum() == len(self.wanted):
                    return np.flatnonzero(mine)
        return None

    def _leaks(self) -> bool:
        """Whether some of what makes the query goes elsewhere too."""
        for number in self.met - self.attention:
            for out in self.flow.calls[number].outs:
                if out.id in self.flow.outputs:
                    return True
                users = [user for user in self.flow.users.get(out.id, ()) if user not in self.met]
                if self._becomes_query(out) and not all(map(self._takes_other_parts, users)):
                    return True
        return False

    def _takes_other_parts(self, number: int) -> bool:
        """Whether a call only takes out what does not become the query: keys and values of a packed layer."""
        call = self.flow.calls[number]
        known = all(self.labels.of(out) for out in call.outs)
        return call.op in MOVED and known and not any(map(self._becomes_query, call.outs))

    def _becomes_query(self, value: Value) -> bool:
        return bool(np.isin(_labels(self.labels.of(value)), self.wanted).any())


def _labels(layout: Sequence[Block]) -> Array:
    return np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *(block.labels.ravel() for block in layout)]))
