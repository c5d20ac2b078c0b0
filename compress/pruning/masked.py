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

from ..graph.copies import copy_model
from ..graph.walk import named_tensors
from .surgery import Edits, cut, scaled

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
    return copy_model(model, memo, lambda tensor: converted(tensor).clone(), evaluate=True)


@torch.no_grad()
def mask(model: nn.Module, edits: Edits) -> nn.Module:
    """A copy with every element of a parameter that a cut removes set to zero. Buffers are left as they are."""
    tensors, masked = named_tensors(model), {}
    for name, by_dim in edits.select.items():
        if isinstance(tensors[name], nn.Parameter):
            masked[name] = tensors[name].detach()
            for dim, index in by_dim.items():
                gone = (_ones_at(index, masked[name], dim) == 0).flatten().nonzero().flatten()
                masked[name] = masked[name].index_fill(dim, gone, 0)
    return copy_with(model, masked)


@torch.no_grad()
def write_over(copy: nn.Module, model: nn.Module, edits: Edits) -> nn.Module:
    """A copy of the model, made by `randomise`, with the model's own values; with zeros where a cut removes them.

    In a fraction of the time of a new copy: what is removed is multiplied by zero. So what is not finite stays so; and
    what the forward has kept, other than in parameters and buffers, stays as it is.
    """
    own = named_tensors(copy)
    for name, tensor in named_tensors(model).items():
        if name not in own:
            continue  # the forward has taken it out
        real, there = tensor.detach(), own[name]
        by_dim = edits.select.get(name, {}) if isinstance(tensor, nn.Parameter) else {}
        if there.shape != real.shape or there.stride() != real.stride():
            there.data = torch.empty_like(real)
        if not by_dim:
            there.detach().copy_(real)  # never the model's own memory: forwards may write into it
        for dim, index in by_dim.items():
            real = torch.mul(real, _ones_at(index, real, dim), out=there.detach())
    return copy


def _ones_at(index: np.ndarray, like: Tensor, dim: int) -> Tensor:
    """Ones at the positions and zeros elsewhere, along a dimension of the tensor."""
    ones = torch.zeros(like.shape[dim], dtype=like.dtype)
    ones[torch.as_tensor(index)] = 1
    return ones.to(like.device).view(-1, *(1,) * (like.dim() - dim - 1))


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
            fan_in = max(math.prod(drawn[1:]), 1)
            fresh = _read_round(normal, start, drawn, gain / fan_in**0.5)
        else:
            fresh = _read_round(normal, start, drawn, 0.3)
            fresh += np.float32(0.5)
        left = fresh if learned or 0 not in by_dim else fresh[by_dim[0]]
        wide = _spread(fresh, by_dim, shape) if learned else fresh
        left = left.copy() if left is wide else left  # forwards may write into both
        whole[name], small[name] = (torch.from_numpy(a).to(tensor.device, tensor.dtype) for a in (wide, left))
        small[name] = scaled(small[name], edits.scale.get(name, {}))
    masked = copy_with(model, whole)
    return masked, cut(masked, edits).eval() if edits.replaced else copy_with(new, small)


def _spread(left: np.ndarray, by_dim: Mapping[int, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """An array of the shape that holds what is left of it where `by_dim` says, and zeros elsewhere."""
    for dim in sorted(by_dim, reverse=True):  # rows last: they are copied in one piece
        index = by_dim[dim]
        if dim == 0:
            wide = np.zeros((shape[0], *left.shape[1:]), left.dtype)
            wide[index] = left
            left = wide
        else:
            zero = np.zeros((*left.shape[:dim], 1, *left.shape[dim + 1 :]), left.dtype)
            origin = np.full(shape[dim], len(index))  # of each position: where it is taken from
            origin[index] = np.arange(len(index))
            left = np.concatenate([left, zero], axis=dim).take(origin, dim)
    return left


@functools.cache
def _numbers(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(NUMBERS,) float32 each: normal with standard deviation 1, and uniform in [0.5, 1.5]."""
    generator = np.random.default_rng(seed)
    return generator.standard_normal(NUMBERS, np.float32), generator.random(NUMBERS, np.float32) + np.float32(0.5)


def _read_round(numbers: np.ndarray, start: int, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
    """As many of the (NUMBERS,) as the shape holds, from `start` on and round again, times the scale."""
    fresh, done = np.empty(math.prod(shape), np.float32), 0
    while done < len(fresh):
        part = min(NUMBERS - start, len(fresh) - done)
        np.multiply(numbers[start : start + part], np.float32(scale), out=fresh[done : done + part])
        start, done = 0, done + part
    return fresh.reshape(shape)
