"""Budgets, minimums, rounding and ratios of groups' own on random networks: what was asked is what comes out."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
import torch
from fvcore.nn import ActivationCountAnalysis
from networks import RandomNetwork
from torch import nn

import compress
from compress import CompressError
from compress.pruning.resources import meter
from compress.pruning.structure import alike


def traced(seed: int):
    torch.manual_seed(seed)
    model = RandomNetwork(seed, depth=1).eval()
    return model, compress.trace(model, model.inputs())


def taken(model: nn.Module, graph, what: str, alive: np.ndarray) -> float:
    return meter(graph, what, model)(alive)


@pytest.mark.parametrize("seed", range(5000, 5012))
def test_every_budget_is_met_and_the_last_unit_was_needed(seed):
    model, graph = traced(seed)
    rng = random.Random(seed)
    names = rng.sample(["macs", "params", "bytes", "activations"], rng.randint(1, 3))
    keep = {name: rng.uniform(0.3, 0.95) for name in names}
    scope = rng.choice(["local", "global", "isomorphic"])
    dense = {name: taken(model, graph, name, graph.alive()) for name in names}
    try:
        plan = compress.plan(graph, "l1", keep=keep, scope=scope)
    except CompressError as error:
        assert "cannot be met: at least" in str(error) or "nothing may be cut" in str(error)
        return
    alive = graph.alive(plan)
    assert all(taken(model, graph, name, alive) <= keep[name] * dense[name] for name in names)
    closer = []
    for name, units in plan.removed.items():  # give one unit back, with all that is linked to it: some budget breaks
        for unit in units:
            back = alive.copy()
            back[graph.start(name) + unit] = True
            linked = any(unit in slot for link in graph[name].links for n, slot in link.slots if n == name)
            closer.append(linked or any(taken(model, graph, n, back) > keep[n] * dense[n] for n in names))
    assert not closer or any(closer)


@pytest.mark.parametrize("seed", range(5100, 5106))
def test_bytes_are_those_of_the_cut_networks_tensors(seed):
    model, graph = traced(seed)
    plan = compress.plan(graph, "random", ratio=0.4)
    cut = compress.apply(model, graph, plan, verify=False)
    tensors = {t.data_ptr(): t for t in (*cut.model.parameters(), *cut.model.buffers()) if t.numel()}
    expected = sum(t.numel() * t.element_size() for t in tensors.values())
    assert taken(model, graph, "bytes", graph.alive(cut.plan)) == expected


class Plain(nn.Module):
    """Convolutions, a depthwise one and a linear layer: what fvcore counts as well."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, groups=8)
        self.c, self.fc = nn.Conv2d(8, 12, 1), nn.Linear(12, 5)

    def forward(self, x):
        return self.fc(self.c(self.b(self.a(x).relu()).relu()).mean((2, 3)))


def test_activations_are_those_that_fvcore_counts():
    model, x = Plain().eval(), torch.rand(2, 3, 9, 9)
    graph = compress.trace(model, x)
    plan = compress.plan(graph, "random", ratio=0.5)
    cut = compress.apply(model, graph, plan)
    for net, alive in ((model, graph.alive()), (cut.model, graph.alive(plan))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            counted = ActivationCountAnalysis(net, x).unsupported_ops_warnings(False).total()
        assert taken(model, graph, "activations", alive) == counted


@pytest.mark.parametrize("seed", range(5200, 5210))
def test_minimums_maximums_and_own_ratios_hold(seed):
    _model, graph = traced(seed)
    rng = random.Random(seed)
    free = [g for g in graph.groups if g.frozen is None and "[" not in g.name]  # brackets mean something in a glob
    assert free, "the generator gave a network that may not be cut; take another seed"
    own = rng.choice(free)
    limits = {"min_keep": rng.choice([1, 2, 3]), "max_ratio": rng.choice([0.3, 0.5, 0.8])}
    scope = rng.choice(["local", "global", "isomorphic"])
    plan = compress.plan(graph, "l1", 0.6, scope, ratios={own.name: 0.25}, **limits)
    for group in free:
        gone = len(plan.removed.get(group.name, ()))
        assert group.size - gone >= min(limits["min_keep"], group.size)
        if group.name == own.name:
            most = min(int(np.floor(0.25 * group.size + 0.5)), max(group.size - limits["min_keep"], 0))
            assert gone <= most and (gone == most or group.links)
        else:
            assert gone <= limits["max_ratio"] * group.size + 1e-9


def test_isomorphic_classes_shrink_in_step_and_rank_within():
    """Two blocks of one kind and one of another: the weak block of the first kind gives all that its class gives."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 10, 1)
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.Conv2d(10, 20, 3), nn.ReLU(), nn.Conv2d(20, 10, 3)) for _ in range(2)
            )
            self.other = nn.Sequential(nn.Conv2d(10, 20, 1), nn.ReLU(), nn.Conv2d(20, 10, 1))

        def forward(self, x):
            x = self.stem(x)
            for block in self.blocks:
                x = x[..., 2:-2, 2:-2] + block(x)
            return self.other(x)

    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():
        for tensor in model.blocks[0].parameters():
            tensor.mul_(0.01)
        for tensor in model.other.parameters():
            tensor.mul_(100)
    graph = compress.trace(model, torch.rand(1, 3, 12, 12))
    classes = dict(zip([g.name for g in graph.groups], alike(graph).tolist(), strict=True))
    assert classes["blocks.0.0"] == classes["blocks.1.0"] != classes["other.0"]
    plan = compress.plan(graph, "l2", ratio=0.25, scope="isomorphic", ratios={"stem": 0})
    gone = {name: len(units) for name, units in plan.removed.items()}
    assert gone == {"blocks.0.0": 10, "other.0": 5}
    assert set(compress.plan(graph, "l2", ratio=0.25, scope="global").removed) == {"blocks.0.0"}


def test_roles_name_groups_by_how_many_layers_make_them():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 1), nn.Conv2d(12, 8, 1)
            self.deep, self.head = nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            x = self.a(x)
            return self.head(x + self.c(self.deep(self.b(x))))

    model = Net()
    graph = compress.trace(model, torch.rand(1, 3, 4, 4))
    plan = compress.plan(graph, "l2", 0.5, ratios={"@residual": 0, "@inner": 0.25})
    assert {name: len(units) for name, units in plan.removed.items()} == {"b": 3}
    assert plan.frozen == {"a": "its ratio is 0"}
    with pytest.raises(CompressError, match="ratios: there is no role '@resid'; did you mean '@residual'"):
        compress.plan(graph, "l2", 0.5, ratios={"@resid": 0.1})


@pytest.mark.parametrize("kind", ["polynomial", "exponential"])
def test_rounds_reach_the_ratio_together(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 400, 1), nn.ReLU(), nn.Conv2d(400, 2, 1)).eval()
    left = []
    for each in compress.schedule(0.8, 5, kind):
        graph = compress.trace(model, torch.rand(1, 3, 2, 2))
        model = compress.apply(model, graph, compress.plan(graph, "l1", each.ratio)).model
        left.append(model[0].out_channels)
        assert abs(left[-1] - 400 * (1 - each.removed)) <= len(left)  # within one unit a round
    steps = -np.diff([400, *left])
    assert left == sorted(left, reverse=True) and (kind != "polynomial" or steps[0] == max(steps))
