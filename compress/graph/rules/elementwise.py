"""Elementwise ops: labels of all inputs are equal index by index; the output carries them."""

from __future__ import annotations

from collections.abc import Sequence

from ..labels import Block, Labels, Layout, call_values
from ..tape import Call, Value
from .reduce import freeze_along
from .table import rule


def combine(values: Sequence[Value], shape: tuple[int, ...], labels: Labels, where: str) -> Layout:
    """The layout of an elementwise combination of broadcast values with an output of this shape.

    A dimension that is labelled in one value and merely long in another meets a fixed size, and is pinned.
    """
    blocks: list[tuple[int, Block]] = []  # (which value, its block in output dimensions)
    for number, value in enumerate(values):
        shift = len(shape) - len(value.shape)
        blocks += [(number, Block(tuple(d + shift for d in b.dims), b.labels, b.axes)) for b in labels.of(value)]
    result: list[Block] = []
    for dims in _clusters([block.dims for _, block in blocks]):
        mine = [(number, block) for number, block in blocks if block.dims[0] in dims]
        main = max((block for _, block in mine), key=lambda block: len(block.dims))
        for _, block in mine:
            if block is not main:
                _unify(main, block, labels, where)
        for number, value in enumerate(values):
            shift = len(shape) - len(value.shape)
            carried = {d for n, block in mine if n == number for d in block.dims}
            for position, dim in enumerate(main.dims):
                if dim >= shift and dim not in carried and value.shape[dim - shift] > 1:
                    labels.pin(labels.lift(main, position), f"{where} combines it with a tensor of fixed size")
        result.append(main)
        covered = set(main.dims)
        for _, block in mine:
            if not covered & set(block.dims):
                result.append(block)
                covered |= set(block.dims)
    return tuple(sorted(result, key=lambda block: block.dims))


def _clusters(groups: list[tuple[int, ...]]) -> list[set[int]]:
    clusters: list[set[int]] = []
    for dims in groups:
        joined = set(dims)
        rest = []
        for cluster in clusters:
            if cluster & joined:
                joined |= cluster
            else:
                rest.append(cluster)
        clusters = [*rest, joined]
    return clusters


def _unify(main: Block, block: Block, labels: Labels, where: str) -> None:
    if block.dims == main.dims:
        labels.equal(main.labels, block.labels)
        if len(main.dims) > 1:
            labels.join_axes(main.axes, block.axes)
        return
    for position, dim in enumerate(block.dims):
        if dim in main.dims:
            k = main.dims.index(dim)
            labels.equal(labels.lift(main, k), labels.lift(block, position))
            if len(main.dims) > 1 and len(block.dims) > 1:
                labels.join_axes([main.axes[k]], [block.axes[position]])
        else:
            labels.pin(block.labels, f"{where} combines blocks of different dimensions")


ELEMENTWISE = """
    abs acos acosh add addcdiv addcmul alias angle asin asinh atan atan2 atanh bitwise_and bitwise_not bitwise_or
    bitwise_xor ceil celu clamp clamp_max clamp_min clone contiguous copysign cos cosh deg2rad detach div elu eq erf
    erfc erfinv exp exp2 expm1 fill floor floor_divide fmax fmin fmod frac ge gelu gt hardshrink hardsigmoid
    hardswish hardtanh heaviside hypot isfinite isinf isnan le leaky_relu lerp lgamma lift_fresh log log10 log1p
    log2 log_sigmoid logaddexp logical_and logical_not logical_or logical_xor logit lt masked_fill maximum minimum
    mish mul nan_to_num ne neg ones_like pow prelu _prelu_kernel rad2deg reciprocal relu relu6 remainder round rrelu
    rsqrt rsub sgn sigmoid sign silu sin sinc sinh softplus softshrink sqrt square sub tan tanh threshold to
    _to_copy true_divide trunc where xlogy zeros_like zero empty_like full_like rand_like randn_like bernoulli
    dropout native_dropout
""".split()  # noqa: SIM905


ARITHMETIC = {"add", "sub", "rsub", "mul", "div", "true_divide", "floor_divide", "remainder", "fmod", "pow"}
"""Where an integer of the code is a number, not a size."""


@rule(*ELEMENTWISE)
def elementwise(call: Call, labels: Labels) -> list[Layout]:
    """Every input is broadcast to the output; where one is missing (a scalar), it says nothing."""
    shape = call.outs[0].shape
    if call.op == "mul" and call.python is not None and call.python[0] == "scaled_dot_product_attention":
        _keep_width(call, labels)
    layout = combine(call_values(call), shape, labels, call.where)
    return [layout for _ in call.outs]


def _keep_width(call: Call, labels: Labels) -> None:
    """Attention scales query and key, (..., L, D) or transposed, by a function of D; if nobody wrote it, D stays."""
    assert call.python is not None
    if call.python[2].get("scale") is None:
        x = call.args[0]
        freeze_along(x, [len(x.shape) - 2, len(x.shape) - 1], f"{call.where} scales attention by its width", labels)


@rule("glu")
def glu(call: Call, labels: Labels) -> Layout:
    """First half times the sigmoid of the second half: index i of both halves is one unit."""
    x = call.args[0]
    dim = (call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", -1)) % len(x.shape)
    others = [block for block in labels.of(x) if dim not in block.dims]
    found = labels.along(x, dim)
    if found is None:
        return tuple(others)
    first, second = found.reshape(2, -1)  # (2 n,) -> 2 x (n,)
    labels.equal(first, second)
    return tuple(sorted((*others, Block((dim,), first)), key=lambda block: block.dims))


@rule("copy")
def copy(call: Call, labels: Labels) -> Layout:
    """Writes the source into the target: the output is the source, broadcast; the target must agree with it."""
    target, source = call.args[0], call.args[1]
    if not labels.of(target):
        if call.aliased:
            return _pin_all(source, call, labels)
        return combine([source], call.outs[0].shape, labels, call.where)
    return combine([target, source], call.outs[0].shape, labels, call.where)


def _pin_all(value: Value, call: Call, labels: Labels) -> Layout:
    for found in labels.all_labels(value):
        labels.pin(found, f"{call.where} writes it into a part of another tensor")
    return ()
