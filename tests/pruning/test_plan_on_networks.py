"""`compress.plan` on traced networks: weights from elsewhere, gradients, budgets, and what the plan says of itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import compress
from compress import CompressError, Criterion


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10).eval()
    return model, compress.trace(model, torch.rand(1, 3, 64, 64))


def same(a, b):
    return set(a.removed) == set(b.removed) and all(np.array_equal(a.removed[n], b.removed[n]) for n in a.removed)


def test_a_network_on_meta_is_planned_with_weights_from_elsewhere(resnet):
    model, graph = resnet
    with torch.device("meta"):
        empty = torchvision.models.resnet18(num_classes=10).eval()
        shell = compress.trace(empty, torch.rand(1, 3, 64, 64, device="meta"))
    assert shell.cost() == graph.cost()
    with pytest.raises(CompressError, match="is on the meta device and has no values to score; pass weights="):
        compress.plan(shell, "l2", 0.5)
    plan = compress.plan(shell, "l2", 0.5, weights=model.state_dict())
    assert same(plan, compress.plan(graph, "l2", 0.5))
    assert compress.apply(model, shell, plan, verify=False).after == graph.cost(plan)


def test_the_graph_does_not_keep_the_model_alive():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph = compress.trace(model, torch.rand(1, 3, 4, 4))
    expected = compress.plan(graph, "l1", 0.5)
    del model
    with pytest.raises(CompressError, match=r"the traced model is gone.*pass model= or weights="):
        compress.plan(graph, "l1", 0.5)
    assert same(compress.plan(graph, "l1", 0.5, weights=weights), expected)


class Taylor(Criterion):
    """|sum of weight x gradient| over the outputs' filters: what the loss would change to first order."""

    name = "taylor"
    needs_gradients = True

    def score(self, part):
        if part.role != "out" or part.grad is None:
            return None
        return (part.tensor * part.grad).movedim(part.dim, 0).flatten(1).sum(1).abs()


def test_a_criterion_with_gradients_finds_the_channels_that_matter():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    with torch.no_grad():
        model[2].weight[:, [1, 4, 6]] = 0  # nothing reads these, however large their own weights are
        model[0].weight[[1, 4, 6]] = 10
        model[0].bias.fill_(1)  # every channel is active
    graph = compress.trace(model, torch.rand(1, 3, 4, 4))
    batches = [torch.rand(4, 3, 4, 4) for _ in range(3)]
    plan = compress.plan(graph, Taylor(), 3 / 8, calibration=batches, loss=lambda m, x: m(x).square().mean())
    assert plan.removed["0"].tolist() == [1, 4, 6]
    with pytest.raises(CompressError, match="needs gradients; pass calibration="):
        compress.plan(graph, Taylor(), 0.5)


def test_a_plan_says_how_it_was_made(resnet):
    _, graph = resnet
    plan = compress.plan(graph, "random", keep_params=0.7, scope="global", round_to=4, ignore=("layer4.*",))
    assert json.loads(json.dumps(plan.settings)) == {
        "criterion": {"uses": "random", "seed": 0, "aggregate": "sum", "normalize": "none"},
        "keep_params": 0.7,
        "scope": "global",
        "round_to": 4,
        "min_keep": 1,
        "ignore": ["layer4.*"],
        "policy": None,
    }
    assert set(plan.frozen.values()) == {"ignore 'layer4.*'"}


def test_a_layer_that_is_cut_with_another_is_named(resnet):
    _, graph = resnet
    with pytest.raises(
        CompressError, match=r"'layer1.1.conv2' matches no group; those layers are cut with group conv1"
    ):
        compress.plan(graph, "l2", 0.5, ignore=("layer1.1.conv2",))


def test_infeasible_budgets_say_what_is_in_the_way(resnet):
    _, graph = resnet
    with pytest.raises(CompressError, match=r"keep_macs=0.0001 cannot be met: .* in the way: fc \(10 units: an output"):
        compress.plan(graph, "l2", keep_macs=0.0001)
