"""A batch in, one step of the optimizer and its losses out - or the reason why training cannot go on."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn, optim

from ..errors import CompressError
from . import processes
from .loader import Batch
from .optim import Settings

if TYPE_CHECKING:
    from lightning_fabric import Fabric


Loss = Callable[[Any, Tensor, Any], Mapping[str, Tensor]]


class TrainingError(CompressError):
    """Training went to NaN or infinity."""

    exit_code = 1


def start_fabric(device: str, precision: str) -> Fabric:
    """Lightning Fabric on this process's device (`cpu` or `cuda`), together with torchrun's other processes.

    Raises CompressError where it cannot do `precision`.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    if precision == "16-mixed" and device == "cpu":
        raise CompressError("precision: 16-mixed needs a GPU; a CPU trains in 32-true or bf16-mixed")
    if processes.count() == 1:
        return Fabric(accelerator=device, devices=1, precision=precision)  # type: ignore[arg-type]
    fabric = Fabric(
        accelerator=device,
        devices=processes.count_here(),
        num_nodes=processes.count() // processes.count_here(),
        strategy=DDPStrategy(timeout=processes.PATIENCE),
        precision=precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


def compiled(model: nn.Module, device: str) -> nn.Module:
    """The network as `torch.compile` translates it in its first step; it shares its weights with the given one.

    Raises CompressError on a CPU without a C++ compiler.
    """
    if device == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        raise CompressError("compile: needs a C++ compiler on a CPU, and there is no g++; install one, or leave it out")
    return torch.compile(model)  # type: ignore[return-value]


def take_step(
    fabric: Fabric, model: Any, optimizer: Any, loss: Loss, settings: Settings, batches: Sequence[Batch]
) -> dict[str, float]:
    """Descend on the mean loss of batches that pass the network one after the other; the losses before the step.

    With several processes, of the batches of all: gradient and losses are the mean over them too. model, optimizer: as
    `fabric.setup` wrapped them. loss: (model, images, targets) -> {"loss": to descend, other names: its parts}.

    Raises TrainingError where loss or gradient is not finite; the weights are as they were then.
    """
    model.train()
    parts = []
    for number, batch in enumerate(batches, start=1):
        images, targets = fabric.to_device((batch.images, batch.targets))
        if settings.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with fabric.no_backward_sync(model, enabled=number < len(batches)):
            losses = loss(model, images, targets)
            fabric.backward(losses["loss"] / len(batches))
        parts.append(torch.stack([value.detach().float() for value in losses.values()]))
    mean = torch.stack(parts).mean(0)  # (batches, losses) -> (losses,)
    if fabric.world_size > 1:
        mean = cast(Tensor, fabric.all_reduce(mean, reduce_op="mean"))
    values = dict(zip(losses, mean.tolist(), strict=True))  # one wait for the device
    if not all(map(math.isfinite, values.values())):
        raise TrainingError("the loss is not finite: " + ", ".join(f"{name} {v:.4g}" for name, v in values.items()))
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
    problem: TrainingError, stage: str, step: int, batches: Sequence[Batch], settings: Settings, saved: Path
) -> TrainingError:
    """The problem with everything one needs to find its cause, in one line."""
    kept = f"the last good checkpoint is {saved}" if saved.exists() else "no checkpoint was made yet"
    return TrainingError(
        f"{stage}: training diverged at step {step}: {problem}; {kept}; lower `lr` ({settings.lr:g}) or `clip` "
        f"({settings.clip}), or look at the batch: "
        f"{', '.join(name for batch in batches for name in names(batch))}"
    )


def all_finite(model: nn.Module) -> bool:
    """Whether every parameter and buffer is finite: a network that is not must not replace a good checkpoint."""
    return all(bool(torch.isfinite(t).all()) for t in model.state_dict().values() if t.is_floating_point())
