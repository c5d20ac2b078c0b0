"""A seed in, a random network of residual blocks out, which knows where each branch ends and whether it can go."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from layers import Apply
from torch import Tensor, nn


def _convs(rng: random.Random, c: int) -> nn.Sequential:
    """A branch that keeps the shape, written in one of the ways in which people write it; c a multiple of 4."""
    mid = rng.choice([4, 6, 8])
    plain = [nn.Conv2d(c, mid, 1, bias=False), nn.BatchNorm2d(mid), nn.ReLU(inplace=True), nn.Conv2d(mid, c, 3, 1, 1)]
    ways = [
        lambda: [*plain, nn.BatchNorm2d(c)],
        lambda: [nn.BatchNorm2d(c), nn.ReLU(inplace=True), *plain],
        lambda: [nn.Conv2d(c, c, 3, 1, 1, groups=c), nn.GroupNorm(2, c), nn.Conv2d(c, mid, 1), nn.GELU(), *plain[3:]],
        lambda: [nn.GroupNorm(1, c), *plain, nn.Dropout(0.2)],
        lambda: [nn.ReLU(inplace=True), *plain],  # it rectifies the stream as well
        lambda: [*plain, Apply(lambda m, x: x + m.body(x), body=nn.Conv2d(c, c, 1))],
        lambda: [*plain, Apply(lambda m, x: x * m.gate(x.mean((2, 3), True)).sigmoid(), gate=nn.Conv2d(c, c, 1))],
    ]
    return nn.Sequential(*rng.choice(ways)())


class Attention(nn.Module):
    """Tokens are pixels; what it returns beside them is None, as of nn.MultiheadAttention."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.mixed = nn.MultiheadAttention(c, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        tokens, _ = self.mixed(tokens, tokens, value=tokens, need_weights=False)
        return tokens.mT.reshape(x.shape)


class Steps(nn.Module):
    """conv, norm, relu, conv, norm as modules of the block itself, with one ReLU module for all of its places."""

    def __init__(self, c: int, mid: int, after: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, mid, 3, padding=1, bias=False), nn.BatchNorm2d(mid)
        self.conv2, self.body = nn.Conv2d(mid, c, 1, bias=False), nn.BatchNorm2d(c)
        self.relu, self.after = nn.ReLU(inplace=True), after

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x
        return self.relu(out) if self.after else out


class Residuals(nn.Module):
    """Stem, blocks, pool, classifier.

    ends: path -> the module whose output is the branch of the block at or below the path; nested ones have longer
    paths. stays: paths of blocks that are none: something else reads the branch, an op makes something of its zeros,
    the stream is scaled.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = random.Random(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._build(rng)

    def _build(self, rng: random.Random) -> None:
        c = 4 * rng.randint(1, 3)
        self.stem = nn.Sequential(nn.Conv2d(3, c, 3, padding=1, bias=False), nn.BatchNorm2d(c), nn.ReLU())
        self.blocks, self.ends, self.stays = nn.ModuleList(), {}, []
        for number in range(rng.randint(4, 6)):
            path = f"blocks.{number}"
            kind = rng.choice(["goes"] * 6 + ["stays", "wider"])
            if kind == "wider":
                wide = c + 4
                self.blocks.append(
                    Apply(
                        lambda m, x: m.way(x) + m.body(x), way=nn.Conv2d(c, wide, 1), body=nn.Conv2d(c, wide, 3, 1, 1)
                    )
                )
                c = wide
            elif kind == "stays":
                self.blocks.append(self._staying(rng, c))
                self.stays.append(path)
            else:
                self.blocks.append(self._going(rng, c))
                self.ends[path] = f"{path}.body"
        for path, module in self.blocks.named_modules(prefix="blocks"):
            if path.count(".") > 1 and hasattr(module, "body"):
                self.ends[path] = f"{path}.body"
        self.head = nn.Linear(c, 5)

    def end(self, block: str) -> str:
        """Where the branch of a block ends that the graph calls so."""
        return self.ends[max((path for path in self.ends if f"{block}.".startswith(f"{path}.")), key=len)]

    def _going(self, rng: random.Random, c: int) -> nn.Module:
        if rng.random() < 0.3:
            return Steps(c, rng.choice([4, 8]), rng.random() < 0.5)
        body = Attention(c) if rng.random() < 0.25 else _convs(rng, c)
        ways = [
            lambda m, x: x + m.body(x),
            lambda m, x: m.body(x) + x,
            lambda m, x: F.relu(m.body(x) + x),
            lambda m, x: torch.add(x, m.body(x), alpha=0.5),
            lambda m, x: x + m.gain * m.body(x),
            lambda m, x: m.body(x).add_(x),
            lambda m, x: F.leaky_relu(x + F.dropout(m.body(x), 0.1, m.training)),
            lambda m, x: m.body(x.clone()).add_(x),
        ]
        return Apply(rng.choice(ways), {"gain": torch.rand(1, c, 1, 1)}, body=body)

    def _staying(self, rng: random.Random, c: int) -> nn.Module:
        body = _convs(rng, c)
        ways = [
            lambda m, x: F.leaky_relu(x + torch.sigmoid(m.body(x))),
            lambda m, x: torch.cat([x + (y := m.body(x)), y], 1)[:, : x.shape[1]] + 0 * y,
            lambda m, x: torch.add(m.body(x), x, alpha=2.0),
        ]
        return Apply(rng.choice(ways), body=body)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))
