"""What a student has yet to learn from its teacher: two networks' answers to a batch in, a loss out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..errors import CompressError
from ..options import Plugin


@dataclass(frozen=True)
class Answer:
    """What one of the two networks said to a batch.

    model: the network itself, not what wraps it. inputs: its forward's positional arguments, the images first.
    outputs: whatever its forward returned. features: module path -> the tensors that this module returned, call by
    call; a teacher's are narrowed to the channels that the student still has.
    """

    model: nn.Module
    inputs: tuple[Any, ...]
    outputs: Any
    features: Mapping[str, tuple[Tensor, ...]]


class Distillation(Plugin):
    """What a network in training shall take over from a teacher. It keeps no state: all comes as an argument.

    weight: of its loss beside the task's.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise CompressError(f"weight: expected a number of at least 0, found {self.weight}")

    def watches(self) -> Sequence[str]:
        """Paths of the modules whose outputs it wants in `Answer.features`; none by default."""
        return ()

    def loss(self, student: Answer, teacher: Answer, targets: Any) -> Tensor:
        """How far the student is from its teacher on one batch: a scalar, not yet weighted, with a gradient.

        targets: what the task's loss is given. The teacher's tensors have no gradient. Raises CompressError, one line,
        for networks whose outputs it cannot compare.
        """
        raise NotImplementedError
