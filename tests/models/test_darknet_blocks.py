"""Residual blocks of a Darknet taken out: cfg and weights without their layers, for our reader and for OpenCV."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compress_models.darknet import Darknet, DarknetArchitecture, describe, load_weights, parse_cfg, read_cfg
from compress_plugins.darknet_export import DarknetExporter
from compress_plugins.yolov3 import ShortcutPolicy
from test_darknet_opencv import assert_equal, assert_equal_maps, randomise, without_threshold
from torch import nn

import compress
from compress import CompressError


def small_yolov3() -> Darknet:
    """An eighth of yolov3-hand's width, with statistics that keep its activations in range."""
    torch.manual_seed(0)
    model = DarknetArchitecture(cfg="yolov3-hand", width=0.125).build(2, (96, 64))
    assert isinstance(model, Darknet)
    randomise(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.rand(8, 3, 96, 64))
    return model.eval()


def test_yolov3_without_blocks_equals_the_hooked_network_and_opencv(tmp_path: Path) -> None:
    model, images = small_yolov3(), torch.rand(1, 3, 96, 64)
    graph = compress.trace(model, images)
    assert len(graph.blocks) == sum(section.kind == "shortcut" for section in model.sections) == 23
    plan = compress.plan(graph, "bn-gamma", blocks=8)
    norms = {f"layers.{s.index}": model.layers[s.index - 1].norm for s in model.sections if s.kind == "shortcut"}
    ranked = sorted(norms, key=lambda name: norms[name].weight.detach().abs().mean())
    assert set(plan.blocks) == set(ranked[:8])  # what the scripts that prune YOLO layers rank by
    alone = compress.apply(model, graph, plan)
    hooks = [
        model.layers[int(name.rpartition(".")[2]) - 1].register_forward_hook(lambda m, i, o: torch.zeros_like(o))
        for name in plan.blocks
    ]
    with torch.no_grad():
        for want, have in zip(model(images), alone.model(images), strict=True):
            torch.testing.assert_close(have, want)
    for hook in hooks:
        hook.remove()

    policy = ShortcutPolicy()
    both = compress.prune(model, images, criterion="bn-gamma", ratio=0.5, scope="global", policy=policy, blocks=8)
    assert both.plan.blocks == plan.blocks and both.after.params < 0.7 * alone.after.params
    assert sum(section.kind == "shortcut" for section in describe(both.model)) == 15
    assert len(describe(both.model)) == len(describe(model)) - 3 * 8
    assert DarknetExporter().export(both.model, images, tmp_path)["max_abs"] == 0
    assert_equal(without_threshold(tmp_path / "model.cfg", tmp_path), tmp_path / "model.weights", images)

    again = Darknet(read_cfg(tmp_path / "model.cfg"))
    load_weights(again, tmp_path / "model.weights")
    assert sum(p.numel() for p in again.parameters()) == both.after.params
    assert len(compress.trace(again.eval(), images).blocks) == 15  # the file is a network like any other


CONV = "[convolutional]\nbatch_normalize=1\nfilters=8\nsize=3\npad=1\nactivation={}\n"
NET = "[net]\nwidth=16\nheight=16\nchannels=3\n"
ROUTED = (  # a branch that starts at a route, shortcuts and routes with positive and negative numbers, the last layer
    NET
    + CONV.format("leaky")  # 0
    + CONV.format("leaky")  # 1
    + "[route]\nlayers=0\n"  # 2
    + CONV.format("leaky")  # 3
    + CONV.format("linear")  # 4
    + "[shortcut]\nfrom=0\nactivation=linear\n"  # 5: 4 + 0
    + CONV.format("mish")  # 6
    + "[shortcut]\nfrom=-2\nactivation=linear\n"  # 7: 6 + 5
    + "[route]\nlayers=-1, 5, 1\n"  # 8
    + CONV.format("leaky")  # 9
    + CONV.format("leaky")  # 10
    + "[shortcut]\nfrom=9\nactivation=linear\n"  # 11: 10 + 9
)


@pytest.mark.parametrize("gone", [{5}, {7}, {11}, {5, 7}, {5, 7, 11}], ids=str)
def test_routes_and_shortcuts_are_numbered_anew(gone: set[int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Darknet(parse_cfg(ROUTED)).eval()
    randomise(model)
    images = torch.randn(1, 3, 16, 16)
    graph = compress.trace(model, images)
    assert {block.name for block in graph.blocks} == {"layers.5", "layers.7", "layers.11"}
    keep = [f"layers.{k}" for k in {5, 7, 11} - gone]
    plan = compress.plan(graph, "l2", blocks=len(gone), ignore=keep)
    pruned = compress.apply(model, graph, plan)
    assert set(pruned.plan.blocks) == {f"layers.{k}" for k in gone}
    DarknetExporter().export(pruned.model, images, tmp_path)
    text = (tmp_path / "model.cfg").read_text()
    assert text.count("[shortcut]") == 3 - len(gone)
    assert text.count("[convolutional]") == 7 - sum({5: 2, 7: 1, 11: 1}[k] for k in gone)
    assert_equal_maps(text, tmp_path)  # what was written is read alike by OpenCV


def test_a_shortcut_with_an_activation_cannot_be_written_without_its_block(tmp_path: Path) -> None:
    conv = CONV.format("linear")
    model = Darknet(parse_cfg(f"{NET}{conv}{conv}[shortcut]\nfrom=-2\nactivation=leaky\n")).eval()
    randomise(model)
    pruned = compress.prune(model, torch.rand(1, 3, 16, 16), blocks=1)
    with pytest.raises(CompressError, match="gives zeros where a residual block was"):
        DarknetExporter().export(pruned.model, torch.rand(1, 3, 16, 16), tmp_path)
