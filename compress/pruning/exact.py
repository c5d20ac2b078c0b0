"""A network, a cut of it and the edits in, whether each number of the cut one is the original's, bit for bit, out."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ..graph.walk import named_tensors
from .surgery import Edits

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of an element -> the integers that its bits are compared as."""


def takes_over(model: nn.Module, new: nn.Module, edits: Edits) -> bool:
    """Whether the parameters and buffers of `new` are the model's at the positions that the edits leave, and finite.

    Indexed by NumPy where the surgery uses torch, so that one cannot repeat the other's mistake.
    """
    tensors, left = named_tensors(model), named_tensors(new)
    return tensors.keys() == left.keys() and all(
        _is_taken(tensor.detach(), left[name].detach(), edits.select.get(name, {})) for name, tensor in tensors.items()
    )


def _is_taken(tensor: Tensor, left: Tensor, by_dim: Mapping[int, np.ndarray]) -> bool:
    if tensor.dtype != left.dtype or tensor.layout != torch.strided or tensor.element_size() not in BITS:
        return False
    expected, there = _bits(tensor), _bits(left)
    for dim, index in by_dim.items():
        expected = expected.take(index, dim)
    return np.array_equal(expected, there) and math.isfinite(left.sum())


def _bits(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().view(BITS[tensor.element_size()]).numpy()
