"""A seed in, a random network out."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from blocks import block
from layers import clean, conv_norm_act
from oracle import call
from torch import nn


class RandomNetwork(nn.Module):
    """Stem, blocks with changes of resolution between them, and one of several kinds of heads.

    inputs(n, h, w): arguments for a batch of n. any_size: whether other heights and widths than 8 work as well.
    """

    def __init__(self, seed: int, depth: int = 2) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._build(random.Random(seed), depth)

    def _build(self, rng: random.Random, depth: int) -> None:
        self.takes = rng.choice(["tensor", "tensor", "tuple", "dict"])
        self.stem, c = conv_norm_act(rng, 3, rng.choice([4, 8, 12]))
        self.early, middle = block(rng, c, depth)
        down = [
            (nn.MaxPool2d(2), middle),
            (nn.AvgPool2d(2), middle),
            (nn.Conv2d(middle, 8, 3, stride=2, padding=1), 8),
            (nn.MaxPool2d(3, 2, 1, ceil_mode=False), middle),
            (nn.PixelUnshuffle(2), 4 * middle),
            (nn.AdaptiveAvgPool2d(4), middle),
        ]
        self.down, c = rng.choice(down)
        self.late, last = block(rng, c, depth)
        up = [
            (nn.Upsample(scale_factor=2), last),
            (nn.Upsample(size=(8, 8), mode="bilinear"), last),
            (nn.ConvTranspose2d(last, 6, 2, stride=2), 6),
        ]
        self.up, risen = rng.choice(up)
        self.kind = rng.choice(["pool", "flat", "view", "dense", "two", "dict", "pyramid", "norm1d", "hidden"])
        self.any_size = self.kind not in ("flat", "view", "pyramid", "hidden")
        self.features = last * 16
        joined = risen + middle
        self.head = {
            "pool": lambda: nn.Linear(last, 5),
            "flat": lambda: nn.Linear(self.features, 5),
            "view": lambda: nn.Sequential(nn.Linear(self.features, 6), nn.ReLU(), nn.Linear(6, 5)),
            "dense": lambda: nn.Conv2d(last, 5, 1),
            "two": lambda: nn.Conv2d(middle, 5, 1),
            "dict": lambda: nn.Linear(middle, 5),
            "pyramid": lambda: nn.Sequential(clean(joined, 8), nn.Conv2d(8, 5, 1)),
            "norm1d": lambda: nn.Sequential(nn.BatchNorm1d(last), nn.Linear(last, 8), nn.GELU(), nn.Linear(8, 5)),
            "hidden": lambda: nn.Linear(last, 5),
        }[self.kind]()
        drop_unused(self.double())

    def inputs(self, n: int = 2, h: int = 8, w: int = 8):
        x, y = torch.rand(2, n, 3, h, w, dtype=torch.float64)
        return {"tensor": x, "tuple": (x, y), "dict": {"x": x, "y": y}}[self.takes]

    def forward(self, x, y=None):
        if y is not None:
            x = x - y
        early = self.early(self.stem(x))
        late = self.late(self.down(early))
        if self.kind == "pool":
            return self.head(F.adaptive_avg_pool2d(late, 1).flatten(1))
        if self.kind == "flat":
            return self.head(late.flatten(1))
        if self.kind == "view":
            return self.head(late.contiguous().view(-1, self.features))
        if self.kind == "dense":
            return self.head(late)
        if self.kind == "two":
            return late.mean((2, 3)), self.head(early)
        if self.kind == "dict":
            return {"early": self.head(early.mean((2, 3))), "late": [late.sum((2, 3))]}
        if self.kind == "pyramid":
            return self.head(torch.cat([early, self.up(late)], 1))
        if self.kind == "norm1d":
            return self.head(late.mean((2, 3)))
        return self.head(late.flatten(2).permute(0, 2, 1)).sum(1)


def drop_unused(model: RandomNetwork) -> None:
    """Remove the modules that a forward does not call: nothing could ever cut them."""
    called: set[int] = set()
    hooks = [m.register_forward_pre_hook(lambda m, _: called.add(id(m)) or None) for m in model.modules()]
    modes = [(m, m.training) for m in model.modules()]
    inputs = model.eval().inputs()
    with torch.no_grad():
        call(model, inputs)
    for hook in hooks:
        hook.remove()
    for module, mode in modes:
        module.training = mode
        if isinstance(module, nn.MultiheadAttention):
            continue  # it takes its projection's weights, and never calls it
        for name, child in list(module._modules.items()):
            if not any(id(m) in called for m in child.modules()):
                del module._modules[name]
