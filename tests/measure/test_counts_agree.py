"""The graph's exact costs, fvcore's count and plain counting are three ways to one number, before and after a cut."""

from __future__ import annotations

import pytest
import torch
import torchvision
from compress_models.darknet import DarknetArchitecture
from torch import nn

import compress
from compress.measure import fvcore_macs, parameters

NETWORKS = {
    "yolov3-hand": lambda: DarknetArchitecture(cfg="yolov3-hand", width=0.125).build(1, (64, 64)),
    "resnet18": torchvision.models.resnet18,
    "vgg11_bn": torchvision.models.vgg11_bn,
    "densenet121": torchvision.models.densenet121,
    "mobilenet_v2": torchvision.models.mobilenet_v2,
    "padded by name": lambda: nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding="same"), nn.ReLU(), nn.Conv2d(8, 8, 3, padding="valid"), nn.ReLU()),
        *(nn.Conv2d(8, 8, 5, padding="same", dilation=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_costs_of_the_network_and_of_its_cut_agree(name: str) -> None:
    torch.manual_seed(0)
    model: nn.Module = NETWORKS[name]().eval()
    images = torch.rand(1, 3, 64, 64)
    graph = compress.trace(model, images)
    plan = compress.plan(graph, criterion="random", ratio=0.4)
    cut = compress.apply(model, graph, plan, verify=False).model
    for network, cost in ((model, graph.cost()), (cut, graph.cost(plan))):
        counted = fvcore_macs(network, images)
        assert not counted.uncounted
        assert (parameters(network), counted.macs) == (cost.params, cost.macs)
    assert graph.cost(plan).macs < 0.75 * graph.cost().macs
