"""The time to build a dependency graph and to cut a network, here and in Torch-Pruning."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch_pruning
from conftest import CRITERION, RATIO, Network
from torch import nn

import compress
from compress.measure import parameters
from compress.pruning.apply import Pruned

assert CRITERION == "l2"  # what the peer is asked for below


def test_graph(benchmark: Any, network: Network, threads: int) -> None:
    benchmark.group = f"{network.name}: graph"
    graph = benchmark(compress.trace, network.model, network.example)
    cost = graph.cost()
    benchmark.extra_info.update(groups=len(graph.groups), units=graph.n_units, macs=cost.macs, threads=threads)
    assert cost.params == parameters(network.model)


def test_graph_torch_pruning(benchmark: Any, network: Network, threads: int) -> None:
    benchmark.group = f"{network.name}: graph"
    benchmark.extra_info.update(threads=threads)
    graph = torch_pruning.DependencyGraph()
    benchmark(graph.build_dependency, network.model, example_inputs=network.example)
    assert graph.module2node


def test_plan(benchmark: Any, network: Network, graph: Any, threads: int) -> None:
    benchmark.group = f"{network.name}: cut"
    plan = benchmark(compress.plan, graph, criterion=CRITERION, ratio=RATIO)
    benchmark.extra_info.update(removed=sum(map(len, plan.removed.values())), threads=threads)
    assert plan.removed


@pytest.mark.parametrize("verify", [False, True], ids=["surgery", "surgery_and_verify"])
def test_apply(benchmark: Any, network: Network, graph: Any, plan: compress.Plan, verify: bool, threads: int) -> None:
    benchmark.group = f"{network.name}: cut"
    pruned = benchmark(compress.apply, network.model, graph, plan, verify=verify)
    benchmark.extra_info.update(params=pruned.after.params, macs=pruned.after.macs, threads=threads)
    assert parameters(pruned.model) == pruned.after.params < pruned.before.params


def test_torch_pruning_step(benchmark: Any, network: Network, graph: Any, pruned: Pruned, threads: int) -> None:
    """Scores and cuts in one call, in place and unverified; building the pruner (its graph) is not counted."""
    benchmark.group = f"{network.name}: cut"

    def prepared() -> tuple[tuple[nn.Module, Any], dict[str, Any]]:
        model = copy.deepcopy(network.model)
        modules = dict(model.named_modules())
        whole = [modules[group.name] for group in graph.groups if group.frozen and group.name in modules]
        importance = torch_pruning.importance.MagnitudeImportance(p=2)
        pruner = torch_pruning.pruner.BasePruner(
            model, network.example, importance=importance, pruning_ratio=RATIO, ignored_layers=whole
        )
        return (model, pruner), {}

    def step(model: nn.Module, pruner: Any) -> nn.Module:
        pruner.step()
        return model

    model = benchmark.pedantic(step, setup=prepared, rounds=5)
    with torch.no_grad():
        model(network.example)
    benchmark.extra_info.update(params=parameters(model), threads=threads)
    assert parameters(model) == pruned.after.params  # the peer, asked for the same, cuts the same amount
