"""Verification runs on small images where that proves as much, and on the examples' own size everywhere else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

import compress
from compress.pruning.noise import SMALL, can_be_small
from compress.pruning.surgery import Edits, cut, edits
from compress.pruning.verify import verify

SIZES: list[int] = []
"""Heights of the images that networks ran on; networks are copied, so they share it."""


class Seen(nn.Module):
    """Two convolutions, and between them whatever `middle` makes of the features."""

    def __init__(self, middle: Callable[[Tensor], Tensor] = torch.relu, stride: int = 2) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, stride, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.middle, self.head = middle, nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_meta:
            SIZES.append(x.shape[2])
        return self.head(self.b(self.middle(self.a(x))).relu().mean((2, 3)))


def asks_for_the_size(x: Tensor) -> Tensor:
    return x.sigmoid() if x.shape[-1] > 40 else x.relu()


def fails_when_small(x: Tensor) -> Tensor:
    return x[:, :, 40:].relu()


def decides(x: Tensor) -> Tensor:
    return x * (x.amax((1, 2, 3)) > 0.1)[:, None, None, None]


def branches_on_values(x: Tensor) -> Tensor:
    return x.relu() if x.mean() > -9 else x


def attends_over_positions(x: Tensor) -> Tensor:
    pooled = torch.nn.functional.avg_pool2d(x, 16)  # 16 x 16 pixels of 128 at stride 2 leave 4 x 4; of 64, 2 x 2
    pooled = torch.nn.functional.avg_pool2d(pooled, 2)
    return x * pooled.flatten(2).softmax(2).sum(2)[:, :, None, None]


class Cached(nn.Module):
    """Keeps a grid of the first size it sees, and then fails where it is small."""

    grid: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.grid is None:
            self.grid = torch.ones(1, 1, *x.shape[2:], device=x.device)
        return fails_when_small((x * self.grid).relu())


@pytest.mark.parametrize(
    ("middle", "small", "runs"),
    [
        (torch.relu, True, 2),
        (asks_for_the_size, False, 2),
        (fails_when_small, False, 2),
        (decides, True, 4),
        (branches_on_values, False, 4),
        (attends_over_positions, False, 2),
        (Cached(), False, 2),
    ],
    ids=lambda value: getattr(value, "__name__", str(value) if isinstance(value, int) else type(value).__name__),
)
def test_the_last_runs_are_on(middle: Callable[[Tensor], Tensor], small: bool, runs: int) -> None:
    """Masked and cut network on random weights; where values decide what is computed, on the real ones too."""
    SIZES.clear()
    pruned = compress.prune(Seen(middle), torch.rand(1, 3, 128, 128), ratio=0.5)
    assert pruned.verification is not None and pruned.verification.passed
    assert not [name for name, why in pruned.frozen.items() if why.by == "verification"]
    assert SIZES[-runs:] == [SMALL if small else 128] * runs and SIZES[:-runs] != SIZES[-runs:]


@pytest.mark.parametrize("shape", [(1, 3, 48, 64), (1, 3, 16, 16)])
def test_small_examples_stay_as_they_are(shape: tuple[int, ...]) -> None:
    SIZES.clear()
    compress.prune(Seen(), torch.rand(shape), ratio=0.5)
    assert set(SIZES) == {shape[2]}


@pytest.mark.parametrize("seed", range(20))
def test_a_wrong_selection_is_found_on_small_images_too(seed: int) -> None:
    """In one parameter other channels survive than the plan says; the shapes are right."""
    torch.manual_seed(seed)
    chance = np.random.default_rng(seed)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8)),
        *(nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    ).eval()
    for parameter in model.parameters():
        nn.init.uniform_(parameter, 0.1, 0.5)  # no two alike, and no unit silent
    graph = compress.trace(model, torch.rand(1, 3, 256, 256))
    plan = compress.plan(graph, ratio=0.5)
    right = edits(graph, plan, model)
    name = chance.choice(sorted(name for name in right.select if not name.endswith(("running_mean", "running_var"))))
    by_dim = dict(right.select[name])
    dim = int(chance.choice(sorted(by_dim)))
    size, left = model.get_parameter(name).shape[dim], by_dim[dim]
    by_dim[dim] = np.sort([*left[1:], chance.choice(np.setdiff1d(np.arange(size), left))])
    wrong = dataclasses.replace(right, select={**right.select, name: by_dim})
    for edited in (right, wrong):  # the cut network is not what the edits make of it; or the edits are wrong
        verification, blame = verify(model, cut(model, wrong), graph, plan, edited)
        assert not verification.passed and blame is not None
    verification, blame = verify(model, cut(model, right), graph, plan, right)
    assert verification.passed and blame is None


def swapped(right: Edits, model: nn.Module, chance: np.random.Generator) -> Edits:
    """The same edits, but in one dimension of one parameter two of the surviving channels have changed places."""
    name = str(chance.choice(sorted(name for name in right.select if name in dict(model.named_parameters()))))
    by_dim = dict(right.select[name])
    dim = int(chance.choice(sorted(by_dim)))
    one, other = chance.choice(len(by_dim[dim]), 2, replace=False)
    by_dim[dim] = by_dim[dim].copy()
    by_dim[dim][[one, other]] = by_dim[dim][[other, one]]
    return dataclasses.replace(right, select={**right.select, name: by_dim})


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet18", "regnet_y_400mf"])
def test_small_images_find_as_many_mistakes(monkeypatch: pytest.MonkeyPatch, name: str, ratio: float) -> None:
    """The smallest mistake there is; what hides it is a unit that is silent wherever it is looked at."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    graph = compress.trace(model, torch.rand(1, 3, 224, 224))
    plan = compress.plan(graph, ratio=ratio)
    right = edits(graph, plan, model)
    assert can_be_small(graph)
    found = {}
    for small in (True, False):
        chance = np.random.default_rng(0)
        if not small:
            monkeypatch.setattr("compress.pruning.verify.can_be_small", lambda graph: False)
        wrong = [swapped(right, model, chance) for _ in range(25)]
        found[small] = sum(verify(model, cut(model, each), graph, plan, each)[1] is not None for each in wrong)
    print(name, ratio, found)
    assert found[True] >= 20 and found[True] >= found[False] - 2
