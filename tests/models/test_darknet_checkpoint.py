"""Files of the old PyTorch scripts: state_dicts, weights with their own header, pruned cfgs; and wrong files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compress_models.darknet import (
    Darknet,
    DarknetArchitecture,
    Header,
    load_weights,
    parse_cfg,
    read_cfg,
    save_weights,
)
from compress_plugins.darknet_export import DarknetExporter
from torch import Tensor, nn

import compress
from compress import CompressError

# As the scripts write a cfg that they pruned: every key they have read, batch_normalize=0 at the heads.
PRUNED_CFG = """[net]
batch=16
subdivisions=1
width=64
height=64
channels=3
learning_rate=0.001
steps=400000,450000
scales=.1,.1

[convolutional]
batch_normalize=1
filters=7
size=3
stride=2
pad=1
activation=leaky

[convolutional]
batch_normalize=1
filters=5
size=1
stride=1
pad=1
activation=leaky

[convolutional]
batch_normalize=1
filters=7
size=3
stride=1
pad=1
activation=leaky

[shortcut]
from=-3
activation=linear

[maxpool]
size=2
stride=2

[convolutional]
batch_normalize=0
filters=18
size=1
stride=1
pad=1
activation=linear

[yolo]
mask=0,1,2
anchors=10,13,  16,30,  33,23
classes=1
num=3
jitter=.3
ignore_thresh=.5
truth_thresh=1
random=1
"""


class OldScript(nn.Module):
    """The network of PRUNED_CFG as those scripts build it: one Sequential a section, its parts named by number."""

    def __init__(self, conv: str = "conv_{}", norm: str = "batch_norm_{}") -> None:
        super().__init__()
        self.module_list = nn.ModuleList([nn.Sequential() for _ in range(7)])
        for index, (before, after, size, stride) in {0: (3, 7, 3, 2), 1: (7, 5, 1, 1), 2: (5, 7, 3, 1)}.items():
            layer = self.module_list[index]
            assert isinstance(layer, nn.Sequential)
            layer.add_module(conv.format(index), nn.Conv2d(before, after, size, stride, size // 2, bias=False))
            layer.add_module(norm.format(index), nn.BatchNorm2d(after))
            layer.add_module(f"leaky_{index}", nn.LeakyReLU(0.1))
        head = self.module_list[5]
        assert isinstance(head, nn.Sequential)
        head.add_module(conv.format(5), nn.Conv2d(7, 18, 1))

    def forward(self, x: Tensor) -> Tensor:
        zero, one, two, *_, head, _ = self.module_list
        first = zero(x)
        return head(nn.functional.max_pool2d(first + two(one(first)), 2))


@torch.no_grad()
def old_network(**names: str) -> OldScript:
    torch.manual_seed(0)
    model = OldScript(**names)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.uniform_(-0.5, 0.5)
            module.momentum = 1.0
    model.train()(torch.rand(8, 3, 64, 64))
    return model.eval()


@pytest.fixture
def cfg(tmp_path: Path) -> Path:
    path = tmp_path / "prune_yolov3.cfg"
    path.write_text(PRUNED_CFG)
    return path


def build(cfg: Path, weights: Path, cutoff: int | None = None) -> nn.Module:
    return DarknetArchitecture(cfg=cfg, weights=weights, cutoff=cutoff).build(1, (64, 64)).eval()


@pytest.mark.parametrize("home", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
@torch.no_grad()
def test_numbers_of_numpy_may_stand_beside_the_state_dict(cfg: Path, tmp_path: Path, home: bytes) -> None:
    """As ultralytics' trainer keeps its best score; NumPy's module was called otherwise then."""
    model = old_network(conv="Conv2d", norm="BatchNorm2d")
    kept = {"best_fitness": np.array([0.5]), "score": np.float64(0.5), "model": model.state_dict()}
    torch.save(kept, tmp_path / "last.pt", _use_new_zipfile_serialization=False)
    written = (tmp_path / "last.pt").read_bytes()
    renamed = re.sub(rb"c(numpy\.\w+\.multiarray)\n", b"c" + home + b"\n", written)
    assert renamed.count(home) == 2
    (tmp_path / "last.pt").write_bytes(renamed)
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(build(cfg, tmp_path / "last.pt")(images)[0], model(images))


SAVED: Mapping[str, Callable[[OldScript], Any]] = {
    "its state_dict": lambda model: model.state_dict(),
    "trained on several GPUs": lambda model: {f"module.{key}": value for key, value in model.state_dict().items()},
    "beside an optimizer": lambda model: {"epoch": 99, "model": model.state_dict(), "optimizer": {"lr": 0.1}},
    "in half precision": lambda model: model.half().float().state_dict(),
}


@pytest.mark.parametrize("saved", SAVED)
@pytest.mark.parametrize("names", [{}, {"conv": "Conv2d", "norm": "BatchNorm2d"}], ids=["Lam1360", "ultralytics"])
@pytest.mark.parametrize("zipped", [True, False])
@torch.no_grad()
def test_a_checkpoint_computes_what_the_script_computed(
    cfg: Path, tmp_path: Path, saved: str, names: dict[str, str], zipped: bool
) -> None:
    model = old_network(**names)
    torch.save(SAVED[saved](model), tmp_path / "ckpt.pth", _use_new_zipfile_serialization=zipped)
    images = torch.rand(2, 3, 64, 64)
    (ours,) = build(cfg, tmp_path / "ckpt.pth")(images)
    torch.testing.assert_close(ours, model(images))


@torch.no_grad()
def test_a_checkpoint_is_pruned_and_exported_and_read_again(cfg: Path, tmp_path: Path) -> None:
    torch.save(old_network().state_dict(), tmp_path / "ckpt.pth")
    images = torch.rand(2, 3, 64, 64)
    model = build(cfg, tmp_path / "ckpt.pth")
    pruned = compress.prune(model, images, ratio=0.4, compensate="fold")
    assert pruned.after.params < 0.8 * pruned.before.params
    DarknetExporter().export(pruned.model, images, tmp_path)
    again = build(tmp_path / "model.cfg", tmp_path / "model.weights")
    torch.testing.assert_close(again(images), pruned.model(images))
    torch.save(again.state_dict(), tmp_path / "again.pt")  # our own names do as well
    torch.testing.assert_close(build(tmp_path / "model.cfg", tmp_path / "again.pt")(images), pruned.model(images))


@torch.no_grad()
def test_cutoff_reads_the_first_layers_of_a_checkpoint(cfg: Path, tmp_path: Path) -> None:
    old = old_network()
    torch.save(old.state_dict(), tmp_path / "ckpt.pth")
    state = build(cfg, tmp_path / "ckpt.pth", cutoff=2).state_dict()
    for index, same in ((0, True), (1, True), (2, False)):
        theirs = old.state_dict()[f"module_list.{index}.conv_{index}.weight"]
        assert torch.equal(state[f"layers.{index}.conv.weight"], theirs) == same
    with pytest.raises(CompressError, match="cutoff=8: expected 1 to 7"):
        build(cfg, tmp_path / "ckpt.pth", cutoff=8)


class Harmful:
    """What an unpickler that trusts its file would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("harmed",))


