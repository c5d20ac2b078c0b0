"""Oxford Hand made up in MATLAB's format, converted, and read back as YOLO folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from compress_plugins.detection.oxford_hand import SPLITS, convert, read_boxes
from compress_plugins.detection.yolo_folders import YoloFolders
from folders import rectangle, red_box
from scipy.io import savemat
from typer.testing import CliRunner

from compress import CompressError
from compress.plugins import installed


def annotate(file: Path, corners: list[list[tuple[float, float]]]) -> None:
    """Four corners (x, y) a hand, the first pixel spans 0 to 1 -> MATLAB's (y, x), where its middle is 1."""
    cells = np.empty((1, len(corners)), object)
    for i, hand in enumerate(corners):
        cells[0, i] = {name: np.array([[y + 0.5, x + 0.5]]) for name, (x, y) in zip("abcd", hand, strict=True)}
        cells[0, i]["side"] = "L"
    savemat(file, {"boxes": cells})


def upright(x0: float, y0: float, x1: float, y1: float) -> list[tuple[float, float]]:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """One split's images are 4, 3 and 2; each shows one hand, its rectangle red."""
    root = tmp_path / "unpacked" / "hand_dataset"
    for n, (split, part) in zip((4, 3, 2), SPLITS.items(), strict=True):
        for kind in ("images", "annotations"):
            (root / part / kind).mkdir(parents=True)
        for i in range(n):
            box = (10 + i, 5, 50, 25 + i)
            rectangle(80, 64, box).save(root / part / "images" / f"{split}_{i}.jpg", quality=95, subsampling=0)
            annotate(root / part / "annotations" / f"{split}_{i}.mat", [upright(*box)])
    return tmp_path / "unpacked"


def test_boxes_lie_around_the_hands_and_the_splits_stay_apart(source: Path, tmp_path: Path) -> None:
    converted = convert(source, tmp_path / "data" / "oxford-hand")
    assert converted.counts == {"train": (4, 4), "val": (3, 3), "test": (2, 2)} and converted.problems == ()
    data = YoloFolders(root=tmp_path / "data" / "oxford-hand", image_size=(64, 96)).open()
    assert (len(data.train), len(data.val), data.classes, data.problems) == (4, 3, ("hand",), ())
    for split, name in ((data.train, "train"), (data.val, "val")):
        for i in range(len(split)):
            image, target = split.sample(i, None)
            assert target["id"] == f"{name}_{i}.jpg"
            np.testing.assert_allclose(target["boxes"].numpy()[0], red_box(image.numpy()), atol=1.01)


def test_a_rotated_rectangle_becomes_the_upright_one_around_it(tmp_path: Path) -> None:
    annotate(tmp_path / "a.mat", [[(10, 2), (20, 12), (12, 20), (2, 10)], upright(1, 2, 3, 4)])
    corners = read_boxes(tmp_path / "a.mat")
    assert corners.shape == (2, 4, 2)
    np.testing.assert_allclose(corners[0], [(10, 2), (20, 12), (12, 20), (2, 10)])
    savemat(tmp_path / "none.mat", {"boxes": np.empty((1, 0), object)})
    assert read_boxes(tmp_path / "none.mat").shape == (0, 4, 2)


def test_what_is_wrong_is_counted_and_survived(source: Path, tmp_path: Path) -> None:
    part = source / "hand_dataset" / SPLITS["train"]
    (part / "annotations" / "train_0.mat").unlink()
    (part / "annotations" / "train_1.mat").write_bytes(b"not MATLAB at all")
    (part / "images" / "train_2.jpg").write_bytes(b"")
    annotate(part / "annotations" / "train_3.mat", [upright(-20, -20, -5, -5), upright(60, 30, 100, 50)])
    converted = convert(source, tmp_path / "out")
    assert converted.counts["train"] == (1, 1)
    assert set(converted.problems) == {
        "1 images have no annotation and are left out: train_0.jpg",
        "1 annotations cannot be read, and their images are left out: train_1.mat",
        "1 images cannot be read and are left out: train_2.jpg",
        "1 boxes have no area inside their image and are left out: train_3.jpg",
    }
    numbers = [float(word) for word in (tmp_path / "out/labels/train/train_3.txt").read_text().split()]
    np.testing.assert_allclose(numbers, [0, 70 / 80, 40 / 64, 20 / 80, 20 / 64], atol=1e-6)


def test_all_or_nothing_and_nothing_is_written_over(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(CompressError, match="is there already"):
        convert(source, out)
    assert [p.name for p in out.iterdir()] == ["mine.txt"]
    with pytest.raises(CompressError, match="no training_dataset/training_data there"):
        convert(tmp_path, tmp_path / "new")
    for file in (source / "hand_dataset" / SPLITS["val"] / "annotations").iterdir():
        savemat(file, {"boxen": 1})
    with pytest.raises(CompressError, match=r"val_2\.mat: expected MATLAB's cell array `boxes`"):
        convert(source, tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "unpacked"]
    (source / "hand_dataset" / SPLITS["test"] / "images").rename(source / "elsewhere")
    with pytest.raises(CompressError, match="test_dataset/test_data/images is missing"):
        convert(source, tmp_path / "new")


def test_the_command_converts_and_says_what_it_did(source: Path, tmp_path: Path) -> None:
    said = CliRunner().invoke(installed().commands["data"], ["oxford-hand", str(source), str(tmp_path / "out")])
    assert said.exit_code == 0 and "train: 4 images, 4 hands" in said.output
    assert YoloFolders(root=tmp_path / "out").available() is None
