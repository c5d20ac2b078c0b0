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
from compress_plugins.yolov3 import ShortcutPolicy
from compress_plugins.yolov3.predictions import decode
from torch import nn

import compress

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SHIPPED = sorted(path.stem for path in find_cfg("yolov3-hand").parent.glob("*.cfg"))

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


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_networks_whole_and_pruned_equal_opencv(name: str, tmp_path: Path) -> None:
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
    images = torch.rand(1, 3, 96, 64)
    assert_equal(without_threshold(cfg, tmp_path), weights, images)

    policy = ShortcutPolicy(shortcut="merge")
    pruned = compress.prune(model.eval(), images, criterion="l2", ratio=0.5, policy=policy, compensate="fold")
    assert pruned.after.params < 0.4 * pruned.before.params
    said = DarknetExporter().export(pruned.model, images, tmp_path)
    assert said["max_abs"] == 0
    assert_equal(without_threshold(tmp_path / "model.cfg", tmp_path), tmp_path / "model.weights", images)


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

    def build() -> nn.Module:
        return DarknetArchitecture(cfg=cfg, weights=weights).build(80, (320, 320)).eval()

    pruned = compress.prune(build(), pixels, criterion="l2", ratio=0.3, scope="global", compensate="fold")
    assert pruned.after.params < 0.9 * pruned.before.params
    compress.save(pruned, tmp_path / "saved")
    loaded = compress.load(tmp_path / "saved", build).eval()
    DarknetExporter().export(loaded, pixels, tmp_path)
    again = Darknet(read_cfg(tmp_path / "model.cfg"))
    load_weights(again, tmp_path / "model.weights")
    with torch.no_grad():
        for cut, read in zip(pruned.model(pixels), again.eval()(pixels), strict=True):
            assert torch.equal(cut, read)
    assert_equal(without_threshold(tmp_path / "model.cfg", tmp_path), tmp_path / "model.weights", pixels)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_cfg_is_read_by_opencv(name: str) -> None:
    net = cv2.dnn.readNetFromDarknet(str(find_cfg(name)))
    assert len(net.getUnconnectedOutLayersNames()) == len(Darknet(read_cfg(find_cfg(name))).heads)


@pytest.mark.parametrize("activation", ["linear", "leaky", "relu", "mish", "swish", "logistic", "tanh"])
def test_activations_equal_opencv(activation: str, tmp_path: Path) -> None:
    """OpenCV knows these; each as a convolution's and (but for mish) as a shortcut's."""
    layer = f"[convolutional]\nbatch_normalize=1\nfilters=6\nsize=3\npad=1\nactivation={activation}\n"
    shortcut = f"[shortcut]\nfrom=-2\nactivation={'linear' if activation == 'mish' else activation}\n"
    text = f"[net]\nwidth=12\nheight=8\nchannels=3\n{layer}{layer}{shortcut}"
    assert_equal_maps(text, tmp_path)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_reorg_equals_opencv(stride: int, tmp_path: Path) -> None:
    """And the map beside it, as YOLOv2 has it."""
    text = f"""[net]
width=16
height=24
channels=3
[convolutional]
filters=32
size=3
pad=1
activation=linear
[reorg]
stride={stride}
[convolutional]
filters=5
size=1
activation=leaky
"""
    assert_equal_maps(text, tmp_path)


def test_a_network_is_pruned_through_its_reorg(tmp_path: Path) -> None:
    """What enters a reorg goes four neighbours at a time, for it reads the pixels of four channels as one map's."""
    conv = "[convolutional]\nfilters=16\nsize=3\npad=1\nactivation=leaky\n"
    text = f"[net]\nwidth=16\nheight=24\nchannels=3\n{conv}{conv}[reorg]\nstride=2\n{conv}{conv}"
    torch.manual_seed(0)
    model = Darknet(parse_cfg(text)).eval()
    randomise(model)
    pruned = compress.prune(model, torch.rand(1, 3, 24, 16), ratio=0.5)
    DarknetExporter().export(pruned.model, torch.rand(1, 3, 24, 16), tmp_path)
    sections = read_cfg(tmp_path / "model.cfg")
    assert [s.integer("filters") for s in sections if s.kind == "convolutional"] == [8, 8, 8, 16]
    whole, cut = (m.layers[1].conv.bias.view(-1, 4) for m in (model, pruned.model))
    kept = [any(torch.equal(four, own) for own in cut) for four in whole]
    assert kept.count(True) == 2
    net = cv2.dnn.readNetFromDarknet(str(tmp_path / "model.cfg"), str(tmp_path / "model.weights"))
    images = torch.randn(1, 3, 24, 16)
    net.setInput(images.numpy())
    with torch.no_grad():
        (ours,) = pruned.model(images)
    np.testing.assert_allclose(ours.numpy(), net.forward(), atol=1e-4)


def assert_equal_maps(text: str, tmp_path: Path) -> None:
    """The last map of a cfg without [yolo], random weights: the same here and in OpenCV."""
    torch.manual_seed(0)
    model = Darknet(parse_cfg(text)).eval()
    randomise(model)
    (tmp_path / "net.cfg").write_text(text)
    save_weights(model, tmp_path / "net.weights")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-6  # OpenCV's
    net = cv2.dnn.readNetFromDarknet(str(tmp_path / "net.cfg"), str(tmp_path / "net.weights"))
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    images = torch.randn(1, 3, *model.image_size)
    net.setInput(images.numpy())
    with torch.no_grad():
        (ours,) = model(images)
    assert ours.std() > 0.01
    np.testing.assert_allclose(ours.numpy(), net.forward(), atol=1e-4)


NEW_COORDS = """[net]
width=96
height=64
channels=3
[convolutional]
filters=8
size=3
stride=2
pad=1
activation=mish
[convolutional]
filters=14
size=1
activation=logistic
[yolo]
mask=0,2
anchors=10,14, 23,27, 37,58
num=3
classes=2
scale_x_y=2.0
new_coords=1
"""


def test_new_coords_decode_as_in_opencv(tmp_path: Path) -> None:
    """The boxes of the task, all of them, are those of OpenCV's [yolo] layer."""
    torch.manual_seed(0)
    model = Darknet(parse_cfg(NEW_COORDS)).eval()
    randomise(model)
    cfg, weights = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_text(NEW_COORDS)
    save_weights(model, weights)
    images = torch.rand(1, 3, 64, 96)
    (theirs,) = opencv_maps(without_threshold(cfg, tmp_path), weights, images)  # (h * w * A, 5 + C)
    with torch.no_grad():
        found = decode(model(images), model.heads, (64, 96))
    order = np.arange(32 * 48 * 2).reshape(2, 32 * 48).T.ravel()  # ours: anchors, then cells; theirs: cells, anchors
    boxes = found.boxes[0].numpy()[order] / [96, 64, 96, 64]
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    objectness = found.objectness[0].sigmoid().numpy()[order, None]
    scores = found.classes[0].sigmoid().numpy()[order]
    np.testing.assert_allclose(np.hstack([centre, size, scores * objectness]), theirs[:, [0, 1, 2, 3, 5, 6]], atol=1e-4)
    assert theirs.std(0).min() > 0.01
