"""Convolution and matrix products: contracted dimensions are equal, the output takes the weight's."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..labels import Array, Block, Labels, Layout, Term, place_blocks
from ..tape import Call, Value
from .elementwise import join_layouts
from .reduce import freeze_along, without
from .table import rule

PRODUCTS = {"convolution", "linear", "addmm", "mm", "bmm", "baddbmm"}
"""ATen ops with which a new set of channels begins, and whose outputs count as activations."""


def block_along(layout: Layout, *dims: int) -> Block | None:
    """The block that covers exactly these dimensions."""
    return next((block for block in layout if block.dims == dims), None)


def contract(a: Value, dim_a: int, b: Value, dim_b: int, labels: Labels, where: str) -> None:
    """Sum over dim_a of a and dim_b of b: their labels are equal; where one carries nothing the other is pinned."""
    left, right = labels.along(a, dim_a), labels.along(b, dim_b)
    for value, dim in ((a, dim_a), (b, dim_b)):
        labels.contracted.update(b.axes[b.dims.index(dim)] for b in labels.of(value) if dim in b.dims and b.axes)
    if left is not None and right is not None:
        labels.equal(left, right)
    for one, other, size in ((left, right, a.shape[dim_a]), (right, left, b.shape[dim_b])):
        if one is not None and other is None:
            labels.pin(one, f"{where} contracts it with {size} values that are not channels of this network")


def factor(value: Value, dims: list[int], labels: Labels) -> tuple[int, list[Array]]:
    """How many elements these dimensions of a value have: a constant, and label arrays whose survivors multiply it."""
    constant, factors, seen = prod(value.shape[d] for d in dims), [], set[int]()
    for block in labels.of(value):
        inside = [d for d in block.dims if d in dims]
        if inside and not seen & set(inside):
            whole = block.labels if len(inside) == len(block.dims) else labels.along(value, inside[0])
            assert whole is not None
            factors.append(whole.ravel())
            constant //= prod(value.shape[d] for d in (inside if whole is block.labels else inside[:1]))
            seen |= set(inside)
    return constant, factors


@rule("convolution", "_convolution")
def convolution(call: Call, labels: Labels) -> Layout:
    """x (N, I, ...) * weight (O, I / groups, ...) -> (N, O, ...); transposed: weight (I, O / groups, ...)."""
    x, weight, bias = call.args[:3]
    transposed, groups = call.args[6], call.args[8]
    channels = len(x.shape) - (len(weight.shape) - 2) - 1  # 1, or 0 without a batch
    w_out, w_in = (1, 0) if transposed else (0, 1)
    labels.role(weight, w_out, "out")
    labels.role(weight, w_in, "in")
    for dim in range(2, len(weight.shape)):
        kernel = labels.along(weight, dim)
        if kernel is not None:
            labels.pin(kernel, None)
    passing = _pointwise(call, channels)
    convolved = [dim for dim in range(channels + 1, len(x.shape)) if dim not in passing]
    freeze_along(x, convolved, f"{call.where} convolves over it", labels)
    size = call.outs[0].shape
    spatial = prod((x.shape if transposed else size)[dim] for dim in convolved)
    batch = list(range(channels))  # which carries heads where each is an image of its own
    along, along_factors = factor(x, [*batch, *passing], labels)
    wide, wide_factors = factor(weight, [0, 1], labels)
    constant = spatial * prod(weight.shape[2:])
    labels.terms.append(Term(constant * along * wide, tuple(along_factors + wide_factors)))
    if groups == 1:
        contract(x, channels, weight, w_in, labels, call.where)
        out = labels.along(weight, w_out)
    else:
        out = _grouped(call, x, weight, channels, groups, transposed, labels)
    _add_bias(bias, out, labels, call.where)
    carried = [*((dim, labels.along(x, dim)) for dim in (*batch, *passing)), (channels, out)]
    return place_blocks(((dim,), found, ()) for dim, found in carried if found is not None)


def _pointwise(call: Call, channels: int) -> list[int]:
    """Dimensions of space in which a convolution keeps every position to itself: kernel and stride 1, no padding."""
    weight, stride, padding = call.args[1], call.args[3], call.args[4]
    n = len(weight.shape) - 2
    steps, pads = (given * n if len(given) == 1 else given for given in (stride, padding))
    each = zip(weight.shape[2:], steps, pads, strict=True)
    return [channels + 1 + i for i, (kernel, step, pad) in enumerate(each) if (kernel, step, pad) == (1, 1, 0)]


def _grouped(
    call: Call, x: Value, weight: Value, channels: int, groups: int, transposed: bool, labels: Labels
) -> Array | None:
    """Grouped convolution. Whole: a group's inputs and outputs are one unit. Inside: input j of all groups is one.

    The weight's dimension that is shared by the groups (its width) carries one label an index.
    """
    inputs = labels.along(x, channels)
    n_in = x.shape[channels]
    full, width = (0, 1)  # weight (O, I/g) or, transposed, (I, O/g)
    n_out = call.outs[0].shape[channels]
    shared = labels.along(weight, width)
    by_row = labels.along(weight, full)
    assert by_row is not None
    outputs = by_row
    if transposed:
        outputs = labels.fresh(n_out)
    if labels.options.get("groups") == "inside" and n_in > groups and n_out > groups:
        return _grouped_inside(call, inputs, outputs, by_row, shared, groups, transposed, labels)
    if shared is not None:
        labels.pin(shared, f"{call.where} has {groups} groups, which go as wholes")
    if inputs is None:
        labels.pin(outputs, f"{call.where} convolves {n_in} values that are not channels of this network")
        return outputs
    ins, outs = inputs.reshape(groups, -1), outputs.reshape(groups, -1)  # (groups, I/g), (groups, O/g)
    labels.equal(ins, ins[:, :1])
    labels.equal(outs, outs[:, :1])
    labels.equal(ins[:, 0], outs[:, 0])
    if transposed:
        labels.equal(by_row, inputs)
    _need_groups(call, outs[:, 0], labels)
    return outputs


def _grouped_inside(
    call: Call,
    inputs: Array | None,
    outputs: Array,
    by_row: Array,
    shared: Array | None,
    groups: int,
    transposed: bool,
    labels: Labels,
) -> Array:
    assert shared is not None
    tied, linked = (outputs, inputs) if transposed else (inputs, outputs)
    if transposed and inputs is not None:
        labels.equal(by_row, inputs)
    if tied is None:
        labels.pin(shared, f"{call.where} convolves values that are not channels of this network")
    else:
        labels.equal(tied.reshape(groups, -1), shared[None, :])
    if linked is not None:
        labels.link(tuple(linked.reshape(groups, -1)), f"{call.where}: its {groups} groups stay equally wide")
    _need_groups(call, None, labels)
    return outputs


def _need_groups(call: Call, per_group: Array | None, labels: Labels) -> None:
    """The module's `groups` must follow: `per_group` has one label a group, or None where their number stays."""
    if call.python is None:
        return
    name, args, kwargs = call.python
    position = {"conv1d": 6, "conv2d": 6, "conv3d": 6}.get(name, 6)
    if name.startswith("conv_transpose"):
        position = 6
    groups = kwargs.get("groups", args[position] if len(args) > position else None)
    if groups is not None:
        labels.need(groups, per_group, call.where)


