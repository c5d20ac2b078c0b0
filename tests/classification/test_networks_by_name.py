"""Networks for classification: parameters against a formula, names against their libraries, the recipe to its end."""

from __future__ import annotations

import importlib.util
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import compress
from compress import CompressError
from compress.cli import main
from compress.plugins import installed

REGISTRY = installed()


def build(name: str, classes: int = 10, size: tuple[int, int] = (32, 32), **options: Any) -> nn.Module:
    return REGISTRY.make("architectures", {"uses": name, **options}).build(classes, size)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def vgg_parameters(depth: int, classes: int) -> int:
    """9 c_in c_out a convolution, 2 c_out a norm, and the last layer; layers as table 1 of the VGG paper lists them."""
    stages = {11: "ABCCDDDD", 13: "AABBCCDDDD", 16: "AABBCCCDDDDDD", 19: "AABBCCCCDDDDDDDD"}[depth]
    channels = [3, *({"A": 64, "B": 128, "C": 256, "D": 512}[stage] for stage in stages)]
    return sum(9 * a * b + 2 * b for a, b in pairwise(channels)) + 513 * classes


def preresnet_parameters(blocks: int, classes: int) -> int:
    """A stage of inner width w begins with i channels: its blocks have 2 i + 4 w norms, i w + 9 w^2 + 4 w^2 weights."""
    total, inputs = 27 * 16, 16
    for w in (16, 32, 64):
        total += inputs * 4 * w  # the shortcut that changes the channels
        for _ in range(blocks):
            total += 2 * inputs + 4 * w + inputs * w + 9 * w * w + 4 * w * w
            inputs = 4 * w
    return total + 2 * 256 + 257 * classes


def densenet_parameters(layers: int, k: int, classes: int) -> int:
    """Layer j of all has c = 16 + j k channels in: 2 c norms and 9 c k weights; a transition at c: 2 c + c^2."""
    total = 27 * 16
    for j in range(3 * layers):
        c = 16 + j * k
        total += 2 * c + 9 * c * k + ((2 * c + c * c) if j in (layers, 2 * layers) else 0)
    last = 16 + 3 * layers * k
    return total + 2 * last + (last + 1) * classes


@pytest.mark.parametrize("classes", [10, 100])
def test_parameters_are_as_the_formula_and_the_paper_say(classes: int) -> None:
    published = {10: (20.04e6, 1.70e6, 1.02e6), 100: (20.08e6, 1.73e6, 1.06e6)}[classes]
    found = [
        count(build("vgg-cifar", classes)),
        count(build("preresnet-cifar", classes)),
        count(build("densenet-cifar", classes)),
    ]
    assert found == [
        vgg_parameters(19, classes),
        preresnet_parameters(18, classes),
        densenet_parameters(12, 12, classes),
    ]
    for here, there in zip(found, published, strict=True):
        assert here == pytest.approx(there, abs=0.0051e6)


@pytest.mark.parametrize("depth", [11, 13, 16])
def test_the_smaller_vggs(depth: int) -> None:
    assert count(build("vgg-cifar", depth=depth)) == vgg_parameters(depth, 10)


def test_gammas_begin_at_a_half_and_convolutions_as_he_et_al_say() -> None:
    torch.manual_seed(0)
    model = build("vgg-cifar", depth=11)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 0.5).all())
        elif isinstance(module, nn.Conv2d) and module.weight.numel() > 1e5:
            assert module.weight.std().item() == pytest.approx((2 / (9 * module.out_channels)) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vgg-cifar", {"depth": 11, "width": 0.25}),
        ("preresnet-cifar", {"depth": 20, "width": 0.25}),
        ("densenet-cifar", {"depth": 10, "growth": 4}),
    ],
)
@pytest.mark.parametrize("side", [8, 32])
def test_they_can_be_cut_by_half_and_verified(name: str, options: dict[str, Any], side: int) -> None:
    torch.manual_seed(0)
    model = build(name, size=(side, side), **options)
    pruned = compress.prune(model.eval(), torch.rand(2, 3, side, side), criterion="bn-gamma", ratio=0.5)
    assert pruned.after.params < 0.5 * pruned.before.params
    assert not [f for f in pruned.frozen.values() if f.by == "verification"]


def test_depths_that_do_not_exist_name_the_nearest() -> None:
    with pytest.raises(CompressError, match=r"160 is not 9 n \+ 2; try 164"):
        build("preresnet-cifar", depth=160)
    with pytest.raises(CompressError, match=r"41 is not 3 n \+ 4; try 40"):
        build("densenet-cifar", depth=41)


def test_torchvisions_networks_by_name() -> None:
    from torchvision import models

    for name in ("resnet18", "mobilenet_v3_small"):
        torch.manual_seed(0)
        ours = build(f"torchvision/{name}", classes=7).state_dict()
        torch.manual_seed(0)
        theirs = models.get_model(name, num_classes=7).state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    with pytest.raises(CompressError, match=r"no classification network 'resnet19'; did you mean 'resnet1[0-9]+'"):
        build("torchvision/resnet19")
    with pytest.raises(CompressError, match="no model is called 'torchvision'"):
        build("torchvision")


def test_timm_is_optional() -> None:
    if importlib.util.find_spec("timm") is None:
        with pytest.raises(CompressError, match="timm is not installed: pip install timm"):
            build("timm/resnet18")
    else:
        assert build("timm/resnet18", classes=7)(torch.rand(2, 3, 32, 32)).shape == (2, 7)
        with pytest.raises(CompressError, match="timm has no network 'resnet17'"):
            build("timm/resnet17")


def shipped(name: str) -> str:
    return str(Path(__file__).parents[2] / "recipes" / name)


def test_the_digits_recipe_shortened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every stage of recipes/digits.yaml in a few steps; a network that has hardly learnt misses what is expected."""
    few = [f"stages.{stage}.epochs=1" for stage in ("baseline", "sparse", "finetuned")]
    few += ["stages.evaluate.seconds=0.1", "expect.accuracy_drop.max=1.0", "threads=1", "device=cpu", "model.width=0.1"]
    assert main(["run", shipped("digits.yaml"), *few, "--out", str(tmp_path / "run")]) == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert [row["role"] for row in report["rows"]] == ["baseline", "sparse", "pruned", "finetuned"]
    assert report["headline"] == "accuracy" and not report["data"]["synthetic"]
    assert "accuracy5" in report["rows"][0]["metrics"]
    assert "Accuracy" in (tmp_path / "run/report.html").read_text()
    epochs = [json.loads(line) for line in (tmp_path / "run/sparse/metrics.jsonl").read_text().splitlines()]
    assert epochs[-1]["pruned_params"] < report["rows"][0]["params"] and epochs[-1]["pruned_macs"] > 0


@pytest.mark.slow
def test_the_digits_recipe_keeps_what_it_expects(tmp_path: Path) -> None:
    assert main(["run", shipped("digits.yaml"), "--out", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("name", ["slimming_vgg19", "slimming_resnet164", "slimming_densenet40"])
def test_the_published_recipes_are_right_and_say_what_data_they_miss(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", shipped(f"{name}.yaml"), f"data.root={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert "torchvision does not find CIFAR10 there" in said and len(said.strip().splitlines()) == 1
