"""How the strength of the penalty changes on the way: each schedule against its definition, on gammas left alone."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from compress_plugins.network_slimming import NetworkSlimming
from compress_plugins.network_slimming.regularizer import SlimmedScales
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn, optim

import compress
from compress import CompressError
from compress.graph.trace import trace

STEPS, LR, MOMENTUM = 40, 0.02, 0.5


def network(gammas: Tensor) -> tuple[nn.Module, nn.BatchNorm2d]:
    norm = nn.BatchNorm2d(len(gammas))
    norm.weight.data.copy_(gammas)
    return nn.Sequential(nn.Conv2d(1, len(gammas), 1), norm, nn.Conv2d(len(gammas), 1, 1)), norm


def idle_step(model: nn.Module, optimizer: optim.Optimizer) -> None:
    """A step of a loss that has no gradient."""
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()


def trained(
    gammas: Tensor, push: float = 0.0, first: int = 0, steps: int = STEPS, momentum: float = MOMENTUM, **options: Any
) -> Tensor:
    """Gamma after the steps, (channels,), from step `first` of STEPS. push: the loss's constant gradient on it."""
    model, norm = network(gammas)
    optimizer = optim.SGD(model.parameters(), LR, momentum)
    attached = NetworkSlimming(**options).attach(trace(model, torch.zeros(1, 1, 4, 4)), model, optimizer, {})
    for step in range(first, first + steps):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        norm.weight.grad = torch.full_like(norm.weight, push)
        attached.begin(step, STEPS)
        optimizer.step()
    return norm.weight.detach().clone()


@settings(max_examples=25, deadline=None)
@given(schedule=st.sampled_from(["constant", "ramp", "decay"]), turn=st.floats(0.1, 0.9), decay=st.floats(0, 0.5))
def test_gamma_loses_what_the_schedule_says(schedule: Any, turn: float, decay: float) -> None:
    strength = 0.3
    at = {
        "constant": lambda done: strength,
        "ramp": lambda done: strength * min(1, done / turn),
        "decay": lambda done: strength * (decay if done >= turn else 1),
    }[schedule]
    expected = 1 - sum(at(step / STEPS) for step in range(STEPS)) * LR / (1 - MOMENTUM)
    gamma = trained(torch.ones(3), strength=strength, schedule=schedule, turn=turn, decay=decay)
    torch.testing.assert_close(gamma, torch.full((3,), expected), atol=1e-5, rtol=0)


def test_the_penalty_decays_for_the_largest_alone() -> None:
    start = torch.tensor([0.9, 2.0, 0.8, 1.9, 0.7])
    gamma = trained(start, strength=0.2, schedule="decay", turn=0.5, decay=0.0, top=0.4)
    whole, half = STEPS * LR * 0.2 / (1 - MOMENTUM), STEPS / 2 * LR * 0.2 / (1 - MOMENTUM)
    expected = start - torch.tensor([whole, half, whole, half, whole])
    torch.testing.assert_close(gamma, expected, atol=1e-5, rtol=0)


