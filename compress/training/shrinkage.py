"""Weights that are being shrunk in, how far they have come out: no sparse training without effect passes unseen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

SMALL = 0.01  # below this a channel's scale adds next to nothing


@dataclass(frozen=True)
class Shrinkage:
    """share: part of the watched weights with |w| < SMALL. median: of |w|. count: how many are watched."""

    share: float
    median: float
    count: int

    def __str__(self) -> str:
        return f"{self.share:.0%} of {self.count} gammas < {SMALL}, median {self.median:.3g}"


def shrinkage(watched: Mapping[str, Tensor]) -> Shrinkage | None:
    """How far the watched tensors have shrunk; None where nothing is watched."""
    if not watched:
        return None
    sizes = torch.cat([tensor.detach().abs().flatten().float() for tensor in watched.values()])
    return Shrinkage((sizes < SMALL).float().mean().item(), sizes.median().item(), sizes.numel())


def complaint(start: Shrinkage, after: Shrinkage, epochs: int, done: int = 1) -> str | None:
    """One line if, at the pace of the first `done` of `epochs` epochs, the watched weights go nowhere; else None."""
    if after.share > start.share or (start.median - after.median) * epochs > 0.1 * start.median * done:
        return None
    return (
        f"the regularizer hardly moves anything: median |gamma| {start.median:.4g} -> {after.median:.4g} in the first "
        f"{'' if done == 1 else f'{done} '}of {epochs} epochs; raise `strength` (or `lr`, or train for longer)"
    )
