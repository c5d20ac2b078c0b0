"""Dimensions that change places, come with size 1 or go: label arrays go with them."""

from __future__ import annotations

from ..labels import Block, Labels, Layout, place_blocks
from ..tape import Call
from .table import rule


@rule("permute", "transpose", "t", "movedim", "swapaxes", "numpy_T", "swapdims")
def permute(call: Call, labels: Labels) -> Layout:
    """Dimensions change places, labels with them."""
    x = call.args[0]
    n = len(x.shape)
    order = list(range(n))
    if call.op == "permute":
        order = [d % n for d in call.args[1]]
    elif call.op == "t":
        order.reverse()
    else:
        a, b = call.args[1] % n, call.args[2] % n
        order[a], order[b] = order[b], order[a]
    where = {old: new for new, old in enumerate(order)}
    return place_blocks((tuple(where[d] for d in b.dims), b.labels, b.axes) for b in labels.of(x))


@rule("as_strided")
def as_strided(call: Call, labels: Labels) -> Layout:
    """Another memory format of the same shape keeps everything; any other view of the memory is nobody's guess."""
    x = call.args[0]
    if x.shape == call.outs[0].shape:
        return labels.of(x)
    for found in labels.all_labels(x):
        labels.pin(found, f"{call.where} views the memory in another shape")
    return ()


@rule("unsqueeze")
def unsqueeze(call: Call, labels: Labels) -> Layout:
    """A new dimension of size 1."""
    x, dim = call.args
    dim %= len(x.shape) + 1
    return tuple(Block(tuple(d + (d >= dim) for d in b.dims), b.labels, b.axes) for b in labels.of(x))


@rule("squeeze")
def squeeze(call: Call, labels: Labels) -> Layout:
    """Dimensions of size 1 go; they carry nothing."""
    x = call.args[0]
    dims = call.args[1] if len(call.args) > 1 else tuple(range(len(x.shape)))
    dims = (dims,) if isinstance(dims, int) else dims
    gone = {d % len(x.shape) for d in dims if x.shape[d] == 1}
    moved = {d: d - sum(g < d for g in gone) for d in range(len(x.shape))}
    return tuple(Block(tuple(moved[d] for d in b.dims), b.labels, b.axes) for b in labels.of(x))