def changed(**changes: Tensor | None) -> dict[str, Tensor]:
    state = {**old_network().state_dict(), **{key.replace("__", "."): value for key, value in changes.items()}}
    return {key: value for key, value in state.items() if value is not None}


WRONG: Mapping[str, tuple[Callable[[], Any], str]] = {
    "a whole model": (old_network, r"holds code beside tensors \(\S+OldScript\).*save the state_dict alone"),
    "code": (lambda: {"model": Harmful()}, r"holds code beside tensors \(posix\.mkdir\), and code in a file is never"),
    "a list": (lambda: [torch.zeros(3)], "expected a state_dict, found list"),
    "another network": (
        lambda: {"backbone.0.weight": torch.zeros(3), "fc.bias": torch.zeros(3), "x": torch.zeros(1)},
        r"expected names like module_list\.0\.conv_0\.weight, found backbone\.0\.weight, fc\.bias, \.\.\.",
    ),
    "no tensors": (lambda: {"epoch": 3}, r"expected names like module_list\.0\.conv_0\.weight, found no tensor"),
    "another width": (
        lambda: changed(module_list__1__conv_1__weight=torch.zeros(6, 7, 1, 1)),
        r"layer 1: convolution's weight is \(6, 7, 1, 1\), the cfg asks for \(5, 7, 1, 1\); nothing was loaded",
    ),
    "a norm too few": (
        lambda: {key: value for key, value in changed().items() if "batch_norm_2" not in key},
        "layer 2 has no batch norm's weight; nothing was loaded",
    ),
    "a bias too many": (
        lambda: changed(module_list__2__conv_2__bias=torch.zeros(7)),
        "layer 2 has convolution's bias, which the cfg does not ask for",
    ),
    "an activation that learned": (
        lambda: changed(module_list__2__activation__weight=torch.zeros(1)),
        "layer 2 has activation's weight, which the cfg does not ask for",
    ),
    "a layer too few": (
        lambda: {key: value for key, value in changed().items() if not key.startswith("module_list.5")},
        "layer 5 has no convolution's weight",
    ),
    "a layer too many": (
        lambda: changed(module_list__6__conv_6__weight=torch.zeros(3, 3, 1, 1)),
        "the cfg has no convolution at layer 6",
    ),
    "not finite": (
        lambda: changed(module_list__5__conv_5__bias=torch.full((18,), torch.nan)),
        "layer 5: convolution's bias is not finite",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_checkpoint_gets_one_line_and_runs_nothing(
    cfg: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make, said = WRONG[wrong]
    torch.save(make(), tmp_path / "x.pth")
    with pytest.raises(CompressError, match=rf"x\.pth: {said}") as error:
        build(cfg, tmp_path / "x.pth")
    assert len(str(error.value).splitlines()) == 1
    assert not Path("harmed").exists()


@pytest.mark.parametrize("kept", [4, 100, 2000])
def test_half_a_checkpoint_gets_one_line(cfg: Path, tmp_path: Path, kept: int) -> None:
    torch.save(old_network().state_dict(), tmp_path / "whole")
    (tmp_path / "x.pth").write_bytes((tmp_path / "whole").read_bytes()[:kept])
    with pytest.raises(CompressError, match=r"x\.pth: cannot be read as a checkpoint of torch\.save; is the file"):
        build(cfg, tmp_path / "x.pth")


def test_the_scripts_own_header_of_five_numbers_is_read(cfg: Path, tmp_path: Path) -> None:
    """They write five int32, version 0.0.0, which by Darknet's rule is a header of four."""
    model = Darknet(read_cfg(cfg))
    save_weights(model, tmp_path / "whole")
    body = (tmp_path / "whole").read_bytes()[20:]
    (tmp_path / "old.weights").write_bytes(np.array([0, 0, 0, 640, 0], "<i4").tobytes() + body)
    again = Darknet(read_cfg(cfg))
    header = load_weights(again, tmp_path / "old.weights")
    assert header == Header(0, 2, 0, 640)
    theirs = model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in again.state_dict().items())
    (tmp_path / "old.weights").write_bytes(np.array([0, 0, 0, 640, 0, 0], "<i4").tobytes() + body)
    with pytest.raises(CompressError, match="nothing was loaded"):
        load_weights(again, tmp_path / "old.weights")


def test_batch_normalize_0_is_none() -> None:
    layers: Any = Darknet(parse_cfg(PRUNED_CFG)).layers
    assert not hasattr(layers[5], "norm") and layers[5].conv.bias is not None and hasattr(layers[2], "norm")


def test_trained_heads_keep_their_anchors_at_another_size(cfg: Path, tmp_path: Path) -> None:
    """As in Darknet: an anchor is so many pixels of the network's input, however large that is."""
    torch.save(old_network().state_dict(), tmp_path / "ckpt.pth")
    given = ((10, 13), (16, 30), (33, 23))

    def anchors(**options: Any) -> Any:
        model = DarknetArchitecture(cfg=cfg, **options).build(1, (128, 128))
        assert isinstance(model, Darknet) and model.image_size == (128, 128)
        return model.heads[0].anchors

    assert anchors(weights=tmp_path / "ckpt.pth") == given
    assert anchors() == anchors(weights=tmp_path / "ckpt.pth", cutoff=3) == tuple((2 * w, 2 * h) for w, h in given)


def test_other_classes_than_the_weights_are_named(cfg: Path, tmp_path: Path) -> None:
    torch.save(old_network().state_dict(), tmp_path / "ckpt.pth")
    with pytest.raises(CompressError, match=r"layer 5: .*; the data has 3 classes, .*prune_yolov3\.cfg has 1"):
        DarknetArchitecture(cfg=cfg, weights=tmp_path / "ckpt.pth").build(3, (64, 64))
