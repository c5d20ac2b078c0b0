"""Residual blocks taken out: the network is the one in which a hook puts zeros in the place of each branch's output."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from networks import RandomNetwork
from oracle import compare, number_every_element, snapshot
from residuals import Residuals, Steps
from torch import nn
from torchvision.models import MobileNetV2, ResNet, VisionTransformer, mobilenet_v3_small
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.resnet import BasicBlock, Bottleneck

import compress
from compress import CompressError
from compress.pruning.resources import meter

FAMILIES = {  # network, image side, block -> the module whose output is its branch, blocks that there are
    "resnet18": (lambda: ResNet(BasicBlock, [2, 2, 1, 1], 5), 32, lambda b: f"{b}.bn2", 3),
    "resnet50": (lambda: ResNet(Bottleneck, [2, 1, 2, 1], 5, width_per_group=16), 32, lambda b: f"{b}.bn3", 2),
    "mobilenet_v2": (lambda: MobileNetV2(5, width_mult=0.25), 32, lambda b: f"{b}.conv", 11),
    "mobilenet_v3": (lambda: mobilenet_v3_small(num_classes=5), 32, lambda b: f"{b}.block", 6),
    "convnext_tiny": (
        lambda: ConvNeXt([CNBlockConfig(8, 12, 2), CNBlockConfig(12, None, 2)], num_classes=5),
        32,
        lambda b: f"{b}.block",
        4,
    ),
    "vit_b_16": (
        lambda: VisionTransformer(16, 8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=24, num_classes=5),
        16,
        lambda b: f"{b.rpartition('.')[0]}.dropout" if b.endswith("self_attention") else b,
        6,
    ),
}


def names_below(model: nn.Module, graph, blocks) -> set[str]:
    """Parameters and buffers that the graph says go with blocks; that nothing else goes is then asserted."""
    return {name for block in blocks for name in graph.block(block).tensors}


def check(model: nn.Module, graph, plan, pruned, inputs, ends) -> None:
    """The cut equals the hooked and masked original, and costs what plan and result said it would."""
    assert set(pruned.plan.blocks) == set(plan.blocks)
    assert not [name for name, frozen in pruned.frozen.items() if frozen.by == "verification"]
    left = sum(p.numel() for p in pruned.model.parameters())
    again = compress.trace(pruned.model, graph.example_inputs).cost()
    assert left == again.params == pruned.after.params == graph.cost(pruned.plan).params
    assert again.macs == pruned.after.macs == graph.cost(pruned.plan).macs
    gone = names_below(model, graph, plan.blocks)
    state = pruned.model.state_dict()
    assert not gone & set(state) and set(model.state_dict()) - gone <= set(state)
    compare(model, pruned.model, inputs, silent=[ends(block) for block in plan.blocks], gone=gone)
    remapped = pruned.remap(model.state_dict())
    assert remapped.keys() == state.keys() and all(torch.equal(state[name], remapped[name]) for name in state)


SLOW = set(FAMILIES) - {"vit_b_16"}


@pytest.mark.parametrize("family", [pytest.param(f, marks=[pytest.mark.slow] if f in SLOW else []) for f in FAMILIES])
def test_families_lose_blocks_alone_and_with_channels(family):
    build, side, ends, count = FAMILIES[family]
    torch.manual_seed(0)
    model = number_every_element(build(), gain=0.7).eval()
    x = torch.rand(2, 3, side, side, dtype=torch.float64)
    graph = compress.trace(model, x[:1])
    free = [block.name for block in graph.blocks if block.frozen is None]
    assert len(free) == count
    before = snapshot(model)
    for options in ({"blocks": count // 2}, {"blocks": 1, "ratio": 0.5}):
        plan = compress.plan(graph, {"uses": "random", "seed": len(options)}, **options)
        assert len(plan.blocks) == options["blocks"] and (len(plan.removed) > 0) == ("ratio" in options)
        check(model, graph, plan, compress.apply(model, graph, plan), x, ends)
    assert snapshot(model) == before


@pytest.mark.parametrize("family", ["mobilenet_v2", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_multiply_adds_without_blocks_are_those_that_fvcore_counts(family):
    build, side, _, count = FAMILIES[family]
    model, x = build().eval(), torch.rand(1, 3, side, side)
    graph = compress.trace(model, x)
    plan = compress.plan(graph, "random", blocks=count, ratio=0.3)
    pruned = compress.apply(model, graph, plan, verify=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counted = FlopCountAnalysis(pruned.model, x).unsupported_ops_warnings(False).by_operator()
    assert graph.cost(plan).macs == counted["conv"] + counted["linear"]


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 120))])
def test_random_residual_networks(seed):
    model = number_every_element(Residuals(seed), seed, gain=0.7).eval()
    x = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    graph = compress.trace(model, x[:1])
    stays = {block.name for block in graph.blocks if block.frozen}
    assert {".".join(name.split(".")[:2]) for name in stays} == set(model.stays)
    found = {model.end(block.name) for block in graph.blocks if not block.frozen and block.name[:8] not in model.stays}
    assert found == {end for path, end in model.ends.items() if path[:8] not in model.stays}
    rng = random.Random(seed)
    whole = [block.tensors for block in graph.blocks if not block.frozen]
    free = sum(not any(tensors < other for other in whole) for tensors in whole)  # those that lie in no other
    options = rng.choice([{}, {"ratio": 0.4}, {"ratio": 0.3, "scope": "global"}, {"keep_macs": 0.6}])
    blocks = rng.choice([rng.randint(0, free), "ranked"]) if options else rng.randint(0, free)
    plan = compress.plan(graph, {"uses": "l1", "normalize": "mean"}, blocks=blocks, **options)
    pruned = compress.apply(model, graph, plan)
    check(model, graph, plan, pruned, x, model.end)


@pytest.mark.parametrize("seed", [7000, *(pytest.param(s, marks=pytest.mark.slow) for s in range(7001, 7060))])
def test_networks_of_all_kinds_stay_right_where_blocks_go(seed):
    """Whatever counts as a branch in them: verified, counted, saved."""
    torch.manual_seed(seed)
    model = RandomNetwork(seed, depth=2).eval()
    graph = compress.trace(model, model.inputs())
    try:
        plan = compress.plan(graph, {"uses": "random", "seed": seed}, 0.4, blocks="ranked", scope="global")
    except CompressError as error:
        assert "nothing may be cut" in str(error)
        return
    pruned = compress.apply(model, graph, plan)
    assert pruned.verification.passed
    assert not set(plan.blocks) - set(pruned.plan.blocks) - set(pruned.frozen)
    left = sum(p.numel() for p in pruned.model.parameters())
    assert left == pruned.after.params == graph.cost(pruned.plan).params
    small, selected = pruned.model.state_dict(), pruned.remap(model.state_dict())
    assert all(torch.equal(small[name], selected[name]) for name in small | selected)


def deep() -> nn.Module:
    """Stem and five blocks that end in a ReLU, as in a ResNet; the fourth scales its branch least."""
    torch.manual_seed(1)
    blocks = [Steps(12, 8, after=True) for _ in range(5)]
    model = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), *blocks, nn.Flatten(), nn.Linear(12 * 36, 5)).eval()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.uniform_(blocks[3].body.weight, 0.4, 0.5)  # |gamma| of the stream adds up over its blocks
    return model


X = torch.rand(2, 3, 8, 8)


@pytest.mark.parametrize("scope", ["local", "global", "isomorphic"])
def test_blocks_and_channels_meet_budgets_together(scope):
    model = deep()
    graph = compress.trace(model, X)
    keep = {"macs": 0.5, "params": 0.6, "activations": 0.8}
    plan = compress.plan(graph, "bn-gamma", keep=keep, scope=scope, blocks="ranked")
    assert plan.removed and "5" in plan.blocks
    alive = graph.alive(plan)
    shares = {n: meter(graph, n, model)(alive) / meter(graph, n, model)(graph.alive()) for n in keep}
    assert all(shares[name] <= keep[name] for name in keep)
    closer = []
    for name, units in plan.removed.items():  # one unit back, and some budget breaks
        back = alive.copy()
        back[graph.start(name) + units[-1]] = True
        closer.append(any(meter(graph, n, model)(back) > keep[n] * meter(graph, n, model)(graph.alive()) for n in keep))
    assert any(closer)
    cut = compress.apply(model, graph, plan, verify=False).model
    assert meter(graph, "bytes", model)(alive) == sum(
        t.numel() * t.element_size() for t in (*cut.parameters(), *cut.buffers())
    )


def test_a_second_pruning_goes_on_from_the_first():
    model = deep()
    names = []
    for _ in range(2):
        graph = compress.trace(model, X)
        plan = compress.plan(graph, "l2", ratio=0.2, blocks=1)
        pruned = compress.apply(model, graph, plan)
        names += plan.blocks
        model = pruned.model
    assert len(set(names)) == 2 and not set(names) & {b.name for b in compress.trace(model, X).blocks}
    model.train()(X).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_an_optimizers_state_goes_on_without_the_blocks():
    model = deep().train()
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=1e-3)
    model(X).sum().backward()
    optimizer.step()
    pruned = compress.prune(model, X, "bn-gamma", ratio=0.25, blocks=1)
    assert pruned.plan.blocks == ("5",)
    after = torch.optim.AdamW(pruned.model.named_parameters(), lr=1e-3)
    after.load_state_dict(pruned.remap(optimizer.state_dict()))
    whole = dict(zip(model.parameters(), [n for n, _ in model.named_parameters()], strict=True))
    moments = {whole[p]: state["exp_avg"] for p, state in optimizer.state.items()}
    for name, parameter in pruned.model.named_parameters():
        index = [pruned.edits.select.get(name, {}).get(d, np.arange(n)) for d, n in enumerate(moments[name].shape)]
        assert torch.equal(after.state[parameter]["exp_avg"], moments[name][np.ix_(*index)])
