"""The Darknet builder: the published facts, the contract of forward, and what the options change."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from compress_models.darknet import Darknet, DarknetArchitecture, find_cfg, parse_cfg, read_cfg, resize
from fvcore.nn import FlopCountAnalysis
from torch import nn

from compress import CompressError

SHIPPED = sorted(path.stem for path in find_cfg("yolov3-hand").parent.glob("*.cfg"))


def macs(model: nn.Module, images: torch.Tensor) -> int:
    """Multiply-adds of every convolution, counted from what goes in and out of it."""
    total = 0

    def count(conv: nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(conv, nn.Conv2d)
        total += out.numel() * conv.weight[0].numel()

    for conv in model.modules():
        if isinstance(conv, nn.Conv2d):
            conv.register_forward_hook(count)
    with torch.no_grad():
        model(images)
    return total


@pytest.fixture(scope="module")
def yolov3_hand() -> Darknet:
    return Darknet(read_cfg(find_cfg("yolov3-hand"))).eval()


def test_yolov3_hand_has_the_published_size(yolov3_hand: Darknet) -> None:
    norms = [module for module in yolov3_hand.modules() if isinstance(module, nn.BatchNorm2d)]
    assert sum(p.numel() for p in yolov3_hand.parameters()) == 61_523_734
    assert (len(norms), sum(norm.num_features for norm in norms)) == (72, 26_304)
    assert [head.layer for head in yolov3_hand.heads] == [82, 94, 106]
    assert yolov3_hand.heads[2].anchors == ((10, 13), (16, 30), (33, 23))


def numbers(text: str, classes: int) -> int:
    """How many numbers a cfg's weights file holds, from its text alone: convolutions, their biases, 4 a BatchNorm."""
    channels: list[int] = []
    total = 0
    for block in text.split("\n[")[2:]:
        kind, *lines = (line.strip() for line in block.splitlines() if line.strip() and line[0] != "#")
        options = dict(line.split("=") for line in lines)
        before = channels[-1] if channels else 3
        if kind == "convolutional]":
            plain = "batch_normalize" not in options
            filters = 3 * (5 + classes) if plain else int(options["filters"])  # the heads alone have no BatchNorm
            total += filters * (before * int(options["size"]) ** 2 + (1 if plain else 4))
            channels.append(filters)
        elif kind == "route]":
            named = [int(n) for n in options["layers"].split(",")]
            channels.append(sum(channels[n] for n in named) // int(options.get("groups", 1)))
        else:
            channels.append(before)
    return total


@pytest.mark.parametrize(
    ("name", "parameters", "bytes_for_coco"),
    [
        ("yolov3-hand", 61_523_734, 248_007_048),
        ("yolov3-spp-hand", 62_573_334, 252_209_544),
        ("yolov3-tiny-hand", 8_669_876, 35_434_956),
        ("yolov4-tiny-hand", 5_874_116, 24_251_276),
    ],
)
def test_shipped_networks_have_the_size_of_the_published_ones(name: str, parameters: int, bytes_for_coco: int) -> None:
    """With 80 classes, a weights file as large as the one that Darknet's authors give out, header and all."""
    sections = read_cfg(find_cfg(name))
    with torch.device("meta"):
        ours, coco = Darknet(sections), Darknet(resize(sections, 80, (416, 416)))
    assert sum(p.numel() for p in ours.parameters()) == parameters
    held = sum(t.numel() for name, t in coco.state_dict().items() if not name.endswith("num_batches_tracked"))
    assert 20 + 4 * held == 20 + 4 * numbers(find_cfg(name).read_text(), 80) == bytes_for_coco
    assert sorted(find_cfg("yolov3-hand").parent.glob("*.cfg")) == [find_cfg(shipped) for shipped in SHIPPED]


def test_yolov3_hand_costs_the_published_macs_and_fvcore_agrees(yolov3_hand: Darknet) -> None:
    on_meta = copy.deepcopy(yolov3_hand).to("meta")
    assert macs(on_meta, torch.zeros(1, 3, 416, 416, device="meta")) == 32_644_937_728
    counted = FlopCountAnalysis(yolov3_hand, torch.zeros(1, 3, 32, 32)).unsupported_ops_warnings(False)
    assert counted.by_operator()["conv"] * 13 * 13 == 32_644_937_728  # 13 x 13 times 32 x 32 pixels


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize(("classes", "size", "width"), [(1, (64, 96), 0.25), (7, (96, 64), 0.1)])
def test_shipped_cfgs_give_one_raw_map_a_head(name: str, classes: int, size: tuple[int, int], width: float) -> None:
    model = DarknetArchitecture(cfg=name, width=width).build(classes, size)
    assert isinstance(model, Darknet)
    images = torch.rand(2, 3, *size)
    maps = model(images)
    assert len(maps) == len(model.heads) and model.image_size == size
    for map_, head in zip(maps, model.heads, strict=True):
        assert head.classes == classes
        assert map_.shape[1] == len(head.anchors) * (5 + classes)
        assert map_.shape[2] * size[1] == map_.shape[3] * size[0]  # one stride for both axes
    norms = [module.num_features for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(filters % 8 == 0 and filters >= 8 for filters in norms)
    larger = model(torch.rand(1, 3, 2 * size[0], 2 * size[1]))
    assert [m.shape[2] for m in larger] == [2 * m.shape[2] for m in maps]


def test_anchors_are_scaled_from_the_cfg_to_the_images() -> None:
    model = DarknetArchitecture(cfg="yolov3-hand", width=0.1).build(1, (832, 1248))
    assert isinstance(model, Darknet)
    assert model.heads[0].anchors == ((3 * 116, 2 * 90), (3 * 156, 2 * 198), (3 * 373, 2 * 326))


def test_what_shortcuts_add_starts_small() -> None:
    """23 shortcuts, each of the convolution just before it; every other batch norm starts at 1."""
    model = DarknetArchitecture(cfg="yolov3-hand", width=0.125).build(1, (64, 64))
    small = {i - 1 for i, section in enumerate(model.sections) if section.kind == "shortcut"}
    starts = {i: layer.norm.weight for i, layer in enumerate(model.layers) if hasattr(layer, "norm")}
    assert len(small) == 23
    assert all((weight == (0.1 if i in small else 1.0)).all() for i, weight in starts.items())


def test_heads_start_at_the_objectness_prior() -> None:
    torch.manual_seed(0)
    model = DarknetArchitecture(cfg="yolov3-hand", width=0.1).build(2, (64, 64)).train()
    for map_ in model(torch.rand(8, 3, 64, 64)):
        raw = map_.unflatten(1, (3, 7)).sigmoid()  # (B, A * 7, h, w) -> (B, A, 7, h, w)
        assert raw[:, :, 4].mean().item() == pytest.approx(0.01, rel=0.3)
        assert raw[:, :, 5:].mean().item() == pytest.approx(1 / 3, rel=0.1)


def test_maps_are_dropped_after_their_last_use(yolov3_hand: Darknet) -> None:
    released = [index for sources in yolov3_hand.released for index in sources]
    assert len(released) == len(set(released))
    kept = set(range(-1, len(yolov3_hand.layers))) - set(released)
    assert kept == {head.layer for head in yolov3_hand.heads}  # only the outputs live to the end
    for index, sources in enumerate(yolov3_hand.sources):
        for source in sources:
            last = next(i for i, gone in enumerate(yolov3_hand.released) if source in gone)
            assert last >= index


def test_sources_say_what_feeds_each_layer(yolov3_hand: Darknet) -> None:
    for section, sources in zip(yolov3_hand.sections, yolov3_hand.sources, strict=True):
        if section.kind == "shortcut":
            assert sources == (section.index - 1, section.index - 3)
    routes = [s.index for s in yolov3_hand.sections if s.kind == "route"]
    assert [yolov3_hand.sources[index] for index in routes] == [(79,), (85, 61), (91,), (97, 36)]


def test_same_options_and_seed_give_the_same_network() -> None:
    def build() -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        return DarknetArchitecture(cfg="yolov3-tiny-hand", width=0.25).build(1, (64, 64)).state_dict()

    first, second = build(), build()
    assert all(torch.equal(first[name], second[name]) for name in first | second)


def test_image_size_that_does_not_fit_is_named() -> None:
    with pytest.raises(CompressError, match=r"section \d+ \[route\]: joins maps of different sizes: .*multiple of 32"):
        DarknetArchitecture(cfg="yolov3-hand", width=0.25).build(1, (170, 170))


@pytest.mark.parametrize("name", ["yolov3-hands", "models/yolov3-hand.cf"])
def test_missing_cfg_names_the_nearest_shipped_one(name: str) -> None:
    with pytest.raises(CompressError, match=re.escape(name) + ".*did you mean 'yolov3-hand'"):
        DarknetArchitecture(cfg=name).build(1, (64, 64))


def test_cfg_by_path(tmp_path: Path) -> None:
    cfg = tmp_path / "own.cfg"
    cfg.write_text(find_cfg("yolov3-tiny-hand").read_text())
    model = DarknetArchitecture(cfg=cfg).build(1, (96, 96))
    assert sum(p.numel() for p in model.parameters()) == 8_669_876


def test_depthwise_stays_depthwise_at_another_width() -> None:
    text = """[net]
width=32
height=32
channels=3
[convolutional]
filters=32
[convolutional]
filters=32
groups=32
size=3
pad=1
[convolutional]
filters=18
[yolo]
anchors=1,2, 3,4, 5,6
classes=1
"""
    model = Darknet(resize(parse_cfg(text), 1, (32, 32), 0.5))
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert [(conv.groups, conv.out_channels) for conv in convs] == [(1, 16), (16, 16), (1, 18)]
