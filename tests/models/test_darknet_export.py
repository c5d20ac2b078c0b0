"""The Darknet exporter: networks that were cut, whose norms were edited or folded away, and those it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from compress_models.darknet import Darknet, DarknetArchitecture, load_weights, read_cfg
from compress_plugins.darknet_export import DarknetExporter
from torch import nn

from compress import CompressError


@torch.no_grad()
def network(cfg: str | Path = "yolov3-hand", classes: int = 2, size: tuple[int, int] = (64, 96)) -> Darknet:
    """A small network none of whose numbers is neutral, statistics as in training."""
    torch.manual_seed(0)
    model = DarknetArchitecture(cfg=cfg, width=0.125).build(classes, size)
    assert isinstance(model, Darknet)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.uniform_(-0.5, 0.5)
            module.momentum = 1.0
    model.train()(torch.rand(4, 3, *size))
    return model.eval()


@torch.no_grad()
def cut(model: Darknet) -> int:
    """Drop every third channel between consecutive convolutions that nothing else reads; how many went."""
    gone = 0
    layers: Any = model.layers
    used = [source for sources in model.sources for source in sources]
    for index, layer in enumerate(layers):
        chain = [layer]
        while hasattr(chain[-1], "norm") and used.count(index) == 1 and model.sources[index + 1] == (index,):
            index += 1
            chain.append(layers[index])
            if not hasattr(chain[-1], "conv") or chain[-1].conv.groups == 1:
                break
        if len(chain) < 2 or layer.conv.groups > 1 or not all(hasattr(each, "conv") for each in chain):
            continue
        keep = torch.tensor([k for k in range(layer.conv.out_channels) if k % 3])
        gone += layer.conv.out_channels - len(keep)
        for each in chain[:-1]:
            each.conv.weight = nn.Parameter(each.conv.weight[keep])
            each.conv.out_channels = len(keep)
            if each.conv.groups > 1:
                each.conv.groups = each.conv.in_channels = len(keep)
            for name in ("weight", "bias"):
                setattr(each.norm, name, nn.Parameter(getattr(each.norm, name)[keep]))
            for name in ("running_mean", "running_var"):
                setattr(each.norm, name, getattr(each.norm, name)[keep])
            each.norm.num_features = len(keep)
        last = chain[-1].conv
        last.weight, last.in_channels = nn.Parameter(last.weight[:, keep]), len(keep)
    return gone


def outputs(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(model(images))


def reread(folder: Path) -> Darknet:
    model = Darknet(read_cfg(folder / "model.cfg"))
    load_weights(model, folder / "model.weights")
    return model.eval()


DEPTHWISE = """[net]
width=64
height=64
channels=3
[convolutional]
filters=64
batch_normalize=1
size=3
stride=2
pad=1
activation=relu
[convolutional]
filters=96
batch_normalize=1
activation=relu
[convolutional]
filters=96
groups=96
batch_normalize=1
size=3
pad=1
activation=relu
[convolutional]
filters=64
batch_normalize=1
activation=linear
[shortcut]
from=-4
[convolutional]
filters=18
activation=linear
[yolo]
mask=0,1,2
anchors=1,2, 3,4, 5,6
classes=1
mine=kept
"""


@pytest.mark.parametrize("cfg", ["yolov3-hand", "yolov3-tiny-hand", "depthwise"])
def test_a_cut_network_reloads_to_the_same_outputs_here_and_in_opencv(cfg: str, tmp_path: Path) -> None:
    if cfg == "depthwise":
        (tmp_path / "depthwise.cfg").write_text(DEPTHWISE)
        cfg = str(tmp_path / "depthwise.cfg")
    model = network(cfg)
    before = sum(p.numel() for p in model.parameters())
    assert cut(model) > 5
    images = torch.rand(1, 3, 64, 96)
    said = DarknetExporter().export(model, images, tmp_path / "out")
    assert said == {"files": ["model.cfg", "model.weights"], "max_abs": 0.0}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == said["files"]
    again = reread(tmp_path / "out")
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in model.parameters()) < before
    assert again.heads == model.heads and again.image_size == model.image_size
    for mine, read in zip(outputs(model, images), outputs(again, images), strict=True):
        assert torch.equal(mine, read)
    net = cv2.dnn.readNetFromDarknet(str(tmp_path / "out" / "model.cfg"), str(tmp_path / "out" / "model.weights"))
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    net.setInput(images.numpy())
    for mine, head in zip(outputs(model, images), model.heads, strict=True):
        theirs = net.forward(f"conv_{head.layer - 1}")
        np.testing.assert_allclose(mine.numpy(), theirs, atol=2e-3 * mine.abs().max().item())


def test_keys_that_nobody_reads_are_still_there(tmp_path: Path) -> None:
    (tmp_path / "depthwise.cfg").write_text(DEPTHWISE)
    model = network(tmp_path / "depthwise.cfg", classes=3)
    cut(model)
    DarknetExporter().export(model, torch.rand(1, 3, 64, 96), tmp_path)
    sections = read_cfg(tmp_path / "model.cfg")
    assert sections[-1].word("mine") == "kept" and sections[-1].integer("classes") == 3
    assert sections[3].integer("groups") == sections[3].integer("filters") == 10  # 96 at width 0.125 are 16, less 6


@torch.no_grad()
def test_a_bias_edited_statistics_and_another_epsilon_go_into_the_file(tmp_path: Path) -> None:
    model = network("yolov3-tiny-hand")
    layers: Any = model.layers
    for layer in layers:
        if hasattr(layer, "norm"):
            layer.conv.bias = nn.Parameter(torch.randn(layer.conv.out_channels))
            layer.norm.running_mean += 0.1
            layer.norm.running_var[0] = 0
            layer.norm.eps = 1e-3
    layers[0].norm.eps = 1e-7  # below Darknet's: cannot be moved into a variance of 0
    layers[2].norm = nn.BatchNorm2d(layers[2].conv.out_channels, affine=False).eval()
    images = torch.rand(2, 3, 64, 96)
    said = DarknetExporter().export(model, images, tmp_path)
    largest = max(map_.abs().max().item() for map_ in outputs(model, images))
    assert 0 < said["max_abs"] < 1e-4 * largest
    for mine, read in zip(outputs(model, images), outputs(reread(tmp_path), images), strict=True):
        torch.testing.assert_close(mine, read, atol=1e-4 * largest, rtol=0)


@torch.no_grad()
def test_norms_that_were_folded_into_convolutions_stay_folded(tmp_path: Path) -> None:
    model = network("yolov3-tiny-hand")
    layers: Any = model.layers
    for layer in list(layers)[:5]:
        if hasattr(layer, "norm"):
            layer.conv, layer.norm = nn.utils.fuse_conv_bn_eval(layer.conv, layer.norm), nn.Identity()
    assert DarknetExporter().export(model, torch.rand(1, 3, 64, 96), tmp_path)["max_abs"] == 0
    kinds = [section.options.get("batch_normalize") for section in read_cfg(tmp_path / "model.cfg")]
    assert kinds.count("0") == 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(tmp_path: Path, dtype: torch.dtype) -> None:
    model = network("yolov3-tiny-hand").to(dtype)
    for parameter in model.parameters():
        parameter.data *= 1.1
    said = DarknetExporter().export(model, torch.rand(1, 3, 64, 96), tmp_path)
    assert (said["max_abs"] == 0) == (dtype == torch.bfloat16)  # float32 holds each bfloat16


@pytest.mark.parametrize("broken", ["not darknet", "training", "stride", "activation", "norm", "outputs", "nan"])
def test_what_the_format_cannot_hold_is_named_and_leaves_no_file(broken: str, tmp_path: Path) -> None:
    model: nn.Module = network("yolov3-tiny-hand")
    assert isinstance(model, Darknet)
    layer: Any = model.layers[4]
    said = {
        "not darknet": "a Conv2d is not built from a cfg",
        "training": "is in train mode",
        "stride": r"section 4 \[convolutional\]: stride is \(2, 2\) now, the cfg says \(1, 1\)",
        "activation": r"section 4 \[convolutional\]: the activation is ReLU\(\) now",
        "norm": "found GroupNorm",
        "outputs": "output 0 computed by the files read back differs by .*nothing was written",
        "nan": "number .* is not finite",
    }[broken]
    if broken == "not darknet":
        model = nn.Conv2d(3, 3, 1).eval()
    elif broken == "training":
        model.train()
    elif broken == "stride":
        layer.conv.stride = (2, 2)
    elif broken == "activation":
        layer.act = nn.ReLU()
    elif broken == "norm":
        layer.norm = nn.GroupNorm(2, layer.conv.out_channels).eval()
    elif broken == "outputs":
        layer.register_forward_hook(lambda module, inputs, output: output * 2)
    else:
        layer.conv.weight.data[0, 0] = torch.nan
    with pytest.raises(CompressError, match=said):
        DarknetExporter().export(model, torch.rand(1, 3, 64, 96), tmp_path / "out")
    assert not list(tmp_path.rglob("*.*"))
