"""Sparsity on norm scales against the closed forms of its two modes, where the loss itself has no gradient."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import pytest
import torch
from compress_plugins.network_slimming import BNGamma, NetworkSlimming
from torch import Tensor, nn, optim

from compress import CompressError, GroupPolicy, Part, Sparsifier
from compress.graph.graph import DependencyGraph
from compress.graph.trace import trace
from compress.training.sparsifier import Mode


class Branches(nn.Module):
    """Two branches meet in a concatenation that a norm scales; `c` is added to an output, so it stays whole."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.a_norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 6, 3, padding=1)
        self.c = nn.Conv2d(4, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(11)
        self.last = nn.Conv2d(11, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.a_norm(self.a(x)).relu()
        b, c = self.b(x), self.c(x)
        return self.last(self.norm(torch.cat((b, c), 1)).relu()), c


Traced = tuple[DependencyGraph, Any]


@pytest.fixture
def branches() -> Traced:
    model = Branches()
    return trace(model, torch.zeros(1, 3, 8, 8)), model


def idle(model: nn.Module, optimizer: optim.Optimizer, steps: int) -> None:
    """Steps of a loss that has no gradient."""
    for _ in range(steps):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()


@pytest.mark.parametrize(
    ("momentum", "dampening", "nesterov"), [(0.9, 0, False), (0.9, 0, True), (0.8, 0.5, False), (0, 0, False)]
)
@pytest.mark.parametrize("steps", [7, 60, 210])
def test_proximal_closed_form(branches: Traced, momentum: float, dampening: float, nesterov: bool, steps: int) -> None:
    """gamma_n = max(1 - n lr s (1 - dampening) / (1 - momentum), 0), exact zeros at the end, nothing else moves."""
    graph, model = branches
    lr, strength = 0.02, 0.1 if momentum else 1.0
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = optim.SGD(model.parameters(), lr, momentum, dampening, nesterov=nesterov)
    sparsifier = Sparsifier(graph, optimizer, strength)
    idle(model, optimizer, steps)
    expected = max(1 - steps * lr * strength * (1 - dampening) / (1 - momentum), 0)
    watched = sparsifier.watched()
    assert {name: len(v) for name, v in watched.items()} == {"a_norm.weight": 4, "norm.weight": 6}
    for gamma in watched.values():
        torch.testing.assert_close(gamma, torch.full_like(gamma, expected), atol=1e-5, rtol=0)
        assert expected > 0 or (gamma == 0).all()
    for name, p in model.named_parameters():
        if name == "norm.weight":  # its last five channels are c's, and c is an output
            assert torch.equal(p[6:], torch.ones(5))
        elif name != "a_norm.weight":
            assert torch.equal(p, before[name])


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("steps", [1, 5, 60])
def test_subgradient_closed_form(branches: Traced, momentum: float, steps: int) -> None:
    """gamma_n = 1 - lr s sum_{t=1..n} (1 - m^t) / (1 - m): the published penalty through SGD's momentum."""
    graph, model = branches
    lr, strength = 0.01, 0.1
    optimizer = optim.SGD(model.parameters(), lr, momentum)
    sparsifier = Sparsifier(graph, optimizer, strength, mode="subgradient")
    idle(model, optimizer, steps)
    moved = lr * strength / (1 - momentum) * (steps - momentum * (1 - momentum**steps) / (1 - momentum))
    for gamma in sparsifier.watched().values():
        torch.testing.assert_close(gamma, torch.full_like(gamma, 1 - moved), atol=1e-5, rtol=0)
    assert torch.equal(model.norm.weight[6:], torch.ones(5))


def test_both_modes_are_equally_fast() -> None:
    """The published setting (s = 0.01, lr = 1e-3, momentum 0.9): an idle gamma loses 1e-4 a step."""
    speeds = []
    modes: tuple[Mode, ...] = ("proximal", "subgradient")
    for mode in modes:
        gamma = nn.BatchNorm2d(4)
        model = nn.Sequential(nn.Conv2d(1, 4, 1), gamma, nn.Conv2d(4, 1, 1))
        optimizer = optim.SGD(model.parameters(), 1e-3, 0.9)
        Sparsifier(trace(model, torch.zeros(1, 1, 4, 4)), optimizer, 0.01, mode=mode)
        idle(model, optimizer, 500)
        start = gamma.weight.detach().clone()
        idle(model, optimizer, 500)
        speeds.append((start - gamma.weight.detach()).mean().item() / 500)
    assert speeds == [pytest.approx(1e-4, rel=1e-2)] * 2


@pytest.mark.parametrize("optimizer_class", [optim.AdamW, optim.Adam, optim.RMSprop])
def test_adaptive_optimizers_shrink_by_lr_times_strength(branches: Traced, optimizer_class: Any) -> None:
    graph, model = branches
    optimizer = optimizer_class(model.parameters(), lr=0.01, weight_decay=0.0)
    sparsifier = Sparsifier(graph, optimizer, 0.5)
    idle(model, optimizer, 20)
    for gamma in sparsifier.watched().values():
        torch.testing.assert_close(gamma, torch.full_like(gamma, 1 - 20 * 0.01 * 0.5), atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["proximal", "subgradient"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_pace_is_a_larger_learning_rate_for_the_scales_alone(branches: Traced, mode: Mode, momentum: float) -> None:
    """With a gradient of 0.3 on everything: the scales go as with ten times the learning rate, the rest as without."""
    ends = []
    for lr, pace in ((0.001, 10.0), (0.01, 1.0), (0.001, 1.0)):
        model = Branches()
        graph = trace(model, torch.zeros(1, 3, 8, 8))
        optimizer = optim.SGD(model.parameters(), lr, momentum)
        Sparsifier(graph, optimizer, 0.5, mode=mode, pace=pace)
        for _ in range(15):
            for p in model.parameters():
                p.grad = torch.full_like(p, 0.3)
            optimizer.step()
        ends.append((model.a_norm.weight.detach(), model.norm.weight.detach()[6:]))
    paced, fast, slow = ends
    torch.testing.assert_close(paced[0], fast[0])
    torch.testing.assert_close(paced[1], slow[1])
    assert not torch.allclose(paced[0], slow[0])


def test_the_learning_rate_of_each_step_counts_also_after_loading_state(branches: Traced) -> None:
    graph, model = branches
    optimizer = optim.SGD(model.parameters(), 0.01, momentum=0.9)
    sparsifier = Sparsifier(graph, optimizer, 0.1)
    idle(model, optimizer, 10)
    optimizer.load_state_dict(optimizer.state_dict())  # replaces the parameter groups
    optimizer.param_groups[0]["lr"] = 0.03
    idle(model, optimizer, 10)
    expected = 1 - (10 * 0.01 + 10 * 0.03) * 0.1 / (1 - 0.9)
    for gamma in sparsifier.watched().values():
        torch.testing.assert_close(gamma, torch.full_like(gamma, expected), atol=1e-5, rtol=0)
    sparsifier.detach()
    idle(model, optimizer, 1)
    assert sparsifier.watched()["a_norm.weight"][0].item() == pytest.approx(expected, abs=1e-5)


def test_weight_decay_acts_once_before_the_threshold_and_is_said(
    branches: Traced, caplog: pytest.LogCaptureFixture
) -> None:
    graph, model = branches
    lr, decay, strength = 0.1, 0.2, 0.3
    optimizer = optim.SGD(model.parameters(), lr, weight_decay=decay)
    with caplog.at_level(logging.WARNING, "compress"):
        Sparsifier(graph, optimizer, strength)
    assert "2 scales have a weight decay beside the sparsity" in caplog.text
    expected = 1.0
    for _ in range(5):
        expected = expected * (1 - lr * decay) - lr * strength
    idle(model, optimizer, 5)
    torch.testing.assert_close(model.a_norm.weight.detach(), torch.full((4,), expected))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("mode", ["proximal", "subgradient"])
def test_a_gradient_scaler_neither_scales_the_penalty_nor_shrinks_in_skipped_steps(
    branches: Traced, mode: Mode, fused: bool
) -> None:
    graph, model = branches
    optimizer = optim.SGD(model.parameters(), 0.1, fused=fused)
    Sparsifier(graph, optimizer, 0.5, mode=mode)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for factor, expected in ((0.0, 0.95), (float("inf"), 0.95), (0.0, 0.90)):
        optimizer.zero_grad()
        scaler.scale(sum(p.sum() for p in model.parameters()) * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        torch.testing.assert_close(model.a_norm.weight.detach(), torch.full((4,), expected))


def test_signs_are_kept_and_zero_is_not_crossed(branches: Traced) -> None:
    graph, model = branches
    with torch.no_grad():
        model.a_norm.weight.copy_(torch.tensor([0.5, -0.5, 0.004, -0.004]))
    optimizer = optim.SGD(model.parameters(), 0.1)
    Sparsifier(graph, optimizer, 0.1)
    idle(model, optimizer, 1)
    torch.testing.assert_close(model.a_norm.weight.detach(), torch.tensor([0.49, -0.49, 0.0, 0.0]))


class Keep(GroupPolicy):
    name = "keep-a"

    def freeze(self, graph: DependencyGraph, model: nn.Module) -> dict[str, str]:
        return {"a": "a test"}


def test_a_policy_and_the_plugin_shrink_the_same_scales(branches: Traced) -> None:
    """Sparsifier(policy) and the regularizer given that policy's groups are one implementation."""
    graph, model = branches
    assert list(Sparsifier(graph, optim.SGD(model.parameters(), 0.1), policy=Keep()).watched()) == ["norm.weight"]
    attached = NetworkSlimming(strength=0.2, mode="proximal").attach(
        graph, model, optimizer := optim.SGD(model.parameters(), 0.1), {"a": "a test"}
    )
    idle(model, optimizer, 1)
    assert torch.equal(model.a_norm.weight.detach(), torch.ones(4))
    torch.testing.assert_close(attached.watched()["norm.weight"], torch.full((6,), 0.98))
    attached.detach()


def test_mistakes_are_said(branches: Traced) -> None:
    graph, model = branches
    optimizer = optim.SGD(model.parameters(), 0.1)
    with pytest.raises(CompressError, match="0 or more"):
        Sparsifier(graph, optimizer, -1)
    with pytest.raises(CompressError, match="mode 'l2' is unknown"):
        Sparsifier(graph, optimizer, mode="l2")  # type: ignore[arg-type]
    with pytest.raises(CompressError, match="trace the same model"):
        Sparsifier(graph, optim.SGD(Branches().parameters(), 0.1))
    with pytest.raises(CompressError, match="nothing to shrink"):
        Sparsifier(graph, optimizer, frozen={group.name: "all" for group in graph.groups})


def test_bn_gamma_scores_batchnorm_weights_only(branches: Traced) -> None:
    _, model = branches
    with torch.no_grad():
        model.a_norm.weight.copy_(torch.tensor([0.5, -2.0, 0.0, 1.0]))
    score = BNGamma().score
    gamma = score(Part(model.a_norm.weight, 0, "a_norm.weight", model.a_norm, "norm"))
    assert gamma is not None
    assert gamma.tolist() == [0.5, 2.0, 0.0, 1.0]
    others = itertools.chain(model.a.named_parameters("a"), [("a_norm.bias", model.a_norm.bias)])
    assert all(score(Part(p, 0, name, model.get_submodule(name.split(".")[0]), "out")) is None for name, p in others)
    layer_norm = nn.LayerNorm(4)
    assert score(Part(layer_norm.weight, 0, "n.weight", layer_norm, "norm")) is None
