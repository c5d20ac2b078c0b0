"""Published architectures, cut and compared; the input model stays as it was, and enough of it goes."""

from __future__ import annotations

import pytest
import torch
import torchvision
from compress_models.darknet import DarknetArchitecture
from oracle import compare, kept, number_every_element, snapshot
from torch import nn

import compress

SIZES = {"inception_v3": 96}
"""Height and width of the images, pixels; 64 where nothing is said."""

OPTIONS = {"googlenet": {"aux_logits": False, "init_weights": False}, "inception_v3": {"init_weights": False}}

LEFT = {}
"""Families of which more than 0.45 of the parameters is left at ratio 0.5, each with the fraction and the reason."""


def build(family: str) -> nn.Module:
    model = getattr(torchvision.models, family)(num_classes=10, **OPTIONS.get(family, {}))
    if family.startswith("vgg"):  # 100 of its 129 million parameters are two linear layers: narrower ones do
        model.classifier = nn.Sequential(nn.Linear(512 * 49, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, 10))
    return model


def cut_and_compare(model: nn.Module, size: int, most: float, **options) -> None:
    model = number_every_element(model.eval())
    before = snapshot(model)
    pruned = compress.prune(model, torch.rand(1, 3, size, size, dtype=torch.float64), ratio=0.5, **options)
    assert snapshot(model) == before
    images = torch.rand(2, 3, size, size, dtype=torch.float64)
    compare(model, pruned.model, images)
    assert kept(model, pruned.model) <= most
    assert pruned.after.params == sum(p.numel() for p in pruned.model.parameters())
    assert not [name for name, frozen in pruned.frozen.items() if frozen.by == "verification"]


@pytest.mark.parametrize("family", ["resnet18", "vgg11_bn", "densenet121", "mobilenet_v2", "mobilenet_v3_small"])
def test_core_families(family):
    cut_and_compare(build(family), SIZES.get(family, 64), LEFT.get(family, 0.45))


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize(
    "family",
    [
        "resnet18",
        "resnet50",
        "resnext50_32x4d",
        "vgg11",
        "vgg11_bn",
        "densenet121",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "shufflenet_v2_x0_5",
        "googlenet",
        "inception_v3",
        "squeezenet1_1",
        "efficientnet_b0",
        "efficientnet_v2_s",
        "regnet_y_400mf",
        "mnasnet0_5",
    ],
)
def test_all_families(family, scope):
    cut_and_compare(
        build(family), SIZES.get(family, 64), LEFT.get(family, 0.45) if scope == "local" else 1, scope=scope
    )


@pytest.mark.parametrize("family", ["resnet18", "mobilenet_v2"])
def test_networks_in_channels_last(family):
    cut_and_compare(build(family).to(memory_format=torch.channels_last), 64, 0.45, criterion="l1")


def test_budgets_and_rounding_hold_for_a_real_network():
    model = build("mobilenet_v2").eval()
    graph = compress.trace(model, torch.rand(1, 3, 64, 64))
    for scope in ("local", "global"):
        dense, plan = graph.cost(), compress.plan(graph, "l1", keep_macs=0.4, scope=scope)
        cost = graph.cost(plan)
        assert 0.39 * dense.macs < cost.macs <= 0.4 * dense.macs
        pruned = compress.apply(model, graph, plan)
        assert pruned.after.params == cost.params == sum(p.numel() for p in pruned.model.parameters())
    rounded = compress.apply(model, graph, compress.plan(graph, "l2", 0.4, round_to=8)).model
    widths = [(m.out_channels, n.out_channels) for m, n in zip(convs(model), convs(rounded), strict=True)]
    assert all(after % 8 == 0 for before, after in widths if after != before) and sum(a != b for b, a in widths) > 40


def convs(model: nn.Module) -> list[nn.Conv2d]:
    return [m for m in model.modules() if isinstance(m, nn.Conv2d)]


def test_darknet_yolov3():
    torch.manual_seed(0)
    cut_and_compare(DarknetArchitecture(cfg="yolov3-hand", width=0.125).build(1, (96, 96)), 96, 0.45)
