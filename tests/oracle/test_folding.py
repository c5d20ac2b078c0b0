"""Channels whose gamma is zero removed with `compensate="fold"`: the cut computes what the whole original does.

Without padding this is exact, in eval mode, in train mode, and in eval mode after training statistics moved.
"""

from __future__ import annotations

import random

import pytest
import torch
from layers import ACTIVATIONS, Apply
from oracle import call, snapshot
from torch import nn

import compress
from compress import Criterion


def layer(rng: random.Random, cin: int, cout: int, kernel: int = 1, groups: int = 1) -> nn.Module:
    conv = nn.Conv2d(cin, cout, kernel, groups=groups, bias=rng.random() < 0.3)
    return nn.Sequential(conv, nn.BatchNorm2d(cout), rng.choice(ACTIVATIONS)())


def network(seed: int) -> nn.Module:
    """Layers, residual blocks, concatenations, pools and depthwise convolutions, nothing padded; images 24 x 24."""
    rng = random.Random(seed)
    c = rng.choice([6, 8])
    layers = [layer(rng, 3, c, 3)]
    for _ in range(rng.randint(2, 5)):
        wide = rng.choice([4, 6, 10])
        kind = rng.choice(["layer", "kernel", "residual", "concat", "pool", "up", "depthwise", "twice"])
        if kind in ("layer", "kernel"):
            layers.append(layer(rng, c, wide, 3 if kind == "kernel" else 1))
            c = wide
        elif kind == "residual":
            body = nn.Sequential(layer(rng, c, wide), layer(rng, wide, c))
            layers.append(Apply(lambda m, x: x + m.body(x), body=body))
        elif kind == "concat":
            a, b = layer(rng, c, wide), layer(rng, c, c)
            layers.append(Apply(lambda m, x: torch.cat([m.a(x), x, m.b(x)], 1), a=a, b=b))
            c = wide + 2 * c
        elif kind == "twice":
            layers.append(Apply(lambda m, x: m.a(x) + m.b(x), a=layer(rng, c, wide), b=layer(rng, c, wide)))
            c = wide
        elif kind == "depthwise":
            layers.append(layer(rng, c, c, 3, groups=c))
        else:
            layers.append(nn.MaxPool2d(2, 1) if kind == "pool" else nn.Upsample(scale_factor=2))
    ends = [
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 4)),
        lambda: nn.Conv2d(c, 4, 1),
        lambda: nn.Sequential(nn.Conv2d(c, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1)),
    ]
    return nn.Sequential(*layers, rng.choice(ends)())


class Gamma(Criterion):
    """|gamma|, summed over the norms."""

    name = "gamma"

    def score(self, part):
        if not isinstance(part.module, nn.BatchNorm2d) or not part.name.endswith("weight"):
            return None
        return part.tensor.abs()


@pytest.mark.parametrize("seed", range(60))
def test_folding_gives_back_what_removed_channels_added(seed):
    torch.manual_seed(seed)
    model = network(seed).double().eval()
    images = torch.rand(3, 3, 24, 24, dtype=torch.float64)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    graph = compress.trace(model, images[:1])
    for group in graph.groups:  # every second unit is silent: gamma is zero in each of its norms
        for member in group.members:
            if member.role == "norm" and not member.buffer and member.name.endswith("weight"):
                with torch.no_grad():
                    model.get_parameter(member.name)[torch.from_numpy(member.index[member.unit % 2 == 1])] = 0
    plan = compress.plan(graph, Gamma(), 0.499)  # no more than the silent half
    before = snapshot(model)
    pruned = compress.apply(model, graph, plan, compensate="fold")
    assert snapshot(model) == before
    cut = pruned.model
    assert pruned.after.params < pruned.before.params
    for train in (False, True, False):
        with torch.no_grad():
            want, have = (call(m.train(train), images) for m in (model, cut))
        gap = (want - have).abs().max() / want.abs().max()
        assert gap < 1e-9, f"{'train' if train else 'eval'} mode: {gap:.1e}"
