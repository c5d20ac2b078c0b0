"""Training settings in; optimizer, and the learning rate of every step, out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import nn, optim

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)


@dataclass(kw_only=True, eq=False)
class Settings:
    """How a network is trained. Every training stage of a recipe has these options.

    epochs: how often every training image is seen. batch_size: images a step learns from, those of all processes
    together. accumulate: parts in which a batch passes the network one after the other, to need less memory; the step
    takes the mean of their gradients. optimizer: `sgd` with momentum, `nesterov` (the same with Nesterov's momentum),
    or `adamw`, which learns more in few steps. lr: the peak learning rate. momentum: of SGD, or beta1 of AdamW.
    weight_decay: on the weights of convolutions and linear layers, never on norms or biases. warmup: epochs of linear
    warm-up. schedule: how the rate falls: by `cosine` or `linear` to `final_lr` times the peak, by a `step` at each
    milestone, or not at all (`constant`). final_lr: the last learning rate, as a fraction of the peak. milestones: the
    fractions of the epochs after which the rate is multiplied by `drop`. drop: see milestones. ema: decay of a moving
    average of the weights, e.g. 0.9998; the average is what is validated and left to later stages; null for none.
    clip: the largest norm of the whole gradient, null for none. precision: as Lightning Fabric names it.
    channels_last: keep images and weights in that memory format, faster on most hardware. compile: translate the
    network with `torch.compile` first; worth it for long trainings, and needs a C++ compiler on a CPU. validate_every:
    epochs between two validations, 0 for none. patience: end the training after so many epochs without a better
    headline metric, null for never. keep: leave the network as it is at the end (`last`) or as it was after the best
    validation (`best`), whose metric is then the best of several and a little flattered. checkpoint_seconds: at most
    between two checkpoints; the end of an epoch makes one as well where a tenth of them has passed.
    """

    epochs: Annotated[int, Field(ge=1)] = 100
    batch_size: Annotated[int, Field(ge=1)] = 16
    accumulate: Annotated[int, Field(ge=1)] = 1
    optimizer: Literal["sgd", "nesterov", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    warmup: Annotated[float, Field(ge=0)] = 1.0
    schedule: Literal["cosine", "linear", "step", "constant"] = "cosine"
    final_lr: Annotated[float, Field(ge=0, le=1)] = 0.05
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5, 0.75)
    drop: Annotated[float, Field(gt=0, lt=1)] = 0.1
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    clip: Annotated[float, Field(gt=0)] | None = 10.0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    channels_last: bool = True
    compile: bool = False
    validate_every: Annotated[int, Field(ge=0)] = 0
    patience: Annotated[int, Field(ge=1)] | None = None
    keep: Literal["last", "best"] = "last"
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 60.0


def decayed(model: nn.Module) -> dict[str, bool]:
    """Parameter name -> whether weight decay pulls on it: everything but norms and what has one dimension."""
    norms = {id(p) for m in model.modules() if isinstance(m, NORMS) for p in m.parameters(recurse=False)}
    return {name: p.ndim > 1 and id(p) not in norms for name, p in model.named_parameters()}


def build_optimizer(model: nn.Module, settings: Settings) -> optim.Optimizer:
    """An optimizer over the parameters that want gradients: one group that decays, one that does not.

    Fused into one kernel, except in 16-mixed: there Fabric does not clip the gradients of an optimizer that unscales
    them itself.
    """
    decays = decayed(model)
    learned = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in learned if decays[name]], "weight_decay": settings.weight_decay},
        {"params": [p for name, p in learned if not decays[name]], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    fused = settings.precision != "16-mixed"
    if settings.optimizer == "adamw":
        return optim.AdamW(groups, lr=settings.lr, betas=(settings.momentum, 0.999), fused=fused)
    nesterov = settings.optimizer == "nesterov"
    return optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=nesterov, fused=fused)


def learning_rate(settings: Settings, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step (counted from 0): a linear rise, then the schedule.

    Cosine: SGDR (Loshchilov & Hutter, 2017, eq. 5) without restarts; warm-up: Goyal et al. (2017), section 2.2.
    """
    total = settings.epochs * steps_per_epoch
    rise = min(round(settings.warmup * steps_per_epoch), total - 1)
    if step < rise:
        return settings.lr * (step + 1) / (rise + 1)
    if settings.schedule == "constant":
        return settings.lr
    if settings.schedule == "step":
        return settings.lr * settings.drop ** sum(step >= milestone * total for milestone in settings.milestones)
    done = (step - rise) / max(1, total - 1 - rise)
    left = (1 + math.cos(math.pi * done)) / 2 if settings.schedule == "cosine" else 1 - done
    return settings.lr * (settings.final_lr + (1 - settings.final_lr) * left)
