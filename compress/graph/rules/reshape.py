"""Reshapes: both shapes are factored into matching segments, and label arrays are reshaped with them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from ..ints import Size
from ..labels import Array, Block, Labels, Layout, Merge, place_blocks
from ..tape import Call, Value
from .table import rule

EXPLICIT = {"view", "reshape", "unflatten", "_unsafe_view", "expand", "resize"}
"""Python-level calls whose arguments write sizes out; every other reshape's sizes follow by themselves."""


@rule("expand", "broadcast_to", "expand_as")
def expand(call: Call, labels: Labels) -> Layout:
    """Size-1 dimensions are repeated: they carry nothing, or what the tensor carries whose size the code asked for.

    A channel size that is written out must follow.
    """
    x, out = call.args[0], call.outs[0].shape
    shift = len(out) - len(x.shape)
    layout = [Block(tuple(d + shift for d in b.dims), b.labels, b.axes) for b in labels.of(x)]
    sizes = written_sizes(call, out)
    for block in tuple(layout):
        for position, dim in enumerate(block.dims):
            size = sizes[dim]
            if size is not None:
                labels.need(size, labels.lift(block, position), call.where)
    for dim, n in enumerate(out):
        if n > 1 and (dim < shift or x.shape[dim - shift] == 1):
            found = followed(call, sizes[dim], dim, labels)
            if found is not None:
                layout.append(Block((dim,), found))
    return tuple(sorted(layout, key=lambda block: block.dims))


def followed(call: Call, size: Any, dim: int, labels: Labels) -> Array | None:
    """Labels of the dimension whose size an expanded dimension takes, (n,), or None where it is no channel's."""
    if call.python is not None and call.python[0] == "expand_as":
        other = call.python[1][1]
        return labels.along(other, dim)
    origin = getattr(size, "origin", None)
    if not isinstance(origin, Size):
        return None
    for block in labels.layouts.get(origin.value, ()):
        if origin.dim in block.dims:
            return labels.lift(block, block.dims.index(origin.dim))
    return None


@rule("repeat")
def repeat(call: Call, labels: Labels) -> Layout:
    """Each dimension repeated as a whole: positions i and i + n are the same unit."""
    x, times = call.args[0], call.args[1]
    shift = len(times) - len(x.shape)
    blocks: list[tuple[tuple[int, ...], Array, tuple[int, ...]]] = []
    for block in labels.of(x):
        if len(block.dims) == 1:
            dim = block.dims[0] + shift
            blocks.append(((dim,), np.tile(block.labels, times[dim]), ()))
        elif all(times[d + shift] == 1 for d in block.dims):
            blocks.append((tuple(d + shift for d in block.dims), block.labels, block.axes))
        else:
            labels.pin(block.labels, f"{call.where} repeats it")
    return place_blocks(blocks)


@rule("view", "reshape", "_unsafe_view", "_reshape_alias", "unflatten", "flatten", "_reshape_copy", "view_copy")
def reshape(call: Call, labels: Labels) -> list[Layout]:
    """The same elements in another shape."""
    x, out = call.args[0], call.outs[0].shape
    if call.op == "view" and call.overload == "dtype":
        return [labels.of(x)]
    return [_reshape(call, x, out, written_sizes(call, out), labels)]


def written_sizes(call: Call, out: tuple[int, ...]) -> list[Any]:
    """For each output dimension the size as the Python code wrote it: an int, or None where it follows by itself."""
    free: list[Any] = [None] * len(out)
    if call.python is None:
        return free
    name, args, kwargs = call.python
    if name not in EXPLICIT:
        return free
    sizes = kwargs.get("shape", kwargs.get("size", kwargs.get("sizes")))
    if sizes is None:
        rest = args[1:]
        if name == "unflatten":
            dim, sizes = rest[0], kwargs.get("sizes", rest[1] if len(rest) > 1 else ())
            position = int(dim) % (len(call.args[0].shape))
            written = list(free)
            written[position : position + len(sizes)] = list(sizes)
            return [None if size is None or int(size) == -1 else size for size in written]
        sizes = rest[0] if len(rest) == 1 and isinstance(rest[0], tuple) else rest
    if len(sizes) != len(out):
        return list(out)
    return [None if int(size) == -1 else size for size in sizes]


