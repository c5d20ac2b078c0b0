"""A random generator in, a layer out: convolutions, norms and activations of all kinds and spellings."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Made = tuple[nn.Module, int]
"""A block and how many channels it gives; all blocks keep height and width unless they say otherwise."""


class Apply(nn.Module):
    """A function of children, so that each way of writing a forward is a line in a table."""

    def __init__(self, forward: Callable[..., Tensor], _parameters: dict[str, Tensor] | None = None, **attributes):
        super().__init__()
        self.function = forward
        for name, value in attributes.items():
            setattr(self, name, value)
        for name, value in (_parameters or {}).items():
            self.register_parameter(name, nn.Parameter(value))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


ACTIVATIONS = [
    nn.ReLU,
    nn.SiLU,
    nn.GELU,
    nn.Sigmoid,
    nn.Hardswish,
    nn.ELU,
    nn.Mish,
    lambda: nn.LeakyReLU(0.1),
    lambda: nn.ReLU(inplace=True),
    lambda: nn.ReLU6(inplace=True),
]


def activation(rng: random.Random, channels: int) -> nn.Module:
    return nn.PReLU(channels) if rng.random() < 0.1 else rng.choice(ACTIVATIONS)()


def norm(rng: random.Random, channels: int) -> nn.Module:
    groups = rng.choice([g for g in (1, 2, 4) if channels % g == 0 and channels > g] or [1])
    kinds = [nn.BatchNorm2d] * 4 + [
        nn.Identity,
        lambda c: nn.GroupNorm(groups, c),
        lambda c: nn.InstanceNorm2d(c, affine=True),
        lambda c: nn.BatchNorm2d(c, affine=False),
        lambda c: nn.Sequential(Permute(0, 2, 3, 1), nn.LayerNorm(c), Permute(0, 3, 1, 2)),
    ]
    return rng.choice(kinds)(channels)


class Permute(nn.Module):
    def __init__(self, *order: int):
        super().__init__()
        self.order = order

    def forward(self, x):
        return x.permute(*self.order)


def conv(rng: random.Random, cin: int, cout: int | None = None) -> Made:
    """A convolution of some kind: plain, grouped, depthwise, transposed, 1x1 as a linear layer, einsum."""
    cout = cout or rng.choice([4, 6, 8, 12])
    kernel = rng.choice([1, 3])
    bias = rng.random() < 0.5
    options = {"padding": kernel // 2, "bias": bias}
    kinds = [lambda: nn.Conv2d(cin, cout, kernel, **options)] * 6
    common = [g for g in (2, 3, 4) if cin % g == 0 and cout % g == 0]
    if common:
        groups = rng.choice(common)
        kinds += [lambda: nn.Conv2d(cin, cout, kernel, groups=groups, **options)] * 2
    if cout % cin == 0:
        kinds += [lambda: nn.Conv2d(cin, cout, kernel, groups=cin, **options)] * 3
    kinds += [
        lambda: nn.ConvTranspose2d(cin, cout, kernel, **options),
        lambda: nn.Conv2d(cin, cout, (kernel, 1), padding=(kernel // 2, 0), bias=bias),
        lambda: nn.Sequential(Permute(0, 2, 3, 1), nn.Linear(cin, cout, bias=bias), Permute(0, 3, 1, 2)),
        lambda: Apply(lambda m, x: torch.einsum("bchw,oc->bohw", x, m.w), {"w": torch.rand(cout, cin)}),
        lambda: Apply(lambda m, x: F.conv2d(x, m.w, padding="same"), {"w": torch.rand(cout, cin, 3, 3)}),
        lambda: Apply(
            lambda m, x: (m.w @ x.flatten(2)).view(x.shape[0], -1, *x.shape[2:]), {"w": torch.rand(cout, cin)}
        ),
        lambda: Apply(
            lambda m, x: m.conv(x.flatten(2)).unflatten(2, x.shape[2:]),
            conv=nn.Conv1d(cin, cout, 3, padding=1, bias=bias),
        ),
        lambda: Apply(
            lambda m, x: m.conv(x.unsqueeze(2)).squeeze(2), conv=nn.Conv3d(cin, cout, (1, 3, 3), padding=(0, 1, 1))
        ),
    ]
    return rng.choice(kinds)(), cout


def conv_norm_act(rng: random.Random, cin: int, cout: int | None = None) -> Made:
    layer, cout = conv(rng, cin, cout)
    order = [layer, norm(rng, cout), activation(rng, cout)]
    if rng.random() < 0.15:  # pre-activation
        order = [norm(rng, cin), activation(rng, cin), layer]
    return nn.Sequential(*order), cout


def clean(cin: int, cout: int) -> nn.Module:
    """Conv, BatchNorm, ReLU: a removed channel is exactly zero behind it, whatever comes next."""
    return nn.Sequential(nn.Conv2d(cin, cout, 1), nn.BatchNorm2d(cout), nn.ReLU())
