"""A network, a cut of it and the edits in, whether each number of the cut one is the original's, bit for bit, out."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ..graph.walk import named_tensors
from .surgery import Edits

KNOWN = frozenset(
    (*(torch.float16, torch.float32, torch.float64), *(torch.int16, torch.int32, torch.int64, torch.bool))
)
"""Types that NumPy has."""

COMPARED = KNOWN | {torch.bfloat16}
"""bfloat16 as the integers that its bits are."""


def takes_over(model: nn.Module, new: nn.Module, edits: Edits) -> bool:
    """Whether the parameters and buffers of `new` are the model's at the positions that the edits leave, and finite.

    Of those that the edits scale: the products. Indexed by NumPy where the surgery uses torch, so that one cannot
    repeat the other's mistake.
    """
    tensors, left = named_tensors(model), named_tensors(new)
    return tensors.keys() == left.keys() and all(
        _is_taken(tensor.detach(), left[name].detach(), edits.select.get(name, {}), edits.scale.get(name, {}))
        for name, tensor in tensors.items()
    )


def _is_taken(tensor: Tensor, left: Tensor, by_dim: Mapping[int, np.ndarray], scale: Mapping[int, np.ndarray]) -> bool:
    if tensor.dtype != left.dtype or tensor.dtype not in COMPARED or tensor.layout != torch.strided:
        return False
    if scale and tensor.dtype not in KNOWN:
        return False
    expected, there = _numbers(tensor), _numbers(left)
    for dim, index in by_dim.items():
        expected = expected.take(index, dim)
    for dim, factors in scale.items():
        expected = expected * factors.astype(expected.dtype).reshape(-1, *(1,) * (expected.ndim - dim - 1))
    return expected.shape == there.shape and bool((expected == there).all()) and math.isfinite(left.sum())


def _numbers(tensor: Tensor) -> np.ndarray:
    return (tensor if tensor.dtype in KNOWN else tensor.view(torch.int16)).cpu().numpy()
