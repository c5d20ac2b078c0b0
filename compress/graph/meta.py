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


def shape_of(op: str, args: tuple[Any, ...], kwargs: Any) -> Any:
    """The tensor or tensors that the call gives; None where PyTorch has to say. op: "relu", or in place "relu_"."""
    x = args[0] if args else None
    if not (isinstance(x, Tensor) and x.is_meta and x.is_floating_point()):
        return None
    if op.removesuffix("_") in ACTIVATIONS:
        plain = not any(isinstance(arg, Tensor) for arg in (*args[1:], *kwargs.values()))
        return None if not plain else x if op.endswith("_") else torch.empty_like(x)
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
