"""Weights in, how large they are out: the criteria that need nothing but the network."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..hookspecs import hookimpl
from .criteria import Criterion, Part

if TYPE_CHECKING:
    from ..graph.graph import Group


class L1(Criterion):
    """Units whose weights have the smallest sum of magnitudes go first.

    Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, section 3.1; the sum runs over every place in which
    a unit occurs (its filter, its norm's scale and shift, the columns that read it), not over the filter alone.
    """

    name = "l1"

    def score(self, part: Part) -> Tensor:
        """Sum of |w| of each index of the place, (n,)."""
        return _norm(part, 1)


class L2(Criterion):
    """Units whose weights have the smallest Euclidean norm go first.

    The score is the squared norm: squares add up over the places in which a unit occurs, and a root at the end would
    change no order. DepGraph (Fang et al., CVPR 2023, equation 5) sums groups the same way.
    """

    name = "l2"

    def score(self, part: Part) -> Tensor:
        """Sum of w^2 of each index of the place, (n,)."""
        return _norm(part, 2).square()


class Random(Criterion):
    """Every unit is as likely to go as every other: the control that a real criterion has to beat.

    seed: another seed, another choice; the same seed chooses the same units of a group of the same name and size.
    """

    name = "random"
    needs_weights = False
    seed: int = 0

    def score_group(self, group: Group, parts: list[Part]) -> Tensor:
        """Uniform numbers in [0, 1), (group.size,)."""
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {group.name}".encode()))
        return torch.rand(group.size, generator=generator, dtype=torch.float64)


def _norm(part: Part, order: int) -> Tensor:
    """The norm of each index of the place, (n,), without a copy of the tensor; half precision is summed in float32."""
    tensor = part.tensor.detach()
    others = tuple(dim for dim in range(tensor.ndim) if dim != part.dim)
    exact = torch.promote_types(tensor.dtype, torch.float32)
    return torch.linalg.vector_norm(tensor, order, others, dtype=exact)


@hookimpl
def compress_register_criteria() -> Sequence[type[Criterion]]:
    """The criteria of the core, registered like anyone's."""
    return [L1, L2, Random]
