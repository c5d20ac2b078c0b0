"""Weights files: the same bytes there and back, backbone files, and what a wrong file gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compress_models.darknet import (
    Darknet,
    DarknetArchitecture,
    Header,
    find_cfg,
    load_weights,
    parse_cfg,
    read_cfg,
    save_weights,
)

from compress import CompressError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "darknet"
SMALL = """[net]
width=8
height=8
channels=3
[convolutional]
filters=2
size=3
batch_normalize=1
[convolutional]
filters=4
size=1
[convolutional]
filters=6
size=1
batch_normalize=1
"""
COUNTS = (4 * 2 + 2 * 3 * 9, 4 + 4 * 2, 4 * 6 + 6 * 4)


def small() -> Darknet:
    return Darknet(parse_cfg(SMALL))


def write(path: Path, count: int, header: Header | None = None) -> np.ndarray:
    numbers = np.random.default_rng(0).random(count, dtype=np.float32)
    path.write_bytes((header or Header()).pack() + numbers.tobytes())
    return numbers


def test_numbers_go_where_darknet_keeps_them(tmp_path: Path) -> None:
    numbers = write(tmp_path / "w", sum(COUNTS))
    model = small()
    load_weights(model, tmp_path / "w")
    layers: Any = model.layers
    norm, conv, plain = layers[0].norm, layers[0].conv, layers[1].conv
    order = [norm.bias, norm.weight, norm.running_mean, norm.running_var, conv.weight, plain.bias, plain.weight]
    found = np.concatenate([tensor.detach().numpy().ravel() for tensor in order])
    np.testing.assert_array_equal(found, numbers[: sum(COUNTS[:2])])


@pytest.mark.parametrize(
    "header", [Header(0, 2, 5, 3_000_000_000), Header(0, 1, 0, 7), Header(2, 0, 0, 2**40), Header(1001, 0, 0, 5)]
)
def test_round_trip_gives_the_same_bytes(tmp_path: Path, header: Header) -> None:
    first, second = tmp_path / "a.weights", tmp_path / "b.weights"
    write(first, sum(COUNTS), header)
    model = small()
    read = load_weights(model, first)
    save_weights(model, second, read)
    assert read == header
    assert first.read_bytes() == second.read_bytes()
    assert len(header.pack()) == (20 if header.wide else 16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.weights", "b.weights"]


@pytest.mark.data
@pytest.mark.parametrize("name", ["MobileNetV2-YOLOv3-Nano-coco", "yolo-fastest-1.1"])
def test_round_trip_of_real_detectors(tmp_path: Path, name: str) -> None:
    if not DATA.is_dir():
        pytest.skip(f"needs the trained detectors in {DATA}")
    model = Darknet(read_cfg(DATA / f"{name}.cfg"))
    save_weights(model, tmp_path / "w", load_weights(model, DATA / f"{name}.weights"))
    assert (tmp_path / "w").read_bytes() == (DATA / f"{name}.weights").read_bytes()


@pytest.mark.parametrize("cutoff", [1, 2, 3])
@pytest.mark.parametrize("more", [0, 17])
def test_cutoff_reads_the_first_layers_and_leaves_the_rest(tmp_path: Path, cutoff: int, more: int) -> None:
    count = sum(COUNTS[:cutoff])
    write(tmp_path / "w", count + more)
    model, before = small(), small()
    before.load_state_dict(model.state_dict())
    header = load_weights(model, tmp_path / "w", cutoff)
    for name, tensor in model.state_dict().items():
        if name.endswith("conv.weight"):
            assert torch.equal(tensor, before.state_dict()[name]) == (int(name.split(".")[1]) >= cutoff)
    save_weights(model, tmp_path / "again", header, cutoff)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "w").read_bytes()[: 20 + 4 * count]


@pytest.mark.parametrize(
    ("count", "cutoff", "said"),
    [
        (sum(COUNTS) + 1, None, f"expected {sum(COUNTS)} numbers, found {sum(COUNTS) + 1}; nothing was loaded"),
        (sum(COUNTS) - 1, None, f"expected {sum(COUNTS)} numbers, found {sum(COUNTS) - 1}; nothing was loaded"),
        (COUNTS[0], None, f"found {COUNTS[0]}; nothing was loaded; it fits the first 1 layers: cutoff=1"),
        (COUNTS[0], 2, f"its first 2 layers expected {sum(COUNTS[:2])} numbers, found {COUNTS[0]}"),
        (sum(COUNTS), 4, "cutoff=4: expected 1 to 3, the number of layers"),
        (sum(COUNTS), 0, "cutoff=0: expected 1 to 3, the number of layers"),
    ],
)
def test_a_wrong_length_is_named_and_nothing_is_loaded(
    tmp_path: Path, count: int, cutoff: int | None, said: str
) -> None:
    write(tmp_path / "x.weights", count)
    model = small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CompressError) as error:
        load_weights(model, tmp_path / "x.weights", cutoff)
    assert said in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("content", [None, b"", b"\0" * 15, Header().pack()[:18], Header().pack() + b"\0" * 5])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.weights"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CompressError, match=r"x\.weights: "):
        load_weights(small(), path)


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    numbers = np.ones(sum(COUNTS), np.float32)
    numbers[70] = np.nan
    (tmp_path / "x").write_bytes(Header().pack() + numbers.tobytes())
    model = small()
    before = model.state_dict()["layers.0.conv.weight"].clone()
    with pytest.raises(CompressError, match="number 70 of 122 is not finite; nothing was loaded"):
        load_weights(model, tmp_path / "x")
    assert torch.equal(model.state_dict()["layers.0.conv.weight"], before)


def test_the_architecture_starts_from_weights_of_other_classes(tmp_path: Path) -> None:
    path = tmp_path / "other.weights"
    other = DarknetArchitecture(cfg="yolov3-tiny-hand", width=0.125).build(80, (96, 96))
    assert isinstance(other, Darknet)
    save_weights(other, path)
    with pytest.raises(CompressError, match="for other classes, cutoff=15 reads what comes before the first head"):
        DarknetArchitecture(cfg="yolov3-tiny-hand", width=0.125, weights=path).build(1, (96, 96))
    model = DarknetArchitecture(cfg="yolov3-tiny-hand", width=0.125, weights=path, cutoff=15).build(1, (96, 96))
    assert isinstance(model, Darknet)
    theirs = other.layers[:15].state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.layers[:15].state_dict().items())
    with pytest.raises(CompressError, match="no weights are given"):
        DarknetArchitecture(cfg="yolov3-tiny-hand", cutoff=15).build(1, (96, 96))


def test_a_backbone_file_of_yolov3_has_the_published_length(tmp_path: Path) -> None:
    """The file `darknet53.conv.74` that Darknet's authors give out has 162,482,580 bytes."""
    save_weights(Darknet(read_cfg(find_cfg("yolov3-hand"))), tmp_path / "w", cutoff=74)
    assert (tmp_path / "w").stat().st_size == 162_482_580
