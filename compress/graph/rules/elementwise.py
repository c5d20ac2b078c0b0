"""Elementwise ops: labels of all inputs are equal index by index; the output carries them."""

from __future__ import annotations

from collections.abc import Sequence

from ..labels import Block, Labels, Layout
from ..tape import Call, Value
from .reduce import freeze_along
from .table import rule


def combine(values: Sequence[Value], shape: tuple[int, ...], labels: Labels, where: str) -> Layout:
    """The layout of an elementwise combination of broadcast values with an output of this shape."""
    return join_layouts([(value.shape, labels.of(value)) for value in values], shape, labels, where)


def join_layouts(
    parts: Sequence[tuple[tuple[int, ...], Layout]], shape: tuple[int, ...], labels: Labels, where: str
) -> Layout:
    """The same for shapes with their layouts. Index by index, what meets in the output is equal.

    A dimension that is labelled in one part and merely long in another meets a fixed size, and is pinned. Of blocks
    that overlap only in part, the widest passes and the others' remaining axes are lifted.
    """
    blocks: list[tuple[int, Block]] = []  # (which part, its block in output dimensions)
    for number, (own, layout) in enumerate(parts):
        shift = len(shape) - len(own)
        blocks += [(number, Block(tuple(d + shift for d in b.dims), b.labels, b.axes) if shift else b) for b in layout]
    held: dict[int, tuple[Block, int]] = {}  # output dimension -> the block that covers it, position in its dims
    result: list[Block] = []
    for _, block in sorted(blocks, key=lambda pair: -len(pair[1].dims)):
        _join(block, held, result, labels)
    for number, (own, _) in enumerate(parts):
        carried = {d for n, block in blocks if n == number for d in block.dims}
        for dim, (block, position) in held.items():
            here = dim - len(shape) + len(own)
            if here >= 0 and dim not in carried and own[here] > 1:
                labels.pin(labels.lift(block, position), f"{where} combines it with a tensor of fixed size")
    return tuple(sorted(result, key=lambda block: block.dims))


def _join(block: Block, held: dict[int, tuple[Block, int]], result: list[Block], labels: Labels) -> None:
    """Add a block to what is held: equal where dimensions meet, of its own elsewhere."""
    met = [dim for dim in block.dims if dim in held]
    if met and held[met[0]][0].dims == block.dims:
        other = held[met[0]][0]
        labels.equal(other.labels, block.labels)
        if len(block.dims) > 1:
            labels.join_axes(other.axes, block.axes)
        return
    if not met:
        held.update((dim, (block, position)) for position, dim in enumerate(block.dims))
        result.append(block)
        return
    for position, dim in enumerate(block.dims):
        mine = Block((dim,), labels.lift(block, position))
        if dim not in held:
            held[dim] = mine, 0
            result.append(mine)
            continue
        other, k = held[dim]
        labels.equal(labels.lift(other, k), mine.labels)
        if len(other.dims) > 1 and len(block.dims) > 1:
            labels.join_axes([other.axes[k]], [block.axes[position]])


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
    layout = combine(call.values, shape, labels, call.where)
    return [layout for _ in call.outs]


def _keep_width(call: Call, labels: Labels) -> None:
    """Attention scales query and key, (..., L, D) or transposed, by a function of D; if nobody wrote it, D stays.

    Where width inside the heads may go, the layer before is asked first (`scales.py`).
    """
    assert call.python is not None
    if call.python[2].get("scale") is None and labels.options.get("heads") != "inside":
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