def _add_bias(bias: Any, out: Array | None, labels: Labels, where: str) -> None:
    if not isinstance(bias, Value):
        return
    labels.role(bias, 0, "bias")
    carried = labels.along(bias, len(bias.shape) - 1)
    if carried is None:
        if out is not None and bias.shape and bias.shape[-1] > 1:
            labels.pin(out, f"{where} adds a bias of fixed size")
    elif out is None:
        labels.pin(carried, f"{where} adds it to something of fixed size")
    else:
        labels.equal(carried, out)


@rule("mm", "bmm", "matmul", "mv", "dot")
def matmul(call: Call, labels: Labels) -> Layout:
    """a (..., M, K) @ b (..., K, N) -> (..., M, N); what a and b carry over the batch is equal."""
    return product(call, call.args[0], call.args[1], labels)


@rule("addmm", "baddbmm")
def addmm(call: Call, labels: Labels) -> Layout:
    """bias + a @ b."""
    bias, a, b = call.args[:3]
    layout = product(call, a, b, labels)
    last = len(call.outs[0].shape) - 1
    carried = block_along(layout, last)
    _add_bias(bias, carried.labels if carried else None, labels, call.where)
    return layout


def product(call: Call, a: Value, b: Value, labels: Labels) -> Layout:
    """The layout of a @ b, with its multiply-adds and the roles of weights."""
    dims_a, dims_b = len(a.shape), len(b.shape)
    contract(a, dims_a - 1, b, max(dims_b - 2, 0), labels, call.where)
    out = call.outs[0].shape
    rows, row_factors = factor(a, list(range(dims_a)), labels)
    columns, column_factors = factor(b, [dims_b - 1], labels) if dims_b > 1 else (1, [])
    labels.terms.append(Term(rows * columns, tuple(row_factors + column_factors)))
    _matrix_roles(call, b, labels)
    left = _beside(a, dims_a - 1, dims_b > 1, labels)
    right = _beside(b, max(dims_b - 2, 0), dims_a > 1, labels)
    return join_layouts([left, right], out, labels, call.where)


def _beside(value: Value, dim: int, matrix: bool, labels: Labels) -> tuple[tuple[int, ...], Layout]:
    """Shape and layout of an operand without its contracted dimension: size 1 beside a matrix, gone beside a vector."""
    shape = (*value.shape[:dim], *((1,) if matrix else ()), *value.shape[dim + 1 :])
    return shape, without(value, {dim}, matrix, labels)


def _matrix_roles(call: Call, b: Value, labels: Labels) -> None:
    """A matrix that came straight from a weight says which of its dimensions are inputs and outputs."""
    for block in labels.of(b):
        if len(block.dims) != 1:
            continue
        place = labels.place_of.get(id(block.labels))
        if place is not None and len(b.shape) == 2:
            labels.roles.setdefault(place, "out" if block.dims[0] == 1 else "in")


@rule("linear")
def linear(call: Call, labels: Labels) -> Layout:
    """x (..., I), weight (O, I) -> (..., O), where it is not decomposed."""
    x, weight = call.args[:2]
    labels.role(weight, 0, "out")
    labels.role(weight, 1, "in")
    contract(x, len(x.shape) - 1, weight, 1, labels, call.where)
    rows, factors = factor(x, list(range(len(x.shape) - 1)), labels)
    wide, wide_factors = factor(weight, [0, 1], labels)
    labels.terms.append(Term(rows * wide, tuple(factors + wide_factors)))
    out = labels.along(weight, 0)
    _add_bias(call.args[2] if len(call.args) > 2 else None, out, labels, call.where)
    kept = tuple(block for block in labels.of(x) if len(x.shape) - 1 not in block.dims)
    return kept if out is None else (*kept, Block((len(x.shape) - 1,), np.asarray(out)))
