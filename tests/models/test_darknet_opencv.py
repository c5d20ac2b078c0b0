"""The Darknet reader and builder against OpenCV's own: the same files, the same image, the same detections."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from compress_models.darknet import (
    Darknet,
    DarknetArchitecture,
    describe,
    find_cfg,
    format_cfg,
    load_weights,
    parse_cfg,
    read_cfg,
    save_weights,
)
from compress_plugins.darknet_export import DarknetExporter
from torch import nn

import compress

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

# Every kind of section, with strides, groups, long shortcuts, many-input and split routes, odd pools.
EVERYTHING = """[net]
width=64
height=96
channels=3
[convolutional]
batch_normalize=1
filters=16
size=3
stride=2
pad=1
activation=mish
[convolutional]
batch_normalize=1
filters=16
groups=16
size=5
pad=1
activation=leaky
[convolutional]
batch_normalize=1
filters=16
size=1
activation=linear
[dropout]
probability=.3
[shortcut]
from=-4
activation=linear
[maxpool]
size=2
stride=2
[convolutional]
filters=24
groups=4
size=3
padding=1
activation=relu
[maxpool]
size=2
stride=1
[maxpool]
size=5
stride=1
[route]
layers=-1,6,-2
[convolutional]
batch_normalize=1
filters=32
size=3
stride=2
pad=1
activation=swish
[route]
layers=-1
groups=2
group_id=1
[convolutional]
batch_normalize=1
filters=16
size=3
pad=1
activation=logistic
[shortcut]
from=11
activation=leaky
[upsample]
stride=2
[route]
layers=-1,8
[convolutional]
filters=21
size=1
activation=linear
[yolo]
mask=2,0,3
anchors=10,14, 23,27, 37,58, 81,82
num=4
classes=2
scale_x_y=1.1
[route]
layers=13
[convolutional]
filters=7
size=1
activation=linear
[yolo]
mask=1
anchors=10,14, 23,27, 37,58, 81,82
num=4
classes=2
"""


@torch.no_grad()
def randomise(model: Darknet) -> None:
    """Weights, shifts and statistics that leave no term of any layer at its neutral value."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            for tensor, low in ((module.weight, 0.5), (module.bias, -0.5), (module.running_mean, -0.5)):
                tensor.uniform_(low, low + 1)
            module.running_var.uniform_(0.5, 2)
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            module.bias.uniform_(-0.5, 0.5)
            module.weight.normal_(0, module.weight[0].numel() ** -0.5)


def without_threshold(cfg: Path, folder: Path) -> Path:
    """The cfg with [yolo] thresh=0: OpenCV would hide weak classes."""
    sections = [s.revised(thresh=0) if s.kind == "yolo" else s for s in read_cfg(cfg)]
    path = folder / "all.cfg"
    path.write_text(format_cfg(sections))
    return path


def opencv_maps(cfg: Path, weights: Path, images: torch.Tensor) -> list[np.ndarray]:
    """What OpenCV's [yolo] layers return, one (h * w * anchors, 5 + classes) array a layer."""
    net = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    net.setInput(images.numpy())
    return list(net.forward(net.getUnconnectedOutLayersNames()))


def our_maps(cfg: Path, weights: Path, images: torch.Tensor) -> list[np.ndarray]:
    """Our raw maps, decoded as OpenCV does: centre and size relative to the image, objectness, class x objectness."""
    model = Darknet(read_cfg(cfg))
    load_weights(model, weights)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-6  # OpenCV's; Darknet's own is 1e-5
    with torch.no_grad():
        maps = model.eval()(images)
    decoded = []
    for map_, head in zip(maps, model.heads, strict=True):
        rows, columns = map_.shape[2:]
        raw = map_[0].unflatten(0, (len(head.anchors), -1)).permute(2, 3, 0, 1)  # (A*(5+C), h, w) -> (h, w, A, 5+C)
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        cell = torch.stack([x, y], -1)[:, :, None]
        scale = head.scale_x_y
        centre = (raw[..., :2].sigmoid() * scale - (scale - 1) / 2 + cell) / torch.tensor([columns, rows])
        height, width = images.shape[2:]
        size = raw[..., 2:4].exp() * torch.tensor(head.anchors) / torch.tensor([width, height])
        objectness = raw[..., 4:5].sigmoid()
        parts = [centre, size, objectness, raw[..., 5:].sigmoid() * objectness]
        decoded.append(torch.cat(parts, -1).flatten(0, 2).numpy())
    return decoded


