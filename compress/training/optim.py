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

    epochs: how often every training image is seen. batch_size: images a step. optimizer: `sgd` with momentum, or
    `adamw`, which learns more in few steps. lr: the peak learning rate. momentum: of SGD, or beta1 of AdamW.
    weight_decay: on the weights of convolutions and linear layers, never on norms or biases. warmup: epochs of linear
    warm-up. schedule: how the rate falls from the peak to `final_lr` times the peak. final_lr: the last learning rate,
    as a fraction of the peak. clip: the largest norm of the whole gradient, null for none. precision: of the
    arithmetic, as Lightning Fabric names it. channels_last: keep images and weights in that memory format, faster on
    most hardware. validate_every: epochs between two validations, 0 for none. checkpoint_seconds: at most between two
    checkpoints; the end of an epoch makes one as well where a tenth of them has passed.
    """

    epochs: Annotated[int, Field(ge=1)] = 100
    batch_size: Annotated[int, Field(ge=1)] = 16
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    warmup: Annotated[float, Field(ge=0)] = 1.0
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    final_lr: Annotated[float, Field(ge=0, le=1)] = 0.05
    clip: Annotated[float, Field(gt=0)] | None = 10.0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    channels_last: bool = True
    validate_every: Annotated[int, Field(ge=0)] = 0
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 60.0


def decayed(model: nn.Module) -> dict[str, bool]:
    """Parameter name -> whether weight decay pulls on it: everything but norms and what has one dimension."""
    norms = {id(p) for m in model.modules() if isinstance(m, NORMS) for p in m.parameters(recurse=False)}
    return {name: p.ndim > 1 and id(p) not in norms for name, p in model.named_parameters()}


def build_optimizer(model: nn.Module, settings: Settings) -> optim.Optimizer:
    """An optimizer over the parameters that want gradients: one group that decays, one that does not."""
    decays = decayed(model)
    learned = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in learned if decays[name]], "weight_decay": settings.weight_decay},
        {"params": [p for name, p in learned if not decays[name]], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)
    return optim.AdamW(groups, lr=settings.lr, betas=(settings.momentum, 0.999))


def learning_rate(settings: Settings, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step (counted from 0): a linear rise, then the schedule down to lr * final_lr.

    Cosine: SGDR (Loshchilov & Hutter, 2017, eq. 5) without restarts; warm-up: Goyal et al. (2017), section 2.2.
    """
    total = settings.epochs * steps_per_epoch
    rise = min(round(settings.warmup * steps_per_epoch), total - 1)
    if step < rise:
        return settings.lr * (step + 1) / (rise + 1)
    if settings.schedule == "constant":
        return settings.lr
    done = (step - rise) / max(1, total - 1 - rise)
    left = (1 + math.cos(math.pi * done)) / 2 if settings.schedule == "cosine" else 1 - done
    return settings.lr * (settings.final_lr + (1 - settings.final_lr) * left)
