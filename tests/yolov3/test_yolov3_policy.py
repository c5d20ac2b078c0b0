"""The shortcut policy: what the published rule leaves, and the same structure read off a small network by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compress_models.darknet import Darknet, DarknetArchitecture, parse_cfg
from compress_plugins.yolov3 import ShortcutPolicy
from torch import nn

from compress import CompressError
from compress.graph.graph import DependencyGraph
from compress.graph.trace import trace

Traced = tuple[DependencyGraph, Any]
CONV = "[convolutional]\nbatch_normalize=1\nfilters=8\nsize=3\nstride=1\npad=1\nactivation=leaky\n"
SMALL = (
    "[net]\nwidth=32\nheight=32\nchannels=3\n"
    + CONV  # 0 stays: shortcut 3 adds it, through the pool
    + "[maxpool]\nsize=2\nstride=2\n"  # 1
    + CONV  # 2 stays: shortcut 3
    + "[shortcut]\nfrom=-2\nactivation=linear\n"  # 3
    + CONV  # 4 goes
    + CONV  # 5 stays: upsample 8, through the route
    + CONV  # 6 stays: upsample 8
    + "[route]\nlayers=-1,-2\n"  # 7
    + "[upsample]\nstride=2\n"  # 8
    + CONV  # 9 goes
    + CONV.replace("filters=8", "filters=18").replace("batch_normalize=1\n", "").replace("leaky", "linear")  # 10: head
    + "[yolo]\nmask=0,1,2\nanchors=4,4,8,8,16,16\nclasses=1\nnum=3\n"  # 11
)


@pytest.fixture(scope="module")
def yolov3() -> Traced:
    model = DarknetArchitecture(cfg="yolov3-hand").build(1, (416, 416))
    return trace(model, torch.zeros(1, 3, 64, 64)), model


@pytest.fixture(scope="module")
def small() -> Traced:
    model = Darknet(parse_cfg(SMALL, "small.cfg"))
    return trace(model, torch.zeros(1, 3, 32, 32)), model


def free_layers(graph: DependencyGraph, frozen: dict[str, str]) -> set[int]:
    """Numbers of the convolutions whose output channels may go."""
    free = [g for g in graph.groups if g.frozen is None and g.name not in frozen]
    return {int(m.name.split(".")[1]) for g in free for m in g.members if m.role == "out"}


def test_the_published_rule_leaves_42_layers_and_13376_channels(yolov3: Traced) -> None:
    """Known from the published pruned network: 30 of the 72 layers with BatchNorm are never touched."""
    graph, model = yolov3
    frozen = dict(ShortcutPolicy().freeze(graph, model))
    layers = free_layers(graph, frozen)
    assert len(layers) == 42
    assert sum(model.layers[i].norm.num_features for i in layers) == 13_376
    assert {79, 91} < layers  # before the routes to the upsamples
    assert not {84, 96} & layers  # what the upsamples enlarge
    assert all("shortcut" in reason or "upsample" in reason for reason in frozen.values())


def test_merge_cuts_each_residual_chain_as_one(yolov3: Traced) -> None:
    graph, model = yolov3
    assert not ShortcutPolicy(shortcut="merge").freeze(graph, model)
    assert len(free_layers(graph, {})) == 72
    shared = [g for g in graph.groups if g.frozen is None and sum(m.role == "out" for m in g.members) > 1]
    assert sorted(sum(m.role == "out" for m in g.members) for g in shared) == [2, 3, 5, 9, 9]  # blocks + downsampling


def test_structure_is_followed_through_pools_and_routes(small: Traced) -> None:
    graph, model = small
    assert free_layers(graph, dict(ShortcutPolicy().freeze(graph, model))) == {4, 9}
    assert free_layers(graph, dict(ShortcutPolicy(shortcut="merge").freeze(graph, model))) == {0, 2, 4, 5, 6, 9}


def test_ignored_layers_stay_and_take_their_chain_along(small: Traced) -> None:
    graph, model = small
    one = dict(ShortcutPolicy(shortcut="merge", ignore=("layers.2.*",)).freeze(graph, model))
    assert free_layers(graph, one) == {4, 5, 6, 9}
    assert next(iter(one.values())) == "ignored by 'layers.2.*'"
    both = dict(ShortcutPolicy(ignore=("layers.9.conv", "layers.0.*")).freeze(graph, model))
    assert free_layers(graph, both) == {4}


def test_a_glob_that_matches_nothing_is_an_error(small: Traced) -> None:
    with pytest.raises(CompressError, match=r"'layer\.9\.conv' matches no layer; did you mean 'layers\.9\.conv'"):
        ShortcutPolicy(ignore=("layer.9.conv",)).freeze(*small)


def test_another_kind_of_network_is_refused(small: Traced) -> None:
    with pytest.raises(CompressError, match="Sequential has none"):
        ShortcutPolicy().freeze(small[0], nn.Sequential())
