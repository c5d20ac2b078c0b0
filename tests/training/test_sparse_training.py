"""Sparse training in the loop: whatever the trainer does around it, gamma follows the closed form of its penalty."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from together import Idle, job, shrinking
from torch import Tensor, nn

from compress.training.loop import Job, train
from compress.training.optim import learning_rate

STRENGTH = 0.3


class Busy(Idle):
    """As Idle, but with a large gradient on the last layer's bias, so that there is something to clip."""

    name = "busy"

    def loss(self, model: nn.Module, images: Tensor, targets: Any) -> dict[str, Tensor]:
        bias = next(p for name, p in model.named_parameters() if name.endswith("head.bias"))
        return {"loss": super().loss(model, images, targets)["loss"] + 100 * bias.sum()}


def idle(folder: Path, **settings: Any) -> Job:
    return replace(job(folder, "sparse", **settings), task=Busy(), attach=shrinking(STRENGTH))


def closed_form(given: Job) -> np.ndarray:
    """Gamma after every step from 0 on, (steps + 1,): it starts at 1 and loses lr_t * strength / (1 - momentum)."""
    settings = given.settings
    amplified = 1.0 if settings.optimizer == "adamw" else 1 - settings.momentum
    rates = [learning_rate(settings, step, 5) for step in range(5 * settings.epochs)]
    return np.maximum(1 - np.cumsum([0.0, *rates]) * STRENGTH / amplified, 0)


def gammas(model: nn.Module) -> list[Tensor]:
    found = [p.detach() for name, p in model.named_parameters() if name.endswith("1.weight")]
    assert len(found) == 3
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd"},
        {"optimizer": "nesterov"},
        {"optimizer": "sgd", "momentum": 0.0, "lr": 0.2},
        {"optimizer": "adamw", "lr": 0.2},
        {"accumulate": 4},
        {"precision": "bf16-mixed"},
        {"clip": 1e-3},
        {"clip": None},
        {"schedule": "step", "warmup": 0.0},
    ],
    ids=lambda settings: " ".join(f"{k}={v}" for k, v in settings.items()),
)
def test_gamma_follows_the_closed_form(tmp_path: Path, settings: dict[str, Any]) -> None:
    given = idle(tmp_path, **{"momentum": 0.8, **settings})
    expected = closed_form(given)[-1]
    assert 0.05 < expected < 0.95
    for gamma in gammas(train(given)):
        torch.testing.assert_close(gamma, torch.full_like(gamma, float(expected)), atol=1e-5, rtol=0)


def test_the_average_follows_the_average_of_the_closed_form(tmp_path: Path) -> None:
    given = idle(tmp_path, ema=0.4, momentum=0.8)
    average, *later = closed_form(given)
    for step, gamma in enumerate(later, start=1):
        keep = min(0.4, (1 + step) / (10 + step))
        average = keep * average + (1 - keep) * gamma
    assert abs(average - later[-1]) > 0.005
    for gamma in gammas(train(given)):
        torch.testing.assert_close(gamma, torch.full_like(gamma, float(average)), atol=1e-5, rtol=0)


def test_it_reaches_exact_zeros(tmp_path: Path) -> None:
    given = idle(tmp_path, momentum=0.9, epochs=4)
    assert closed_form(given)[-1] == 0
    assert all(bool((gamma == 0).all()) for gamma in gammas(train(given)))
