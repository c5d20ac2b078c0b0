"""Concatenation and stacking: label arrays are joined."""

from __future__ import annotations

import numpy as np

from ..labels import Block, Labels, Layout
from ..tape import Call
from .elementwise import combine, join_layouts
from .reduce import without
from .table import rule


@rule("cat", "concat", "concatenate")
def cat(call: Call, labels: Labels) -> Layout:
    """Tensors joined along one dimension; on every other dimension they are equal.

    A part that carries nothing along the joined dimension gets labels that stay.
    """
    parts = [value for value in call.args[0] if value.shape != (0,)]
    out = call.outs[0].shape
    dim = (call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", 0)) % len(out)
    others = [(_one(value.shape, dim), without(value, {dim}, True, labels)) for value in parts]
    rest = join_layouts(others, _one(out, dim), labels, call.where)
    joined = [labels.along(value, dim) for value in parts]
    if all(found is None for found in joined):
        return rest
    whole = []
    for value, found in zip(parts, joined, strict=True):
        if found is None:
            found = labels.fresh(value.shape[dim])
            labels.pin(found, f"{call.where} joins values that are not channels of this network")
        whole.append(found)
    return tuple(sorted((*rest, Block((dim,), np.concatenate(whole))), key=lambda block: block.dims))


def _one(shape: tuple[int, ...], dim: int) -> tuple[int, ...]:
    return (*shape[:dim], 1, *shape[dim + 1 :])


@rule("stack")
def stack(call: Call, labels: Labels) -> Layout:
    """Tensors stacked along a new dimension, which carries nothing."""
    values = list(call.args[0])
    out = call.outs[0].shape
    dim = (call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", 0)) % len(out)
    layout = combine(values, values[0].shape, labels, call.where)
    return tuple(Block(tuple(d + (d >= dim) for d in b.dims), b.labels, b.axes) for b in layout)