def _segments(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Pairs of runs of dimensions with equal products, as short as possible; dimensions of size 1 are left out."""
    a = [d for d, n in enumerate(before) if n != 1]
    b = [d for d, n in enumerate(after) if n != 1]
    pairs, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        left, right = [a[i]], [b[j]]
        size_left, size_right = before[a[i]], after[b[j]]
        i, j = i + 1, j + 1
        while size_left != size_right:
            if size_left < size_right:
                left.append(a[i])
                size_left *= before[a[i]]
                i += 1
            else:
                right.append(b[j])
                size_right *= after[b[j]]
                j += 1
        pairs.append((left, right))
    return pairs


def _reshape(call: Call, x: Value, out: tuple[int, ...], sizes: list[Any], labels: Labels) -> Layout:
    before, after = ([n or 1 for n in shape] for shape in (x.shape, out))  # a batch of nothing says nothing
    if prod(before) != prod(after):
        for found in labels.all_labels(x):
            labels.pin(found, f"{call.where} reshapes something empty")
        return ()
    segments = _segments(before, after)
    layout = labels.of(x)
    blocks: list[tuple[tuple[int, ...], Array, tuple[int, ...]]] = []
    done: set[int] = set()
    for number, (ins, _) in enumerate(segments):
        if number in done:
            continue
        joint, dims = {number}, set(ins)
        grew = True
        while grew:  # segments that share a block are reshaped together
            grew = False
            for block in layout:
                if set(block.dims) & dims and not set(block.dims) <= dims:
                    for other, (others, _) in enumerate(segments):
                        if other not in joint and set(others) & set(block.dims):
                            joint.add(other)
                            dims |= set(others)
                            grew = True
        done |= joint
        run = [segments[k] for k in sorted(joint)]
        inside = [block for block in layout if set(block.dims) <= dims]
        if inside:
            blocks += _reshape_run(call, x, out, run, inside, sizes, labels)
        else:
            for _, outs in run:
                for dim in outs:
                    if sizes[dim] is not None and len(outs) > 1:
                        labels.need(sizes[dim], None, call.where)
    return place_blocks(blocks)


def _reshape_run(
    call: Call,
    x: Value,
    out: tuple[int, ...],
    run: list[tuple[list[int], list[int]]],
    inside: list[Block],
    sizes: list[Any],
    labels: Labels,
) -> list[tuple[tuple[int, ...], Array, tuple[int, ...]]]:
    ins = [d for segment in run for d in segment[0]]
    outs = [d for segment in run for d in segment[1]]
    if len(inside) > 1:
        if [x.shape[d] for d in ins] == [out[d] for d in outs]:  # nothing is merged or split
            return _carry(call, inside, dict(zip(ins, outs, strict=True)), sizes, labels)
        weak = [block for block in inside if block.labels.flat[0] in labels.weak]
        strong = [block for block in inside if block.labels.flat[0] not in labels.weak]
        if len(strong) > 1:
            spread = [_spread(block, ins, x.shape).reshape([out[d] for d in outs]) for block in inside]
            varying = [k for k in range(len(outs)) if not all(_constant_along(part, k) for part in spread)]
            if len(varying) == 1:
                return _merge(call, spread, outs, varying[0], sizes, labels)
        for block in inside if len(strong) > 1 else weak:
            labels.pin(block.labels, f"{call.where} merges dimensions that both carry channels")
        if len(strong) != 1:
            return []
        inside = strong
    block = inside[0]
    if len(ins) == len(outs) and all(x.shape[i] == out[o] for i, o in zip(ins, outs, strict=True)):
        return _carry(call, inside, dict(zip(ins, outs, strict=True)), sizes, labels)
    reshaped = _spread(block, ins, x.shape).reshape([out[d] for d in outs])
    varying = [k for k in range(len(outs)) if not _constant_along(reshaped, k)]
    if not varying:
        varying = [0]
    kept = reshaped[tuple(slice(None) if k in varying else 0 for k in range(len(outs)))]
    dims = tuple(outs[k] for k in varying)
    for k, dim in enumerate(outs):
        if k not in varying and sizes[dim] is not None:
            labels.need(sizes[dim], None, call.where)
    if len(dims) == 1:
        if sizes[dims[0]] is not None:
            labels.need(sizes[dims[0]], kept, call.where)
        return [(dims, kept, ())]
    axes = _axes_of(call, block, run, dims, kept, labels)
    result = Block(dims, kept, axes)
    for position, dim in enumerate(dims):
        size = sizes[dim]
        if size is None:
            continue
        if hasattr(size, "origin"):
            labels.need(size, labels.lift(result, position), call.where)
        else:
            labels.rigid.setdefault(axes[position], f"{call.where} writes the size {int(size)} as a constant")
    return [(dims, kept, axes)]


def _merge(
    call: Call, spread: list[Array], outs: list[int], at: int, sizes: list[Any], labels: Labels
) -> list[tuple[tuple[int, ...], Array, tuple[int, ...]]]:
    """Several dimensions with channels become one: which of them may shrink is decided after the tape."""
    parts = tuple(part[tuple(slice(None) if k == at else 0 for k in range(len(outs)))] for part in spread)
    found = labels.fresh(len(parts[0]))
    labels.merges.append(Merge(found, parts, call.where))
    for k, dim in enumerate(outs):
        if sizes[dim] is not None:
            labels.need(sizes[dim], found if k == at else None, call.where)
    return [((outs[at],), found, ())]


def _spread(block: Block, ins: list[int], shape: tuple[int, ...]) -> Array:
    """The block's labels over all dimensions of a run."""
    own = block.labels.reshape([shape[d] if d in block.dims else 1 for d in ins])
    return np.broadcast_to(own, [shape[d] for d in ins])


def _constant_along(array: Array, axis: int) -> bool:
    first = np.take(array, [0], axis=axis)
    return bool((array == first).all())


def _carry(
    call: Call, inside: list[Block], moved: dict[int, int], sizes: list[Any], labels: Labels
) -> list[tuple[tuple[int, ...], Array, tuple[int, ...]]]:
    """Dimensions keep their sizes; those that are written out must follow."""
    for block in inside:
        for position, d in enumerate(block.dims):
            size = sizes[moved[d]]
            if size is None:
                continue
            if len(block.dims) == 1 or hasattr(size, "origin"):
                labels.need(size, labels.lift(block, position), call.where)
            else:
                labels.rigid.setdefault(block.axes[position], f"{call.where} writes the size {int(size)} as a constant")
    return [(tuple(moved[d] for d in b.dims), b.labels, b.axes) for b in inside]


def _axes_of(
    call: Call,
    block: Block,
    run: list[tuple[list[int], list[int]]],
    dims: tuple[int, ...],
    kept: Array,
    labels: Labels,
) -> tuple[int, ...]:
    """Axes that pass a reshape unsplit keep their number; if any is new, the result is a site of its own."""
    axes = labels.new_site(kept, call.where)
    for ins, outs in run:
        carried = [d for d in ins if d in block.dims]
        varying = [d for d in outs if d in dims]
        if len(carried) == 1 and len(varying) == 1 and len(block.dims) > 1:
            labels.join_axes([block.axes[block.dims.index(carried[0])]], [axes[dims.index(varying[0])]])
    return axes
