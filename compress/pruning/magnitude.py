"""Weights in, how large they are out: the criteria that need nothing but the network."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..hookspecs import hookimpl
from .criteria import Criterion, Normalization, Part

if TYPE_CHECKING:
    from ..graph.blocks import Block
    from ..graph.graph import Group


class L1(Criterion):
    """Units whose weights have the smallest sum of magnitudes go first.

    Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, section 3.1; the sum runs over every place in which
    a unit occurs (its filter, its norm's scale and shift, the columns that read it), not over the filter alone.
    """

    name = "l1"

    def score(self, part: Part) -> Tensor:
        """Sum of |w| of each index of the place, (n,)."""
        return _powers(part, 1)


class L2(Criterion):
    """Units whose weights have the smallest Euclidean norm go first.

    The score is the squared norm: squares add up over the places in which a unit occurs, and a root at the end would
    change no order. DepGraph (Fang et al., CVPR 2023, equation 5) sums groups the same way.
    """

    name = "l2"

    def score(self, part: Part) -> Tensor:
        """Sum of w^2 of each index of the place, (n,)."""
        return _powers(part, 2)


class LAMP(L2):
    """Squared norms as a share of what would stay if everything smaller went: comparable across layers.

    s_u / sum of s_v over the units v of the group with s_v >= s_u, s the score of `l2`. Lee et al., Layer-Adaptive
    Sparsity for the Magnitude-based Pruning, ICLR 2021, equation 3, with units in place of weights. Made for scope
    `global`; within a group the order is that of `l2`. Any criterion can be weighed so: `normalize: lamp`.
    """

    name = "lamp"
    normalize: Normalization = "lamp"


class FPGM(Criterion):
    """Filters near the geometric median of their layer go first: the others can stand in for them.

    The sum of the Euclidean distances of a filter to all filters of the layer. He et al., Filter Pruning via Geometric
    Median for Deep Convolutional Neural Networks Acceleration, CVPR 2019, equation 7. The same is asked of the columns
    that read the units, whatever norms and biases say.
    """

    name = "fpgm"

    def score(self, part: Part) -> Tensor | None:
        """Sum of distances of each row of the place to all its rows, (n,); None for norms and biases."""
        if part.role not in ("out", "in"):
            return None
        rows = part.tensor.detach().movedim(part.dim, 0).flatten(1).double()  # -> (n, everything else)
        return torch.cat([torch.cdist(some, rows).sum(1) for some in rows.split(1024)])


class Random(Criterion):
    """Every unit is as likely to go as every other: the control that a real criterion has to beat.

    seed: another seed, another choice; the same seed chooses the same units of a group of the same name and size.
    """

    name = "random"
    needs_weights = False
    seed: int = 0

    def score_group(self, group: Group, parts: list[Part]) -> Tensor:
        """Uniform numbers in [0, 1), (group.size,)."""
        return self._numbers(group.name, group.size)

    def score_block(self, block: Block, parts: list[Part]) -> float:
        """One uniform number in [0, 1)."""
        return float(self._numbers(block.name, 1))

    def _numbers(self, name: str, n: int) -> Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))
        return torch.rand(n, generator=generator, dtype=torch.float64)


CACHED = 2**16
"""Elements that a processor holds close to itself."""


def _powers(part: Part, order: int) -> Tensor:
    """The sum of |w|^order of each index of the place, (n,); half precision is summed in float32.

    Columns are summed a few rows at a time: their elements lie far apart, and to go down one column after the other
    takes up to twenty times as long.
    """
    tensor = part.tensor.detach()
    exact = torch.promote_types(tensor.dtype, torch.float32)
    if part.dim == 0:
        others = tuple(range(1, tensor.ndim))
        return torch.linalg.vector_norm(tensor, order, others, dtype=exact) ** order
    total = torch.zeros(tensor.shape[1:], dtype=exact, device=tensor.device)
    for rows in tensor.split(max(1, CACHED // max(1, total.numel()))):
        total += (rows.to(exact).square() if order == 2 else rows.to(exact).abs()).sum(0)
    return total.movedim(part.dim - 1, 0).reshape(tensor.shape[part.dim], -1).sum(1)


@hookimpl
def compress_register_criteria() -> Sequence[type[Criterion]]:
    """The criteria of the core, registered like anyone's."""
    return [L1, L2, LAMP, FPGM, Random]