def assert_equal(cfg: Path, weights: Path, images: torch.Tensor) -> None:
    theirs, ours = opencv_maps(cfg, weights, images), our_maps(cfg, weights, images)
    assert len(theirs) == len(ours) > 0
    for their, our in zip(theirs, ours, strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-3, atol=1e-9)
        assert np.isfinite(our).all()
        assert (our.std(0) / our.mean(0)).min() > 0.03  # no column that is compared is constant


def test_a_random_network_of_every_kind_of_section_equals_opencv(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Darknet(parse_cfg(EVERYTHING))
    randomise(model)
    cfg, weights = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_text(EVERYTHING)
    save_weights(model, weights)
    assert_equal(without_threshold(cfg, tmp_path), weights, torch.rand(1, 3, 96, 64))


def test_the_same_network_pruned_and_exported_equals_opencv(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Darknet(parse_cfg(EVERYTHING)).eval()
    randomise(model)
    images = torch.rand(1, 3, 96, 64)
    pruned = compress.prune(model, images, criterion="l2", ratio=0.5)
    assert pruned.after.params < 0.45 * pruned.before.params
    DarknetExporter().export(pruned.model, images, tmp_path)
    assert_equal(without_threshold(tmp_path / "model.cfg", tmp_path), tmp_path / "model.weights", images)


@pytest.mark.parametrize("name", ["yolov3-hand", "yolov3-tiny-hand"])
def test_shipped_networks_equal_opencv(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = DarknetArchitecture(cfg=name, width=0.125).build(2, (96, 64))
    assert isinstance(model, Darknet)
    randomise(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.rand(8, 3, 96, 64))  # statistics that keep the activations in range
    cfg, weights = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_text(format_cfg(describe(model)))
    save_weights(model, weights)
    assert_equal(without_threshold(cfg, tmp_path), weights, torch.rand(1, 3, 96, 64))


@pytest.mark.data
@pytest.mark.parametrize("name", ["MobileNetV2-YOLOv3-Nano-coco", "yolo-fastest-1.1"])
def test_real_detectors_whole_and_pruned_equal_opencv(name: str, tmp_path: Path) -> None:
    folder = DATA / "darknet"
    if not folder.is_dir():
        pytest.skip(f"needs the trained detectors in {folder}")
    image = cv2.imread(str(sorted((DATA / "coco-val128").rglob("*.jpg"))[0]))
    assert image is not None
    pixels = torch.from_numpy(cv2.dnn.blobFromImage(image, 1 / 255, (320, 320), swapRB=True))
    cfg, weights = folder / f"{name}.cfg", folder / f"{name}.weights"
    assert_equal(without_threshold(cfg, tmp_path), weights, pixels)
    model = DarknetArchitecture(cfg=cfg, weights=weights).build(80, (320, 320)).eval()
    pruned = compress.prune(model, pixels, criterion="l2", ratio=0.3, scope="global")
    assert pruned.after.params < 0.9 * pruned.before.params
    DarknetExporter().export(pruned.model, pixels, tmp_path)
    assert_equal(without_threshold(tmp_path / "model.cfg", tmp_path), tmp_path / "model.weights", pixels)


def test_shipped_cfg_is_read_by_opencv(tmp_path: Path) -> None:
    net = cv2.dnn.readNetFromDarknet(str(find_cfg("yolov3-hand")))
    assert len(net.getUnconnectedOutLayersNames()) == 3
