"""An ATen call on meta tensors in, what it gives out - where PyTorch's own way to that is written in Python and slow.

There a norm or an activation takes half a millisecond to one and a half, several times as long as all else that is
recorded of it; what it gives has a shape and a memory format that can be said at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ACTIVATIONS = frozenset(
    (
        *("hardtanh", "hardswish", "hardsigmoid", "leaky_relu", "elu", "gelu", "mish", "silu", "softplus"),
        *("relu", "relu6", "clamp", "clamp_min", "clamp_max"),
    )
)
"""Element by element, of one tensor: what they give has its shape, type and memory format."""


PAIRS = frozenset(("add", "sub", "mul", "div"))
"""Element by element, of two tensors."""


def shape_of(op: str, args: tuple[Any, ...], kwargs: Any) -> Any:
    """The tensor or tensors that the call gives; None where PyTorch has to say. op: "relu", or in place "relu_"."""
    x = args[0] if args else None
    if not (isinstance(x, Tensor) and x.is_meta and x.is_floating_point()):
        return None
    if op.removesuffix("_") in ACTIVATIONS:
        plain = not any(isinstance(arg, Tensor) for arg in (*args[1:], *kwargs.values()))
        return None if not plain else x if op.endswith("_") else torch.empty_like(x)
    if op.removesuffix("_") in PAIRS and not kwargs:
        return (x if op.endswith("_") else torch.empty_like(x)) if _fits(args[1], x) else None
    if op == "convolution":
        return _convolved(*args)
    if op == "native_batch_norm":
        out = torch.empty_like(x, memory_format=torch._prims_common.suggest_memory_format(x))
        return None if args[5] else (out, x.new_empty(0), x.new_empty(0))
    if op == "native_layer_norm":
        kept = x.dim() - len(args[1])
        statistics = (*x.shape[:kept], *[1] * len(args[1]))
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        return out, x.new_empty(statistics), x.new_empty(statistics)
    if op == "native_group_norm":
        n, groups = args[3], args[6]
        out = torch.empty_like(x, memory_format=torch._prims_common.suggest_memory_format(x))
        return out, x.new_empty((n, groups)), x.new_empty((n, groups))
    return None


def _fits(other: Any, x: Tensor) -> bool:
    """Whether it is broadcast to the shape of x, which is as it lies in memory."""
    return (
        isinstance(other, Tensor)
        and other.dtype == x.dtype
        and other.dim() == x.dim()
        and all(n in (1, size) for n, size in zip(other.shape, x.shape, strict=True))
        and (x.is_contiguous() or x.stride() == other.stride())
    )


def _convolved(
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
    last = x.dtype != torch.float64 and any(_is_channels_last(tensor) for tensor in (x, weight))
    form = torch.channels_last if last else torch.contiguous_format
    return torch.empty((x.shape[0], weight.shape[0], *sizes), dtype=x.dtype, device="meta", memory_format=form)


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and torch._prims_common.suggest_memory_format(tensor) == torch.channels_last
