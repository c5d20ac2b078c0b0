"""A final ratio and a number of rounds in, what goes in each round of pruning, training in between, out."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from ..errors import CompressError
from .question import fraction


@dataclass(frozen=True)
class Round:
    """One of several rounds. removed: the fraction of the first network's units that is gone after it. ratio: the
    fraction of what the round before left that goes in it, `plan`'s ratio."""

    removed: float
    ratio: float

    @property
    def keep(self) -> float:
        """What the round leaves of the round before, `plan`'s budgets: keep_macs and the like."""
        return 1 - self.ratio


def schedule(
    ratio: float, rounds: int, kind: Literal["polynomial", "exponential"] = "polynomial", power: float = 3.0
) -> tuple[Round, ...]:
    """Divide a cut into rounds. ratio: the fraction of units gone after the last (for a budget: 1 - what is kept).

    `polynomial`: after round t of n, ratio * (1 - (1 - t/n)^power) is gone: much at first, little at last (Zhu and
    Gupta, To prune, or not to prune, 2017, equation 1, there with power 3); power 1 takes equal steps. `exponential`:
    each round takes the same fraction of what is left (Han et al., NIPS 2015, section 3, iteratively).

    >>> [round(each.removed, 3) for each in schedule(0.8, rounds=4)]
    [0.463, 0.7, 0.788, 0.8]
    >>> [round(each.ratio, 3) for each in schedule(0.8, rounds=2, kind="exponential")]
    [0.553, 0.553]
    """
    fraction("ratio", ratio)
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise CompressError(f"rounds: expected an integer of at least 1, found {rounds!r}")
    if kind not in ("polynomial", "exponential"):
        raise CompressError(f"schedule: expected 'polynomial' or 'exponential', found {kind!r}")
    if not power > 0:
        raise CompressError(f"power: expected a number above 0, found {power!r}")
    gone = [0.0]
    for t in range(1, rounds + 1):
        left = t / rounds
        gone.append(ratio * (1 - (1 - left) ** power) if kind == "polynomial" else 1 - (1 - ratio) ** left)
    gone[-1] = float(ratio)
    return tuple(Round(b, (b - a) / (1 - a)) for a, b in pairwise(gone))
