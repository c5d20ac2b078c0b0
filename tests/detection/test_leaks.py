"""Near-duplicates across the splits: those that a test plants are found, exactly those, and fast."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from compress_plugins.detection.hand_scene import draw_scene
from compress_plugins.detection.yolo_folders import YoloFolders
from formats import WRITERS, Scene, scenes
from PIL import Image, ImageEnhance

import compress
from compress.cli import main
from compress.training.leaks import CLOSE, difference_hash, leak_lines


def photo(number: int) -> Image.Image:
    """A picture unlike the others: hands and things, drawn by the project itself."""
    pixels, _ = draw_scene(np.random.default_rng([9, number]), (128, 160))
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=35)
    return Image.open(file).convert("RGB")


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "the same": lambda image: image,
    "re-encoded": jpeg,
    "halved": lambda image: image.resize((80, 64)),
    "lighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "flatter": lambda image: ImageEnhance.Contrast(image).enhance(0.7),
}


def folder(root: Path, pictures: dict[str, list[tuple[str, Image.Image]]]) -> Path:
    for split, named in pictures.items():
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for name, image in named:
            image.save(root / "images" / split / f"{name}.png")
            (root / "labels" / split / f"{name}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [hand]\n")
    return root


def test_exactly_the_planted_copies_are_found(tmp_path: Path) -> None:
    train = [(f"t{i}", photo(i)) for i in range(12)]
    copies = [(f"c{i}", alter(train[i][1])) for i, alter in enumerate(COPIES.values())]
    fresh = [(f"v{i}", photo(100 + i)) for i in range(12)]
    root = folder(tmp_path, {"train": train, "val": [*copies, *fresh]})
    for cache in (True, False):
        data = YoloFolders(root=root, image_size=160, cache=cache).open()
        leaks = compress.find_leaks(data)
        assert {(leak.val, leak.train) for leak in leaks} == {(f"c{i}.png", f"t{i}.png") for i in range(len(COPIES))}
        assert leaks[0].distance == 0 and all(leak.distance <= CLOSE for leak in leaks)
    (line,) = leak_lines(leaks)
    assert line.startswith("5 validation images look like a training image") and " and 2 more; " in line
    assert leak_lines(()) == ()


def test_the_hash_is_that_of_a_picture_drawn_small() -> None:
    """Against Pillow's own reduction: cells of whole pixels, their mean grey, darker than the next or not."""
    pixels = np.asarray(photo(3).resize((17 * 6, 16 * 6)))
    cells = Image.fromarray(pixels.mean(2).astype(np.float32)).reduce(6)
    grid = np.asarray(cells)
    expected = np.packbits((grid[:, 1:] > grid[:, :-1]).reshape(-1)).view(np.uint64)
    found = difference_hash(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])[0]
    assert int(np.bitwise_count(expected ^ found).sum()) <= 2  # ties between cells that are equal but for rounding


def test_five_thousand_images_take_seconds() -> None:
    class Split:
        """Noise that is smooth enough to have a structure."""

        def __init__(self, n: int, salt: int) -> None:
            rng = np.random.default_rng(salt)
            small = torch.from_numpy(rng.integers(0, 256, (n, 3, 12, 12), dtype=np.uint8))
            self.images = small.repeat_interleave(8, 2).repeat_interleave(8, 3)

        def __len__(self) -> int:
            return len(self.images)

        def sample(self, index: int, rng: None) -> tuple[torch.Tensor, dict[str, str]]:
            return self.images[index], {"id": str(index)}

    train, val = Split(4000, 1), Split(1000, 2)
    val.images[17] = train.images[3999]
    data = compress.Data("noise", ("x",), train, val, (96, 96), "1")  # type: ignore[arg-type]
    began = time.process_time()
    leaks = compress.find_leaks(data)
    assert time.process_time() - began < 20
    assert [(leak.val, leak.train, leak.distance) for leak in leaks] == [("17", "3999", 0)]


def test_check_names_leaks_and_does_not_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = [(f"t{i}", photo(i)) for i in range(3)]
    root = folder(tmp_path / "set", {"train": train, "val": [("again", jpeg(photo(1))), ("new", photo(50))]})
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        "version: 1\nname: small\nmodel: {uses: darknet, cfg: yolov3-tiny-hand, width: 0.1}\n"
        f"data: {{uses: yolo, root: {root}, image_size: 96}}\nstages:\n  - {{id: dense, uses: train, epochs: 1}}\n"
    )
    assert main(["check", str(recipe)]) == 0
    said = capsys.readouterr().err
    assert "1 validation image looks like a training image" in said and "again.png and t1.png" in said
    assert main(["data", "check", str(root), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(leak["val"], leak["train"]) for leak in found["leaks"]] == [("again.png", "t1.png")]


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_data_check_knows_every_format_and_counts(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = Scene("train9", (80, 60), [], [])
    splits = {"train": [*scenes(0, 4, "train"), empty], "val": scenes(0, 3, "val")}
    root = str(WRITERS[name](tmp_path, splits)["root"])
    assert main(["data", "check", root, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["format"] == name and found["classes"] == ["bolt", "nut", "screw"]
    for split, pictures in splits.items():
        labels = [label for scene in pictures for label in scene.labels]
        counts = {each: labels.count(i) for i, each in enumerate(found["classes"])}
        expected = {"images": len(pictures), "empty": sum(not s.labels for s in pictures), "boxes": counts}
        assert found["splits"][split] == expected
    assert main(["data", "check", root]) == 0
    assert f"{name}, 3 classes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere: no such file or folder"),
        (["."], "is none of yolo, voc, coco, darknet-lists as it stands"),
        ([".", "--format", "vco"], "there is no such format; did you mean 'voc'?"),
        ([".", "--format", "coco"], "no annotations there"),
    ],
)
def test_data_check_says_what_is_missing(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "check", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and said in printed.err and len(printed.err.strip().splitlines()) == 1
