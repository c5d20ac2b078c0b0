"""An ATen call on meta tensors in, what it gives out - where PyTorch's own way to that is written in Python and slow.

There a norm, a softmax, a mean or a concatenation takes a tenth of a millisecond to one and a half, several times as
long as all else that is recorded of it; what it gives has a shape and a memory format that can be said at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

ACTIVATIONS = frozenset(
    (
        *("hardtanh", "hardswish", "hardsigmoid", "leaky_relu", "elu", "gelu", "mish", "silu", "softplus"),
        *("relu", "relu6", "clamp", "clamp_min", "clamp_max", "sigmoid", "tanh"),
    )
)
"""Element by element, of one tensor: what they give has its shape, type and memory format."""


PAIRS = frozenset(("add", "sub", "mul", "div"))
"""Element by element, of two tensors, or of a tensor and a number."""


def shape_of(op: str, args: tuple[Any, ...], kwargs: Any) -> Any:
    """The tensor or tensors that the call gives; None where PyTorch has to say. op: "relu", or in place "relu_"."""
    x = args[0][0] if op == "cat" and args[0] else args[0] if args else None
    if not (isinstance(x, Tensor) and x.is_meta and x.is_floating_point()):
        return None
    if op.removesuffix("_") in ACTIVATIONS:
        plain = not any(isinstance(arg, Tensor) for arg in (*args[1:], *kwargs.values()))
        return None if not plain else x if op.endswith("_") else _like(x)
    if op.removesuffix("_") in PAIRS:
        return _combined(x, args[1], op.endswith("_")) if not kwargs else None
    speaker = SPEAKERS.get(op)
    return None if speaker is None or kwargs else speaker(*args)


def _like(x: Tensor) -> Tensor:
    """What `torch.empty_like` gives, in an eighth of the time where x lies in memory as its shape says."""
    return _new(x, x.shape) if x.is_contiguous() else torch.empty_like(x)


def _new(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Of this shape and the type of x."""
    return torch.empty(shape, dtype=x.dtype, device="meta")


def _combined(x: Tensor, other: Any, in_place: bool) -> Tensor | None:
    """Of two tensors of which one is broadcast to the shape of the other, or of a tensor and a number."""
    if type(other) in (int, float):
        return x if in_place else _like(x)
    if not isinstance(other, Tensor) or other.dtype != x.dtype or other.dim() != x.dim():
        return None
    if _fits(other, x):
        return x if in_place else _like(x)
    return _like(other) if not in_place and _fits(x, other) else None


def _fits(other: Tensor, x: Tensor) -> bool:
    """Whether it is broadcast to the shape of x, and x decides how the result lies in memory."""
    return all(n in (1, size) for n, size in zip(other.shape, x.shape, strict=True)) and (
        (x.is_contiguous() and other.is_contiguous()) or x.stride() == other.stride()
    )


def _batch_norm(x: Tensor, _: Any, __: Any, ___: Any, ____: Any, training: bool, *_____: Any) -> Any:
    out = _like(x) if x.is_contiguous() else torch.empty_like(x, memory_format=_format(x))
    return None if training else (out, _new(x, (0,)), _new(x, (0,)))


def _layer_norm(x: Tensor, shape: Sequence[int], *_: Any) -> Any:
    kept = x.dim() - len(shape)
    statistics = (*x.shape[:kept], *[1] * len(shape))
    return _new(x, x.shape), _new(x, statistics), _new(x, statistics)


def _group_norm(x: Tensor, _: Any, __: Any, n: int, ___: int, ____: int, groups: int, _____: float) -> Any:
    out = _like(x) if x.is_contiguous() else torch.empty_like(x, memory_format=_format(x))
    return out, _new(x, (n, groups)), _new(x, (n, groups))


def _softmax(x: Tensor, dim: int, *other: Any) -> Tensor | None:
    return None if any(other) or not x.is_contiguous() or not -x.dim() <= dim < x.dim() else _new(x, x.shape)


def _mean(x: Tensor, dims: Any = None, keepdim: bool = False) -> Tensor | None:
    if not dims or not x.is_contiguous() or not all(-x.dim() <= dim < x.dim() for dim in dims):
        return None
    gone = {dim % x.dim() for dim in dims}
    if len(gone) < len(dims):
        return None
    return _new(x, [1 if dim in gone else n for dim, n in enumerate(x.shape) if keepdim or dim not in gone])


def _addmm(bias: Any, a: Any, b: Any) -> Tensor | None:
    """(columns,) + (rows, k) @ (k, columns)."""
    same = bias.dtype == a.dtype == b.dtype and a.is_meta and b.is_meta and (bias.dim(), a.dim(), b.dim()) == (1, 2, 2)
    if not same or a.shape[1] != b.shape[0] or bias.shape[0] != b.shape[1]:
        return None
    return _new(a, (a.shape[0], b.shape[1]))


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    """Tensors of one type that differ along this dimension alone and lie in memory as their shapes say."""
    first = tensors[0]
    if not -first.dim() <= dim < first.dim():
        return None
    shape, dim = list(first.shape), dim % first.dim()
    for tensor in tensors[1:]:
        if not (tensor.is_meta and tensor.dtype == first.dtype and tensor.dim() == first.dim()):
            return None
        if any(n != tensor.shape[k] for k, n in enumerate(shape) if k != dim):
            return None
        shape[dim] += tensor.shape[dim]
    return _new(first, shape) if all(tensor.is_contiguous() for tensor in tensors) else None


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    _: Any,
    groups: int,
) -> Tensor | None:
    """A convolution's output; None for transposed ones and wherever something does not fit, which PyTorch says best."""
    k = weight.dim() - 2
    given = len(stride) == len(padding) == len(dilation) == k and x.dim() == weight.dim()
    if transposed or not given or x.dtype != weight.dtype or x.shape[1] != weight.shape[1] * groups:
        return None
    numbers = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    sizes = [(n + 2 * p - d * (kernel - 1) - 1) // s + 1 for n, kernel, s, p, d in numbers]
    if min(sizes) < 1 or weight.shape[0] % groups or (bias is not None and bias.shape[0] != weight.shape[0]):
        return None
    last = x.dtype != torch.float64 and any(
        tensor.dim() == 4 and _format(tensor) == torch.channels_last for tensor in (x, weight)
    )
    form = torch.channels_last if last else torch.contiguous_format
    return torch.empty((x.shape[0], weight.shape[0], *sizes), dtype=x.dtype, device="meta", memory_format=form)


def _format(tensor: Tensor) -> torch.memory_format:
    return torch._prims_common.suggest_memory_format(tensor)


SPEAKERS: dict[str, Callable[..., Any]] = {
    "convolution": _convolution,
    "native_batch_norm": _batch_norm,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "_softmax": _softmax,
    "_safe_softmax": _softmax,
    "mean": _mean,
    "addmm": _addmm,
    "cat": _cat,
}
