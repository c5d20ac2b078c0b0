"""The check of what a network takes over from a teacher."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from ..training.distillation import Distillation
from ..training.distiller import Distiller
from .networks import small_network, unchanged
from .options import check_plugin, expect


def check_distillation(
    distillation: Distillation, model: nn.Module | None = None, images: Tensor | None = None, targets: Any = None
) -> None:
    """It teaches a student that differs from its teacher, the same each time, and never asks more of one that is alike.

    model, images, targets: a network that it is made for with a batch; default the kit's, (2, 3, 12, 12) -> (2, 5).
    """
    check_plugin(distillation)
    kind = type(distillation).__name__
    if model is None or images is None:
        model, images = small_network()
    student, teacher = _disturbed(model), deepcopy(model).eval()
    gap, again = (_loss(distillation, student, teacher, images, targets, kind) for _ in range(2))
    expect(torch.equal(gap, again), f"{kind}.loss gives {gap} and then {again} for the same batch")
    expect(gap.requires_grad, f"{kind}.loss has no gradient; do not detach what the student says")
    gap.backward()
    grads = [p.grad for p in student.parameters() if p.grad is not None]
    expect(any(bool(grad.any()) for grad in grads), f"{kind}.loss teaches the student nothing")
    expect(all(bool(torch.isfinite(grad).all()) for grad in grads), f"{kind}.loss has a gradient that is not finite")
    alike = _loss(distillation, deepcopy(teacher), teacher, images, targets, kind)
    said = f"{float(alike.detach()):.6g} for a student that equals its teacher, {float(gap.detach()):.6g} for another"
    expect(float(alike.detach()) <= float(gap.detach()), f"{kind}.loss is {said}")


def _loss(
    distillation: Distillation, student: nn.Module, teacher: nn.Module, images: Tensor, targets: Any, kind: str
) -> Tensor:
    distiller = Distiller(student, teacher, distillation)
    with distiller.watch() as lesson:
        student(images)
    (_, _, answer), *_ = lesson.calls
    told, same = distiller.ask((images,), {}), unchanged(distiller.teacher)
    loss = distillation.loss(answer, told, targets)
    expect(same(), f"{kind} changed the teacher")
    fine = isinstance(loss, Tensor) and loss.ndim == 0 and bool(torch.isfinite(loss))
    expect(fine, f"{kind}.loss is {loss}, expected a finite scalar")
    return loss


def _disturbed(model: nn.Module) -> nn.Module:
    """A copy in eval mode whose parameters are a tenth off."""
    student, generator = deepcopy(model).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=generator))
    return student
