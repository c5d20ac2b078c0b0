"""A batch in, one step of the optimizer and its losses out - or the reason why training cannot go on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn, optim

from ..errors import CompressError
from .loader import Batch
from .optim import Settings
from .task import Task

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class TrainingError(CompressError):
    """Training went to NaN or infinity."""

    exit_code = 1


def start_fabric(device: str, precision: str) -> Fabric:
    """Lightning Fabric on one device (`cpu` or `cuda`). Raises CompressError where it cannot do `precision`."""
    from lightning_fabric import Fabric

    if precision == "16-mixed" and device == "cpu":
        raise CompressError("precision: 16-mixed needs a GPU; a CPU trains in 32-true or bf16-mixed")
    return Fabric(accelerator=device, devices=1, precision=precision)  # type: ignore[arg-type]


def take_step(
    fabric: Fabric, model: Any, optimizer: Any, task: Task, settings: Settings, batch: Batch
) -> dict[str, float]:
    """Descend on one batch; the losses before the step.

    model, optimizer: as `fabric.setup` wrapped them. Raises TrainingError where loss or gradient is not finite; the
    weights are as they were then.
    """
    images, targets = fabric.to_device((batch.images, batch.targets))
    if settings.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    model.train()
    losses = task.loss(model, images, targets)
    parts = torch.stack([loss.detach().float() for loss in losses.values()]).tolist()  # one wait for the device
    values = dict(zip(losses, parts, strict=True))
    if not all(map(math.isfinite, parts)):
        raise TrainingError("the loss is not finite: " + ", ".join(f"{name} {v:.4g}" for name, v in values.items()))
    fabric.backward(losses["loss"])
    limit = math.inf if settings.clip is None else settings.clip
    norm = fabric.clip_gradients(model, optimizer, max_norm=limit, error_if_nonfinite=False)
    # in half precision an overflow is no accident: the scaler skips the step and takes a smaller scale
    if settings.precision != "16-mixed" and not math.isfinite(norm):  # type: ignore[arg-type]
        raise TrainingError(f"the gradient is not finite (loss {values['loss']:.4g})")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return values


def set_learning_rate(optimizer: optim.Optimizer, lr: float) -> None:
    """One learning rate for every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def names(batch: Batch) -> list[str]:
    """What the batch's samples are called: the targets' "id" (an image's name), or their numbers."""
    if isinstance(batch.targets, list | tuple) and all(isinstance(t, Mapping) and "id" in t for t in batch.targets):
        return [str(target["id"]) for target in batch.targets]
    return [f"sample {index}" for index in batch.indices]


def explained(
    problem: TrainingError, stage: str, step: int, batch: Batch, settings: Settings, saved: Path
) -> TrainingError:
    """The problem with everything one needs to find its cause, in one line."""
    kept = f"the last good checkpoint is {saved}" if saved.exists() else "no checkpoint was made yet"
    return TrainingError(
        f"{stage}: training diverged at step {step}: {problem}; {kept}; lower `lr` ({settings.lr:g}) or `clip` "
        f"({settings.clip}), or look at the batch: {', '.join(names(batch))}"
    )


def all_finite(model: nn.Module) -> bool:
    """Whether every parameter and buffer is finite: a network that is not must not replace a good checkpoint."""
    return all(bool(torch.isfinite(t).all()) for t in model.state_dict().values() if t.is_floating_point())
