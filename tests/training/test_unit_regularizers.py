"""Regularizers of whole units, group lasso and growing, against their closed forms and a sum by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn, optim

from compress import CompressError
from compress.graph.graph import DependencyGraph
from compress.graph.trace import trace
from compress.testing import small_network
from compress.training.group_lasso import GroupLasso
from compress.training.growing import Growing
from compress.training.units import find_units


class Chain(nn.Module):
    """Two convolutions; only the channels between them may be cut, so no weight belongs to two units."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, bias=not norm)
        self.norm = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.last = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)).relu())


def chain(norm: bool) -> tuple[nn.Module, DependencyGraph]:
    torch.manual_seed(0)
    model = Chain(norm)
    return model, trace(model, torch.zeros(1, 3, 8, 8))


def by_hand(model: nn.Module) -> list[list[Tensor]]:
    """All weights of each of the six units of a Chain."""
    parameters = dict(model.named_parameters())
    vectors = [p for name, p in parameters.items() if name in ("first.bias", "norm.weight", "norm.bias")]
    first, last = parameters["first.weight"], parameters["last.weight"]
    return [[first[i], last[:, i], *(vector[i] for vector in vectors)] for i in range(6)]


def norms(model: nn.Module) -> Tensor:
    return torch.stack([torch.cat([w.detach().flatten() for w in unit]).norm() for unit in by_hand(model)])


def idle(model: nn.Module, optimizer: optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_group_lasso_takes_the_same_off_every_units_norm(norm: bool, momentum: float) -> None:
    """||w_u|| after n steps is max(||w_u|| - n lr s sqrt(p_u) / (1 - momentum), 0), in the same direction."""
    model, graph = chain(norm)
    before, weights = norms(model), torch.cat([w.detach().flatten() for w in by_hand(model)[0]])
    size = 27 + 2 + (2 if norm else 1)
    strength = (1 - momentum) * 0.6 * float(before.median()) / size**0.5
    optimizer = optim.SGD(model.parameters(), 0.1, momentum)
    attached = GroupLasso(strength=strength).attach(graph, model, optimizer, {})
    idle(model, optimizer, 5)
    expected = before - 5 * 0.1 * strength * size**0.5 / (1 - momentum)
    torch.testing.assert_close(norms(model), expected, rtol=1e-4, atol=1e-5)
    (relative,) = attached.watched().values()
    torch.testing.assert_close(relative, expected / before, rtol=1e-4, atol=1e-5)
    now = torch.cat([w.detach().flatten() for w in by_hand(model)[0]])
    torch.testing.assert_close(now / now.norm(), weights / weights.norm(), rtol=1e-4, atol=1e-5)
    idle(model, optimizer, 40)
    assert not norms(model).any()
    attached.detach()


def test_a_weight_of_two_units_is_scaled_by_both() -> None:
    """The network of the conformance kit: concatenation, shortcut and shared weights, one step by hand."""
    model, example = small_network()
    graph = trace(model, example)
    optimizer = optim.SGD(model.parameters(), 0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    units = find_units(graph, model, optimizer, {})
    sizes = {name: torch.zeros_like(p) for name, p in before.items()}
    factor = {name: torch.ones_like(p) for name, p in before.items()}
    for group in graph.groups:
        if group.frozen:
            continue
        for unit in range(group.size):
            mine: list[tuple[str, int, int]] = []
            for member in group.members:
                if not member.buffer:
                    mine += [(member.name, member.dim, int(i)) for i in member.index[member.unit == unit]]
            weights = torch.cat([before[name].select(dim, i).flatten() for name, dim, i in mine])
            left = max(0.0, 1 - 0.1 * 0.2 * len(weights) ** 0.5 / float(weights.norm()))
            for name, dim, i in mine:
                factor[name].select(dim, i).mul_(left)
                sizes[name].select(dim, i).add_(1)
    GroupLasso(strength=0.2).attach(graph, model, optimizer, {})
    idle(model, optimizer, 1)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] * factor[name], rtol=1e-4, atol=1e-6)
    assert max(int(count.max()) for count in sizes.values()) == 2
    assert units.count == sum(group.size for group in graph.groups if not group.frozen)


@pytest.mark.parametrize("norm", [True, False])
def test_growing_decays_the_smallest_ever_faster_and_nothing_else(norm: bool) -> None:
    """Chosen weights: the product over steps of 1 - lr lambda_t, lambda_t = s min(1, t / (rise steps))."""
    model, graph = chain(norm)
    before = norms(model)
    sums = torch.stack([torch.stack([w.detach().abs().sum() for w in unit]).sum() for unit in by_hand(model)])
    smallest = sums.argsort()[:2]
    optimizer = optim.SGD(model.parameters(), 0.1)
    attached = Growing(strength=2.0, ratio=1 / 3, rise=0.5).attach(graph, model, optimizer, {})
    left = 1.0
    for step in range(10):
        attached.begin(step, 10)
        idle(model, optimizer, 1)
        left *= 1 - 0.1 * 2.0 * min(1.0, step / 5)
    expected = before.clone()
    expected[smallest] *= left
    torch.testing.assert_close(norms(model), expected, rtol=1e-4, atol=1e-6)
    assert left < 0.5


def test_what_a_policy_keeps_and_what_the_optimizer_does_not_hold_stay() -> None:
    model, graph = chain(True)
    optimizer = optim.SGD([p for n, p in model.named_parameters() if not n.startswith("last")], 0.1)
    last = model.last.weight.detach().clone()
    GroupLasso(strength=1.0).attach(graph, model, optimizer, {})
    idle(model, optimizer, 3)
    assert torch.equal(model.last.weight.detach(), last) and model.norm.weight.detach().max() < 1
    for regularizer in (GroupLasso(), Growing()):
        with pytest.raises(CompressError, match="nothing to shrink"):
            regularizer.attach(graph, model, optimizer, {group.name: "kept" for group in graph.groups})


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_scaler_skips_shrinks_nothing(fused: bool) -> None:
    model, graph = chain(True)
    optimizer = optim.SGD(model.parameters(), 0.1, fused=fused)
    GroupLasso(strength=0.2).attach(graph, model, optimizer, {})
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    seen = [norms(model)]
    for factor in (0.0, float("inf"), 0.0):
        optimizer.zero_grad()
        scaler.scale(sum(p.sum() for p in model.parameters()) * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        seen.append(norms(model))
    assert (seen[1] < seen[0]).all() and torch.equal(seen[2], seen[1]) and (seen[3] < seen[2]).all()
