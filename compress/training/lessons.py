"""The distillations that know no kind of network: what a teacher scores, and what its modules return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from ..errors import CompressError
from ..hookspecs import hookimpl
from .distillation import Answer, Distillation


class Logits(Distillation):
    """The student's class probabilities shall be the teacher's, both softened by a temperature.

    T^2 KL(softmax(t / T) || softmax(s / T)), the mean over images (and positions), t and s the scores of teacher and
    student. T^2 makes up for gradients that shrink by it. Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural
    Network, 2015, sections 2 and 2.1. For networks that return one tensor of scores, (images, classes, ...).

    temperature: T; the higher, the more the unlikely classes count.
    """

    name = "logits"

    temperature: Annotated[float, Field(gt=0)] = 4.0

    def loss(self, student: Answer, teacher: Answer, targets: Any) -> Tensor:
        """T^2 KL, a scalar; 0 where both say the same."""
        soft, wanted = (functional.log_softmax(scores / self.temperature, 1) for scores in _scores(student, teacher))
        gaps = functional.kl_div(soft, wanted, reduction="none", log_target=True).sum(1)  # (B, C, ...) -> (B, ...)
        return self.temperature**2 * gaps.mean()


class Features(Distillation):
    """What modules return shall be what the teacher's return, in the channels that are left.

    mean of (s - t)^2 / mean of t^2 over each tensor s that a module returns and the teacher's t, averaged over these
    tensors: the hint loss of FitNets (Romero et al., ICLR 2015, equation 3), relative, so that a weight means the same
    at every depth. Where channels were cut, t is the teacher's output in those that the student still has; so there is
    no layer between the two that would have to be learned, as FitNets' regressor is.

    points: paths of the modules, e.g. ["layers.10", "layers.20"].
    """

    name = "features"

    points: Annotated[tuple[str, ...], Field(min_length=1)]

    def watches(self) -> Sequence[str]:
        return self.points

    def loss(self, student: Answer, teacher: Answer, targets: Any) -> Tensor:
        """The mean relative squared error, a scalar; 0 where both return the same."""
        errors = []
        for point in self.points:
            mine, theirs = student.features[point], teacher.features[point]
            shapes = [[tuple(tensor.shape) for tensor in each] for each in (mine, theirs)]
            if shapes[0] != shapes[1]:
                said = [" and ".join(map(str, each)) or "nothing" for each in shapes]
                raise CompressError(
                    f"distillation features: '{point}' returns {said[0]} in the student and {said[1]} in the teacher; "
                    "where channels were cut, say so: kept=compress.Kept(graph, pruned.edits)"
                )
            for s, t in zip(mine, (tensor.float() for tensor in theirs), strict=True):
                errors.append(functional.mse_loss(s.float(), t) / t.square().mean().clamp_min(1e-12))
        return torch.stack(errors).mean()


def _scores(student: Answer, teacher: Answer) -> tuple[Tensor, Tensor]:
    """Both networks' scores as float32. Raises CompressError where they are none, or of different classes."""
    for whose, answer in (("student", student), ("teacher", teacher)):
        scores = answer.outputs
        if not isinstance(scores, Tensor) or scores.ndim < 2 or scores.shape[1] < 2:
            found = f"a tensor {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
            raise CompressError(
                f"distillation logits needs one tensor of scores (images, classes, ...) with two classes or more, and "
                f"the {whose} gives {found}; take a distillation made for such networks"
            )
    shapes = tuple(student.outputs.shape), tuple(teacher.outputs.shape)
    if shapes[0] != shapes[1]:
        raise CompressError(f"distillation logits: the student gives scores {shapes[0]}, the teacher {shapes[1]}")
    return student.outputs.float(), teacher.outputs.float()


@hookimpl
def compress_register_distillations() -> Sequence[type[Distillation]]:
    """logits, features."""
    return [Logits, Features]