@settings(max_examples=25, deadline=None)
@given(
    share=st.floats(0.05, 0.95),
    by=st.floats(0.1, 1.0),
    pace=st.sampled_from([1.0, 5.0]),
    momentum=st.sampled_from([0.0, 0.9]),
    seed=st.integers(0, 1000),
)
def test_auto_brings_the_wanted_share_to_zero_in_time_and_no_more(
    share: float, by: float, pace: float, momentum: float, seed: int
) -> None:
    start = torch.rand(30, generator=torch.Generator().manual_seed(seed)) + 0.1
    steps = int(-(-by * STEPS // 1))
    options = {"strength": "auto", "share": share, "by": by, "pace": pace, "momentum": momentum, "spare": 0}
    gamma = trained(start, steps=steps, **options)
    wanted = int(-(-share * 30 // 1))
    assert int((gamma <= 1e-6).sum()) == wanted
    reached = start.sort().values[wanted - 1]
    torch.testing.assert_close(gamma, (start - reached).clamp(min=0), atol=1e-4, rtol=0)


def test_auto_makes_up_for_a_loss_that_pulls_the_other_way_and_holds_what_it_reached() -> None:
    start = torch.linspace(0.5, 1.5, 20)
    in_time = trained(start, push=-0.3, steps=28, strength="auto", share=0.6, by=0.7)
    assert int((in_time.abs() < 1e-6).sum()) == 12
    later = trained(start, push=-0.3, strength="auto", share=0.6, by=0.7)
    assert int((later.abs() < 1e-6).sum()) == 12
    freely = in_time[12:] + 12 * LR * 0.3 / (1 - MOMENTUM)  # as far as the loss moves them in the last twelve steps
    torch.testing.assert_close(later[12:], freely, atol=1e-3, rtol=0)


def test_auto_goes_on_after_a_kill_with_nothing_but_the_weights() -> None:
    start = torch.linspace(0.5, 1.5, 20)
    options: dict[str, Any] = {"strength": "auto", "share": 0.6, "by": 0.7, "momentum": 0.0}
    whole = trained(start, **options)
    half = trained(start, steps=17, **options)
    assert torch.equal(trained(half, first=17, steps=STEPS - 17, **options), whole)


def test_auto_arrives_also_where_the_learning_rate_has_fallen_to_zero() -> None:
    model, norm = network(torch.ones(4))
    optimizer = optim.SGD(model.parameters(), 0.0)
    graph = trace(model, torch.zeros(1, 1, 4, 4))
    attached = NetworkSlimming(strength="auto", spare=0).attach(graph, model, optimizer, {})
    assert isinstance(attached, SlimmedScales)
    for step in range(10):
        attached.begin(step, 10)
        idle_step(model, optimizer)
    assert int((norm.weight == 0).sum()) == 4 and torch.isfinite(norm.bias).all()


class Residual(nn.Module):
    """A stream that three norms scale, and a layer inside a branch that one norm scales."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12))
        self.inner = nn.Sequential(nn.Conv2d(12, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU())
        self.outer = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12))
        self.last = nn.Sequential(nn.Conv2d(12, 12, 1), nn.BatchNorm2d(12))
        self.head = nn.Conv2d(12, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.outer(self.inner(x))
        return self.head(torch.relu(x + self.last(x)))

    @property
    def stream(self) -> Tensor:
        """The gammas of each channel of the stream, (3, 12)."""
        return torch.stack([self.stem[1].weight, self.outer[1].weight, self.last[1].weight]).detach()


def residual(seed: int) -> Residual:
    torch.manual_seed(seed)
    model = Residual()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.1, 1.5), nn.init.normal_(norm.bias), nn.init.normal_(norm.running_mean)
    return model


def slimmed(model: nn.Module, steps: int, **options: Any) -> None:
    optimizer = optim.SGD(model.parameters(), LR)
    graph = trace(model, torch.zeros(1, 3, 8, 8))
    attached = NetworkSlimming(**options).attach(graph, model, optimizer, {})
    for step in range(steps):
        attached.begin(step, steps)
        idle_step(model, optimizer)


def test_channels_that_are_cut_together_shrink_together() -> None:
    """Each step takes lr * strength off the root mean square of a channel's gammas, in proportion."""
    model = residual(0)
    before, alone = model.stream, model.inner[1].weight.detach().clone()
    slimmed(model, 10, strength=4.0)
    size = before.square().mean(0).sqrt()
    expected = before * ((size - 10 * LR * 4.0).clamp(min=0) / size)
    assert 0 < int((expected == 0).all(0).sum()) < 12
    torch.testing.assert_close(model.stream, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.inner[1].weight.detach(), (alone - 10 * LR * 4.0).clamp(min=0), atol=1e-5, rtol=0)


def test_every_gamma_shrinks_by_itself_where_that_is_asked_for() -> None:
    model = residual(0)
    before = [norm.weight.detach().clone() for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)]
    slimmed(model, 10, strength=4.0, together=False)
    after = [norm.weight.detach() for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)]
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, (old - 10 * LR * 4.0).clamp(min=0), atol=1e-5, rtol=0)
    model = residual(0)
    slimmed(model, 20, strength="auto", share=0.5, by=0.8, spare=2, together=False)
    gammas = [norm.weight for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)]
    assert sum(int((g == 0).sum()) for g in gammas) == 22 and all(int((g != 0).sum()) >= 2 for g in gammas)


@pytest.mark.parametrize("seed", range(3))
def test_what_auto_brought_to_zero_is_cut_without_any_loss(seed: int) -> None:
    """The sparse network and the cut one compute the same, before any fine-tuning, residual streams included."""
    model = residual(seed)
    slimmed(model, 20, strength="auto", share=0.5, by=0.8, spare=2)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    cut = compress.prune(model.eval(), x, "bn-gamma", 0.5, scope="global", compensate="fold-exact")
    assert cut.after.params < 0.6 * cut.before.params
    with torch.no_grad():
        torch.testing.assert_close(cut.model(x), model(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("share", "spare"), [(0.5, 0), (0.5, 3), (0.9, 5), (0.9, 20)])
def test_auto_spares_the_largest_of_each_group(share: float, spare: int, caplog: pytest.LogCaptureFixture) -> None:
    model = residual(1)
    stream, inner = model.stream.square().mean(0).sqrt(), model.inner[1].weight.detach().clone()
    with caplog.at_level(logging.WARNING, "compress"):
        slimmed(model, 20, strength="auto", share=share, by=0.8, spare=spare)
    gone = [(model.stream == 0).all(0), model.inner[1].weight == 0]
    able = max(0, 12 - spare) + max(0, 8 - spare)
    assert sum(int(each.sum()) for each in gone) == min(int(share * 20), able)
    assert ("are spared" in caplog.text) == (able < share * 20)
    for sizes, zero in zip((stream, inner), gone, strict=True):
        assert not zero[sizes.argsort(descending=True)[:spare]].any()


def test_mistakes_are_said() -> None:
    with pytest.raises(CompressError, match="auto needs mode: proximal"):
        NetworkSlimming(strength="auto", mode="subgradient")
    with pytest.raises(CompressError, match="leave out schedule: ramp"):
        NetworkSlimming(strength="auto", schedule="ramp")


@pytest.mark.parametrize(
    ("optimizer", "void"), [(optim.Adam, True), (optim.AdamW, True), (optim.RMSprop, True), (optim.SGD, False)]
)
def test_the_published_penalty_warns_where_it_is_void(
    optimizer: Any, void: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Under Adam the sub-gradient moves gamma by about lr a step whatever the strength is, and the log says so."""
    ends = []
    for strength in (0.001, 0.1):
        model, norm = network(torch.ones(3))
        made = optimizer(model.parameters(), lr=0.001)
        graph = trace(model, torch.zeros(1, 1, 4, 4))
        with caplog.at_level(logging.WARNING, "compress"):
            NetworkSlimming(mode="subgradient", strength=strength).attach(graph, model, made, {})
        for _ in range(20):
            idle_step(model, made)
        ends.append(1 - norm.weight.detach().mean().item())
    assert (f"mode subgradient is void under {optimizer.__name__}" in caplog.text) is void
    assert (ends[1] < 2 * ends[0]) is void
