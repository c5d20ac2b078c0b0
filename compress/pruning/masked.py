"""A network and what a cut removes in, the network with that at zero out, with its own weights or random ones."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..graph.copies import copy_model, in_eval_mode
from ..graph.shell import named_tensors
from .surgery import Edits, cut, select

NUMBERS = 131_071
"""How many random numbers are drawn; a prime, so that no two rows of a weight are alike when they are read round."""


def copy_with(model: nn.Module, replacements: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> nn.Module:
    """A copy of the model in eval mode with some tensors replaced; parameters are shared, buffers copied.

    dtype: what every floating-point tensor is converted to, plain tensor attributes of modules too.
    """
    memo: dict[int, Any] = {}

    def converted(tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor

    for name, tensor in named_tensors(model).items():
        new = converted(replacements.get(name, tensor))
        if isinstance(tensor, nn.Parameter):
            memo[id(tensor)] = nn.Parameter(new, requires_grad=False)
        else:
            memo[id(tensor)] = new.clone() if new.data_ptr() == tensor.data_ptr() else new
    return in_eval_mode(copy_model(model, memo, lambda tensor: converted(tensor).clone()))


@torch.no_grad()
def mask(model: nn.Module, edits: Edits, memory: nn.Module | None = None) -> nn.Module:
    """A copy with every element of a parameter that a cut removes set to zero. Buffers are left as they are.

    memory: another copy that is done with; its parameters are written over, by products with zeros and ones, which
    takes a fraction of the time - but what is not finite stays so.
    """
    tensors, used = named_tensors(model), {} if memory is None else named_tensors(memory)
    copies = {}
    for name, by_dim in edits.select.items():
        if not isinstance(tensors[name], nn.Parameter):
            continue
        real, there = tensors[name].detach(), used.get(name)
        fits = there is not None and there.data_ptr() != real.data_ptr() and there.stride() == real.stride()
        copied = there.detach() if fits and there is not None else None
        for dim, index in by_dim.items():
            left = torch.zeros(real.shape[dim], dtype=real.dtype)
            left[torch.as_tensor(index)] = 1
            if copied is not None:
                along = left.to(real.device).view(-1, *(1,) * (real.dim() - dim - 1))
                real = torch.mul(real, along, out=copied)
            else:
                real = real.index_fill(dim, (left == 0).nonzero().flatten().to(real.device), 0)
        copies[name] = real
    return copy_with(model, copies)


def randomise(
    model: nn.Module, new: nn.Module, edits: Edits, roles: Mapping[str, str], gain: float, seed: int = 0
) -> tuple[nn.Module, nn.Module]:
    """Copies of the masked and of the cut network with the same random parameters and norm statistics.

    What zero weights hide shows here, and large errors do not drown small ones. Neither shares a parameter with the
    model. new: what the edits make of the model. Random numbers are drawn for what is left and spread over zeros, which
    for large networks is much less work than to draw all, mask them and cut.

    Matrices and kernels: normal with standard deviation gain / sqrt(fan-in). Scales of norms: uniform in [0.5, 1.5];
    running variances too. Running means: normal with standard deviation 0.1. Everything else: normal around 0.5 with
    standard deviation 0.3, so that most units get past the threshold of their activation: a narrow layer of which none
    does would hide what comes before it.
    """
    generator, (normal, uniform) = random.Random(seed), _numbers(seed)
    whole: dict[str, Tensor] = {}
    small: dict[str, Tensor] = {}
    for name, tensor in named_tensors(model).items():
        by_dim = edits.select.get(name, {})
        if not tensor.is_floating_point():
            whole[name] = tensor.detach().clone()
            continue
        shape, leaf, learned = tuple(tensor.shape), name.rpartition(".")[2], isinstance(tensor, nn.Parameter)
        drawn = tuple(len(by_dim[d]) if learned and d in by_dim else n for d, n in enumerate(shape))
        start = generator.randrange(NUMBERS)
        if leaf == "running_var" or (roles.get(name) == "norm" and leaf == "weight"):
            fresh = _read_round(uniform, start, drawn)
        elif leaf == "running_mean":
            fresh = _read_round(normal, start, drawn, 0.1)
        elif not learned:
            continue  # a constant of the code (an image mean, a frequency table, a variance that must not be negative)
        elif tensor.dim() > 1:
            fan_in = max(tensor.numel() // tensor.shape[0], 1)
            fresh = _read_round(normal, start, drawn, gain / fan_in**0.5)
        else:
            fresh = _read_round(normal, start, drawn, 0.3).add_(0.5)
        fresh = fresh.to(tensor.device, tensor.dtype)
        whole[name] = _spread(fresh, by_dim, shape) if learned else fresh
        small[name] = fresh if learned else select(fresh, by_dim).clone()  # forwards may write into buffers
    masked = copy_with(model, whole)
    return masked, cut(masked, edits).eval() if edits.replaced else copy_with(new, small)


def _spread(left: Tensor, by_dim: Mapping[int, np.ndarray], shape: tuple[int, ...]) -> Tensor:
    """A tensor of the shape that holds what is left of it where `by_dim` says, and zeros elsewhere."""
    for dim in sorted(by_dim, reverse=True):  # rows last: they are copied in one piece
        wide = _zeros((*left.shape[:dim], shape[dim], *left.shape[dim + 1 :]), left)
        left = wide.index_copy_(dim, torch.as_tensor(by_dim[dim], device=left.device), left)
    return left


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    if like.device.type == "cpu" and like.dtype in NUMPY:
        return torch.from_numpy(np.zeros(shape, NUMPY[like.dtype]))
    return like.new_zeros(shape)


NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


@functools.cache
def _numbers(seed: int) -> tuple[Tensor, Tensor]:
    """(NUMBERS,) normal with standard deviation 1, and (NUMBERS,) uniform in [0.5, 1.5]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(NUMBERS, generator=generator), torch.rand(NUMBERS, generator=generator) + 0.5


def _read_round(numbers: Tensor, start: int, shape: tuple[int, ...], scale: float = 1.0) -> Tensor:
    """As many of the (NUMBERS,) as the shape holds, from `start` on and round again, times the scale."""
    fresh, done = torch.empty(math.prod(shape)), 0
    while done < len(fresh):
        part = min(NUMBERS - start, len(fresh) - done)
        torch.mul(numbers[start : start + part], scale, out=fresh[done : done + part])
        start, done = 0, done + part
    return fresh.view(shape)
