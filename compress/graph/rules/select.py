"""Slices, splits and indexing: label arrays are cut; a cut at a constant position pins what it counts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch

from ..ints import Arithmetic, Attribute, Size, TracedInt, leaves
from ..labels import Array, Block, Labels, Layout
from ..tape import Call, Value, values_in
from .elementwise import join_layouts
from .reduce import freeze_along, without
from .table import rule


def narrow(value: Value, dim: int, piece: slice, labels: Labels) -> Layout:
    """The layout of a value where only a piece of one dimension is kept; of an axis, it shrinks where the axis does."""
    blocks = []
    for block in labels.of(value):
        if dim in block.dims:
            position = block.dims.index(dim)
            at = (*(slice(None),) * position, piece)
            block = Block(block.dims, block.labels[at], block.axes)
        blocks.append(block)
    return tuple(blocks)


def count_up_to(found: Array, stop: int, written: Any, labels: Labels, where: str) -> None:
    """The code cuts after `stop` positions, written as `written` (a TracedInt, an int, or None if it follows)."""
    if written is None or stop in (0, len(found)):
        return
    if isinstance(written, TracedInt):
        labels.need(written, found[:stop], where)
        if not any(isinstance(leaf, Attribute) for leaf in leaves(written.origin)):
            parts = equal_parts(written.origin, stop, len(found))
            if parts is None:
                labels.pin(found, f"{where} cuts at a position computed from sizes")
            else:
                rows = found.reshape(parts, -1)  # (n,) -> (parts, n / parts)
                labels.link(tuple(rows), f"{where} cuts in {parts} equal parts")
    else:
        labels.pin(found[:stop], f"{where} cuts at the constant position {stop}")


def equal_parts(expression: Any, stop: int, whole: int) -> int | None:
    """Into how many equal parts a dimension falls of which the code takes some, `size // 3` or `2 * (size // 3)`.

    None where the position is another function of sizes.
    """
    times = 1
    if isinstance(expression, Arithmetic) and expression.op == "*":
        times, expression = sorted((expression.left, expression.right), key=lambda side: not isinstance(side, int))
    if not (isinstance(times, int) and isinstance(expression, Arithmetic) and expression.op == "//"):
        return None
    parts = expression.right
    fits = isinstance(expression.left, Size) and isinstance(parts, int) and stop * parts == times * whole
    return parts if fits and whole % parts == 0 else None


@rule("slice")
def slice_(call: Call, labels: Labels) -> Layout:
    """x[..., start:end:step, ...] along one dimension."""
    x = call.args[0]
    given = [*call.args[1:], *(0, None, None, 1)[len(call.args) - 1 :]]
    dim, start, end, step = given
    dim %= len(x.shape)
    n = x.shape[dim]
    start, end, step = slice(start, end, step).indices(n)
    if (start, end, step) == (0, n, 1):
        return labels.of(x)
    found = labels.along(x, dim)
    if found is not None:
        written_start, written_end = _written_bounds(call, dim, start, end)
        if step != 1:
            labels.pin(found, f"{call.where} takes every {step}th channel")
        else:
            for position, written in ((start, written_start), (end, written_end)):
                if isinstance(written, int) and written < 0:
                    labels.need(-written, found[position:], call.where)
                else:
                    count_up_to(found, position, written, labels, call.where)
    return narrow(x, dim, slice(start, end, step), labels)


def _written_bounds(call: Call, dim: int, start: int, end: int) -> tuple[Any, Any]:
    """start and end as the Python code wrote them; the plain ints where it cannot be told."""
    if call.python is None:
        return start, end
    name, args, _ = call.python
    if name in ("chunk", "tensor_split", "unsafe_chunk", "roll"):
        return None if name == "chunk" else start, None if name == "chunk" else end
    if name == "__getitem__":
        item = _item_of(args[1] if isinstance(args[1], tuple) else (args[1],), len(args[0].shape), dim)
        return (start, end) if item is None else (_bound(item.start, start), _bound(item.stop, end))
    if name == "narrow":
        low, length = args[2], args[3]
        if isinstance(low, int) and isinstance(length, int):
            return low, low + length
    return start, end


def _item_of(key: tuple[Any, ...], n_dims: int, dim: int) -> slice | None:
    """The slice of an indexing key that acts on dimension `dim` of what its earlier items left."""
    taken = sum(item is not None and item is not Ellipsis and not isinstance(item, bool) for item in key)
    at = 0
    for item in key:
        if isinstance(item, slice):
            if at == dim:
                return item
            at += 1
        elif item is None:
            at += 1
        elif item is Ellipsis:
            at += n_dims - taken
    return None


def _bound(written: Any, position: int) -> Any:
    """A bound as written, negative where it counts from the end; the position where nothing or too much was written."""
    return written if isinstance(written, int) and (written < 0 or int(written) == position) else position


@rule("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk", "unsafe_chunk")
def split(call: Call, labels: Labels) -> list[Layout]:
    """Pieces along one dimension: chunk keeps them equally long; split writes their sizes."""
    x = call.args[0]
    dim = (call.args[2] if len(call.args) > 2 else call.kwargs.get("dim", 0)) % len(x.shape)
    bounds = np.cumsum([0] + [out.shape[dim] for out in call.outs])
    pieces = [slice(int(a), int(b)) for a, b in pairwise(bounds)]
    found = labels.along(x, dim)
    if found is not None and len(pieces) > 1:
        _bind_pieces(call, found, pieces, labels)
    return [narrow(x, dim, piece, labels) for piece in pieces]


def _bind_pieces(call: Call, found: Array, pieces: list[slice], labels: Labels) -> None:
    name, args, kwargs = call.python or ("", (), {})
    if not name.startswith(("split", "unsafe_split", "tensor_split")):  # a chunk, or the gates of a recurrent cell
        _keep_lengths(found, pieces, f"{call.where} chunks it in {len(pieces)}", labels)
        return
    sizes = kwargs.get("split_size_or_sections", kwargs.get("split_size", kwargs.get("split_sizes")))
    if sizes is None:
        sizes = args[1] if len(args) > 1 else call.args[1]
    if isinstance(sizes, tuple) and len(sizes) == len(pieces):
        for size, piece in zip(sizes, pieces, strict=True):
            labels.need(size, found[piece], call.where)
        return
    if isinstance(sizes, int):
        _keep_lengths(found, pieces, f"{call.where} splits it in {len(pieces)}", labels)
        labels.need(sizes, found[pieces[0]], call.where)
        return
    labels.pin(found, f"{call.where} splits it at constant positions")


def _keep_lengths(found: Array, pieces: list[slice], reason: str, labels: Labels) -> None:
    """Pieces of one length but for a shorter last one stay so: n channels in chunks of ceil(n / parts).

    The last is d shorter than the others, d < parts, so what the others have beyond its length stays: they keep
    k >= d, it keeps k - d, and ceil((pieces * k - d) / parts) is k again.
    """
    shortest = len(found[pieces[-1]])
    labels.link([found[piece][:shortest] for piece in pieces], reason)
    for piece in pieces:
        labels.pin(found[piece][shortest:], f"{reason} of unequal length")


@rule("unbind", "select")
def select(call: Call, labels: Labels) -> list[Layout]:
    """One position (or each) of a dimension, which is dropped; on channels the position has a meaning, so they stay."""
    x = call.args[0]
    dim = (call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", 0)) % len(x.shape)
    positions = range(x.shape[dim]) if call.op == "unbind" else [call.args[2] % x.shape[dim]]
    layouts = []
    for position in positions:
        blocks = []
        for block in labels.of(x):
            if dim not in block.dims:
                blocks.append(Block(tuple(d - (d > dim) for d in block.dims), block.labels, block.axes))
            elif len(block.dims) == 1:
                labels.pin(block.labels, f"{call.where} picks a channel by its position")
            else:
                blocks.append(_pick(block, dim, position, labels))
        layouts.append(tuple(blocks))
    return layouts


def _pick(block: Block, dim: int, position: int, labels: Labels) -> Block:
    at = block.dims.index(dim)
    labels.rigid.setdefault(block.axes[at], "it is indexed")
    kept = [i for i in range(len(block.dims)) if i != at]
    dims = tuple(block.dims[i] - (block.dims[i] > dim) for i in kept)
    picked = np.take(block.labels, position, axis=at)
    return Block(dims, picked, tuple(block.axes[i] for i in kept) if len(kept) > 1 else ())


@rule("embedding")
def embedding(call: Call, labels: Labels) -> Layout:
    """weight (V, E), indices (...) -> (..., E): rows stay, columns are carried."""
    weight, indices = call.args[:2]
    labels.role(weight, 1, "out")
    freeze_along(weight, [0], f"{call.where}: its rows are looked up by number", labels)
    columns = labels.along(weight, 1)
    return () if columns is None else (Block((len(indices.shape),), columns),)


@rule("index", "index_select", "_unsafe_index")
def index(call: Call, labels: Labels) -> list[Layout]:
    """Advanced indexing: what is indexed by number stays; other dimensions pass where their place is certain."""
    x = call.args[0]
    if call.op == "index_select":
        dim = call.args[1] % len(x.shape)
        freeze_along(x, [dim], f"{call.where} indexes it", labels)
        return [tuple(block for block in labels.of(x) if dim not in block.dims)]
    indices = list(call.args[1]) + [None] * (len(x.shape) - len(call.args[1]))
    used = [d for d, item in enumerate(indices) if item is not None]
    freeze_along(x, used, f"{call.where} indexes it", labels)
    for item in indices:
        for found in labels.all_labels(item) if isinstance(item, Value) else ():
            labels.pin(found, None)
    if _masks(indices) or used != list(range(used[0], used[0] + len(used))):
        for found in labels.all_labels(x):
            labels.pin(found, f"{call.where} indexes around it")
        return [()]
    width = max(len(indices[d].shape) for d in used)
    shift = width - len(used)
    layout = without(x, set(used), True, labels)
    return [
        tuple(
            Block(tuple(d if d < used[0] else d + shift for d in b.dims), b.labels, b.axes)
            for b in layout
            if not set(b.dims) & set(used)
        )
    ]


def _masks(indices: Any) -> bool:
    """Whether truth values over several dimensions are among them: how many rows they take is not known."""
    return any(
        value.dtype in (torch.bool, torch.uint8) and len(value.shape) != 1 for value in values_in(tuple(indices))
    )


@rule("index_put", "_index_put_impl", "_unsafe_index_put")
def index_put(call: Call, labels: Labels) -> Layout:
    """Rows written by number: the other dimensions of target and values are equal, index by index."""
    x, indices, values = call.args[:3]
    used = [d for d, item in enumerate(indices) if item is not None]
    for value in values_in(indices):
        for found in labels.all_labels(value):
            labels.pin(found, None)
    if _masks(indices) or used != list(range(len(used))):
        for value in (x, values):
            for found in labels.all_labels(value):
                labels.pin(found, f"{call.where} writes into parts of it")
        return ()
    freeze_along(x, used, f"{call.where} writes it by number", labels)
    shape = tuple(1 if d in used else n for d, n in enumerate(x.shape))
    rest = len(x.shape) - len(used)
    lead = max(len(values.shape) - rest, 0)
    freeze_along(values, range(lead), f"{call.where} writes it by number", labels)
    written = without(values, set(range(lead)), False, labels)
    return join_layouts(
        [(shape, without(x, set(used), True, labels)), (values.shape[lead:], written)], x.shape, labels, call.where
    )


@rule("gather")
def gather(call: Call, labels: Labels) -> Layout:
    """Positions along one dimension, looked up by number: it stays; on the others x and the index are side by side."""
    x, dim, positions = call.args[:3]
    dim %= max(len(x.shape), 1)
    freeze_along(x, [dim], f"{call.where}: its positions are looked up by number", labels)
    beside = (*x.shape[:dim], 1, *x.shape[dim + 1 :])
    if any(n not in (1, m) for n, m in zip(beside, positions.shape, strict=True)):
        for found in labels.all_labels(x):
            labels.pin(found, f"{call.where} takes a part of it")
        return labels.of(positions)
    parts = [(beside, without(x, {dim}, True, labels)), (positions.shape, labels.of(positions))]
    return join_layouts(parts, call.outs[0].shape, labels, call.where)
