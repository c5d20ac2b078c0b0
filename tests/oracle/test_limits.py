"""Every criterion and compensation, with random limits on random networks: what was asked holds in the cut network.

Counted in its tensors and by fvcore, which know nothing of plans.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from networks import RandomNetwork
from oracle import call
from torch import Tensor, nn
from torch.autograd import grad

import compress
from compress import CompressError, Criterion
from compress.measure import fvcore_macs
from compress.plugins import installed

REGISTRY = installed()
CRITERIA = sorted(name for name in REGISTRY.criteria if "." not in name)
COMPENSATIONS = [None, *sorted(REGISTRY.compensations)]
REFUSALS = ("cannot be met: at least", "nothing may be cut", "says nothing about any group")


def tensors_of(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    else:
        for item in output.values() if isinstance(output, dict) else output:
            yield from tensors_of(item)


def loss(model: nn.Module, batch: Any) -> Tensor:
    return torch.stack([out.square().mean() for out in tensors_of(call(model, batch))]).sum()


def counted(model: nn.Module, inputs: Any) -> dict[str, int]:
    """Parameters by their tensors; multiply-adds by fvcore, absent where it does not know all ops."""
    found = fvcore_macs(model, tuple(inputs.values()) if isinstance(inputs, dict) else inputs)
    params = sum(p.numel() for p in model.parameters())
    return {"params": params} | ({} if found.uncounted else {"macs": found.macs})


def network(seed: int, criterion: Criterion) -> RandomNetwork:
    """The first network from the seed on that the criterion can look at: some calculate what has no gradient."""
    while True:
        torch.manual_seed(seed)
        model = RandomNetwork(seed, depth=1).eval()
        try:
            if criterion.needs_batches or criterion.needs_gradients:
                weights = [p for p in model.parameters() if p.requires_grad]
                first = grad(loss(model, model.inputs()), weights, allow_unused=True, create_graph=True)
                grad(sum(g.square().sum() for g in first if g is not None), weights, allow_unused=True)
            return model
        except RuntimeError:
            seed += 1000


def asked(rng: random.Random) -> dict[str, Any]:
    """How much, from where, and within which limits."""
    amounts = [
        {"ratio": rng.uniform(0.1, 0.8)},
        {"keep": {"macs": rng.uniform(0.3, 0.95)}},
        {"keep": {"params": rng.uniform(0.3, 0.95), "macs": rng.uniform(0.3, 0.95)}},
    ]
    return {
        **rng.choice(amounts),
        "scope": rng.choice(["local", "global", "isomorphic"]),
        "round_to": rng.choice([1, 2, 3, 4]),
        "min_keep": rng.choice([1, 2, 5]),
        "max_ratio": rng.choice([0.4, 0.7, 1.0]),
    }


@pytest.mark.parametrize(
    "number", [*range(len(CRITERIA)), *(pytest.param(n, marks=pytest.mark.slow) for n in range(len(CRITERIA), 300))]
)
def test_what_was_asked_holds_in_the_cut_network(number):
    """Budgets, multiples, minimums and maximums; whichever criterion chose, and whatever was given back."""
    seed = 6000 + number
    rng = random.Random(seed)
    criterion = REGISTRY.make("criteria", CRITERIA[number % len(CRITERIA)])
    model = network(seed, criterion)
    given = COMPENSATIONS[number % len(COMPENSATIONS)]
    question, inputs = asked(rng), model.inputs()
    graph = compress.trace(model, inputs)
    looks = criterion.needs_batches or criterion.needs_gradients
    data = {"calibration": [model.inputs(2), model.inputs(2)], "loss": loss} if looks else {}
    try:
        plan = compress.plan(graph, criterion, **question, **data)
    except CompressError as error:
        assert any(said in str(error) for said in REFUSALS)
        return
    pruned = compress.apply(model, graph, plan, compensate=given, calibration=[model.inputs(4), model.inputs(4)])
    assert not any(frozen.by == "verification" for frozen in pruned.frozen.values())
    reserved = pruned.plan.settings.get("constants", {})  # `fold-exact` keeps these beyond what was asked
    sizes = widths(graph, pruned.model)
    assert len(sizes) > len(graph.groups) / 2
    for group in (graph[name] for name in sizes):
        size = sizes[group.name] - len(reserved.get(group.name, ()))
        if group.name not in plan.removed:
            assert size == group.size
            continue
        assert size % question["round_to"] == 0 and size >= question["min_keep"]
        assert group.size - size <= question["max_ratio"] * group.size + 1e-9
        assert (
            "keep" in question or question["scope"] != "local" or size >= np.floor((1 - question["ratio"]) * group.size)
        )
    before, after = counted(model, inputs), counted(pruned.model, inputs)
    biases = sum(p.numel() for name, p in pruned.model.named_parameters() if name not in dict(model.named_parameters()))
    after["params"] -= biases  # made by a compensation where a layer had none
    if not reserved:
        for what, share in question.get("keep", {}).items():
            assert what not in before or after[what] <= share * before[what]


def widths(graph: compress.DependencyGraph, cut: nn.Module) -> dict[str, int]:
    """Group -> its units in the cut network, read off a tensor that holds this group alone, each unit equally often.

    Groups that share every tensor with others, as in a concatenation, are left out.
    """
    tensors, found = dict(cut.state_dict()), {}
    places: dict[tuple[str, int], int] = {}
    for group in graph.groups:
        for member in group.members:
            places[member.name, member.dim] = places.get((member.name, member.dim), 0) + 1
    for group in graph.groups:
        for member in group.members:
            times = np.bincount(member.unit, minlength=group.size)
            alone = places[member.name, member.dim] == 1 and times.min() == times.max()
            if alone and len(member.index) == graph.shapes[member.name][member.dim]:
                found[group.name] = tensors[member.name].shape[member.dim] // int(times[0])
                break
    return found
