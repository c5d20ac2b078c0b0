"""Random networks: at every module, what a cut leaves of the masked original's output is what the cut one returns."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from networks import RandomNetwork
from oracle import number_every_element
from torch import Tensor, nn

import compress
from compress import CompressError, Kept
from compress.graph.inputs import call_model, collect_tensors
from compress.graph.tape import plain_math
from compress.pruning.masked import mask
from compress.pruning.remap import compose
from compress.pruning.replay import run_masked


def returned(model: nn.Module, run: Any) -> dict[str, list[Tensor]]:
    """Module path -> copies of the tensors that it returned, call by call."""
    found: dict[str, list[Tensor]] = {}
    for path, module in model.named_modules():
        module.register_forward_hook(
            lambda m, i, o, path=path: found.setdefault(path, []).extend(t.clone() for t in collect_tensors(o))
        )
    with plain_math():
        run(model)
    return found


def narrowed(tensor: Tensor, by_dim: Any) -> Tensor:
    for dim, index in by_dim.items():
        tensor = tensor.index_select(dim, torch.from_numpy(index))
    return tensor


@pytest.mark.parametrize("seed", range(8))
def test_every_module_returns_the_survivors(seed: int) -> None:
    rng = random.Random(seed)
    model = number_every_element(RandomNetwork(seed, 2), seed).eval()
    inputs = model.inputs()
    graph = compress.trace(model, inputs, rng.choice(["whole", "inside"]), rng.choice(["whole", "inside"]))
    try:
        pruned = compress.apply(model, graph, compress.plan(graph, "random", 0.5))
    except CompressError as error:
        assert "nothing may be cut" in str(error)
        return
    alive = graph.alive_labels(graph.alive(pruned.plan))
    whole = returned(mask(model, pruned.edits), lambda net: run_masked(net, inputs, graph, alive))
    cut = returned(pruned.model, lambda net: call_model(net, inputs))
    kept, smaller = Kept(graph, pruned.edits), 0
    assert cut.keys() == graph.returned.keys()
    for path, mine in cut.items():
        for student, teacher, by_dim in zip(mine, whole[path], kept.at(path), strict=True):
            torch.testing.assert_close(student, narrowed(teacher, by_dim), msg=f"{path}: {by_dim}")
            smaller += bool(by_dim)
    assert smaller or not pruned.plan.removed


@pytest.mark.parametrize("seed", range(4))
def test_a_second_cut_is_narrowed_from_the_first(seed: int) -> None:
    model = number_every_element(RandomNetwork(seed, 1), seed).eval()
    inputs = model.inputs()
    graph = compress.trace(model, inputs)
    first = compress.apply(model, graph, compress.plan(graph, "l1", 0.3))
    again = compress.trace(first.model.eval(), inputs)
    second = compress.apply(first.model, again, compress.plan(again, "l1", 0.5))
    both, direct = Kept(graph, compose(first.edits, second.edits), first.edits), Kept(again, second.edits)
    for path in direct.graph.returned:
        for mine, theirs in zip(both.at(path), direct.at(path), strict=True):
            assert mine.keys() == theirs.keys()
            assert all(np.array_equal(mine[dim], theirs[dim]) for dim in mine)
