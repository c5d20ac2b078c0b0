"""A BatchNorm's scale in, how much each of its channels matters out."""

from __future__ import annotations

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from compress import Criterion, Part


class BNGamma(Criterion):
    """Channels whose BatchNorm scale is small, |gamma|, go first; other weights say nothing.

    A channel that passes several BatchNorms scores the sum of their |gamma|. Made for networks trained with the
    `network-slimming` regularizer and a global threshold (Liu et al., ICCV 2017, section 3).
    """

    name = "bn-gamma"

    def score(self, part: Part) -> Tensor | None:
        """|gamma| of the n channels, (n,), where the place is a BatchNorm's weight; else None."""
        batch_norm = part.module is None or isinstance(part.module, _BatchNorm)  # None: weights without their network
        if part.role != "norm" or not batch_norm or part.name.rpartition(".")[2] != "weight":
            return None
        return part.tensor.detach().abs()
