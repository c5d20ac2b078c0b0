"""YOLO folders, whole and broken, against pictures whose objects can be found by their colour."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from compress_plugins.detection.annotated import find_subsets
from compress_plugins.detection.augment import Augment, augment, clip, recolour
from compress_plugins.detection.labels import labels_of
from compress_plugins.detection.letterbox import fit
from compress_plugins.detection.yolo_folders import YoloFolders
from folders import line, rectangle, red_box, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from compress import CompressError
from compress.plugins import installed

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.mark.parametrize("frame", [160, (96, 160), (224, 64)])
@pytest.mark.parametrize("size", [(90, 60), (61, 133), (400, 300)])
def test_the_box_lies_around_the_object_in_every_frame(tmp_path: Path, frame, size: tuple[int, int]) -> None:
    data = YoloFolders(root=write_folder(tmp_path, size=size), image_size=frame).open()
    height, width = data.image_size
    for split in (data.train, data.val):
        for i in range(len(split)):
            image, target = split.sample(i, None)
            assert image.shape == (3, height, width) and image.dtype == torch.uint8
            np.testing.assert_allclose(target["boxes"].numpy()[0], red_box(image.numpy()), atol=1.01)
            assert target["labels"].tolist() == [0]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_picture_is_turned_as_its_exif_says(tmp_path: Path, orientation: int) -> None:
    root = write_folder(tmp_path, n=1)
    turned = {1: 0, 3: 180, 6: 90, 8: 270}[orientation]  # what the viewer must undo
    stored = rectangle(90, 60, (20, 10, 50, 30)).rotate(turned, expand=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    (root / "images" / "train" / "train0.png").unlink()
    stored.save(root / "images" / "train" / "train0.jpg", exif=exif, quality=95)
    image, target = YoloFolders(root=root, image_size=96).open().train.sample(0, None)
    np.testing.assert_allclose(target["boxes"].numpy()[0], red_box(image.numpy()), atol=1.51)


def test_a_large_jpeg_decoded_small_has_its_object_in_place(tmp_path: Path) -> None:
    root = write_folder(tmp_path, n=1)
    box = (400, 200, 900, 700)
    (root / "images" / "train" / "train0.png").unlink()
    rectangle(1600, 1000, box).save(root / "images" / "train" / "train0.jpg", quality=95)
    (root / "labels" / "train" / "train0.txt").write_text(line(1600, 1000, box))
    image, target = YoloFolders(root=root, image_size=96).open().train.sample(0, None)
    np.testing.assert_allclose(target["boxes"].numpy()[0], red_box(image.numpy()), atol=1.01)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 60), st.integers(0, 40), st.integers(12, 60), st.integers(12, 60))
def test_augmentation_moves_the_box_with_the_object(seed: int, x: int, y: int, w: int, h: int) -> None:
    box = (x, y, min(x + w, 96), min(y + h, 64))
    image = torch.from_numpy(np.array(rectangle(96, 64, box))).permute(2, 0, 1)
    how = Augment(flip=0.5, scale=0.5, translate=0.4, hsv=(0, 0, 0))
    out, boxes, left = augment(image, np.array([box], np.float32), how, np.random.default_rng(seed))
    if len(left):
        np.testing.assert_allclose(boxes[0], red_box(out.numpy()), atol=1.51)
    again, same, _ = augment(image, np.array([box], np.float32), how, np.random.default_rng(seed))
    assert torch.equal(out, again) and np.array_equal(boxes, same)


def test_slivers_go_and_their_labels_with_them() -> None:
    boxes = np.array([[10, 10, 30, 30], [-50, 10, 3, 30], [90, 90, 99, 101.5], [200, 0, 300, 9]], np.float32)
    inside, left = clip(boxes, (100, 100))
    assert left.tolist() == [0, 2]
    np.testing.assert_allclose(inside, [[10, 10, 30, 30], [90, 90, 99, 100]])
    assert clip(np.zeros((0, 4), np.float32), (100, 100))[0].shape == (0, 4)


def test_recolour_turns_hues_and_leaves_grey_alone() -> None:
    colours = torch.tensor([[100, 100, 100], [200, 40, 40], [40, 200, 40]], dtype=torch.uint8).T.reshape(3, 1, 3)
    assert torch.equal(recolour(colours, 0, 1, 1), colours)
    turned = recolour(colours, 1 / 3, 1, 1)
    assert turned[:, 0, 0].tolist() == [100, 100, 100]
    np.testing.assert_allclose(turned[:, 0, 1], [40, 200, 40], atol=1)  # a third of a turn takes red to green
    assert recolour(colours, 0.2, 0.5, 0.5)[:, 0, 0].tolist() == [50, 50, 50]
    grey = recolour(colours, 0, 0, 1)[:, 0, 1]
    assert grey.tolist() == [round(0.299 * 200 + 0.701 * 40)] * 3


def test_a_sample_is_a_function_of_index_and_generator(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    kept, read = (YoloFolders(root=root, image_size=64, cache=cache).open() for cache in (True, False))
    assert kept.fingerprint == read.fingerprint
    first = kept.train.sample(1, np.random.default_rng([1, 2]))
    kept.train.sample(0, np.random.default_rng(5))
    first[0].zero_()  # what a caller does to a sample stays with the caller
    kept.train.sample(1, None)[0].zero_()
    for rng in (lambda: None, lambda: np.random.default_rng([1, 2])):
        one, other = kept.train.sample(1, rng()), read.train.sample(1, rng())
        assert torch.equal(one[0], other[0]) and one[0].any()
        assert torch.equal(one[1]["boxes"], other[1]["boxes"])
    different = {kept.train.sample(1, np.random.default_rng(i))[0].numpy().tobytes() for i in range(8)}
    assert len(different) == 8


def test_collate_makes_a_batch_as_tasks_want_it(tmp_path: Path) -> None:
    split = YoloFolders(root=write_folder(tmp_path), image_size=(64, 96)).open().val
    images, targets = split.collate([split.sample(i, None) for i in range(3)])
    assert images.shape == (3, 3, 64, 96) and images.dtype == torch.float32
    assert torch.equal(images[1], split.sample(1, None)[0] / 255)
    assert [t["id"] for t in targets] == ["val0.png", "val1.png", "val2.png"]
    assert all(t["boxes"].shape == (1, 4) and t["boxes"].dtype == torch.float32 for t in targets)
    assert all(t["labels"].dtype == torch.int64 and t["subset"] is None for t in targets)


def test_what_is_wrong_is_counted_named_and_survived(tmp_path: Path) -> None:
    root = write_folder(tmp_path, n=9)
    images, labels = root / "images" / "train", root / "labels" / "train"
    (images / "train0.png").write_bytes(b"no picture")
    whole = (images / "train1.png").read_bytes()
    (images / "train1.png").write_bytes(whole[: len(whole) // 2])
    (labels / "train2.txt").unlink()
    (labels / "train3.txt").write_text(" \n")
    good = "0 0.5 0.5 0.2 0.2\n"
    (labels / "train4.txt").write_text(good + "1 0.5 0.5 0.2 0.2\n-1 0.5 0.5 0.2 0.2\n0.5 0.5 0.5 0.2 0.2\n")
    (labels / "train5.txt").write_text(good + "0 0.9 0.5 0.6 0.2\n0 1.4 0.5 0.2 0.2\n0 0.5 0.5 0 0.2\n")
    (labels / "train6.txt").write_text(good + "hand\n0 nan 0.5 0.2 0.2\n0 0.5 0.5\n")
    (labels / "train7.txt").write_bytes(b"\xff\xfe\x00")
    (labels / "train8.txt").write_text("0 0.1 0.2 0.4 0.2 0.4 0.5\n0 1.0 0.5 0.005 0.2\n")  # a triangle; a rounded edge
    (labels / "nobody.txt").write_text(good)
    data = YoloFolders(root=root, image_size=96).open()
    assert len(data.train) == 7 and len(data.val) == 9
    assert set(data.problems) == {
        "2 images cannot be read and are left out: train0.png, train1.png",
        "1 label files are missing (their images count as empty): train2.txt",
        "1 label files are empty (their images count as empty): train3.txt",
        "3 labels are not a class from 0 to 0 and are left out: train4.txt",
        "1 boxes reach outside their image and are clipped: train5.txt",
        "2 boxes have no area inside the image and are left out: train5.txt",
        "3 label lines are not `class cx cy w h` and are left out: train6.txt",
        "1 label files cannot be read (their images count as empty): train7.txt",
        "1 label files belong to no image: nobody.txt",
    }
    boxes = {target["id"]: len(target["boxes"]) for _, target in (data.train.sample(i, None) for i in range(7))}
    assert boxes == {"train2.png": 0, "train3.png": 0, "train4.png": 1, "train5.png": 2, "train6.png": 1,
                     "train7.png": 0, "train8.png": 2}  # fmt: skip
    triangle = data.train.sample(6, None)[1]["boxes"][0]
    place = fit(90, 60, (96, 96)).place(np.array([[0.1, 0.2, 0.4, 0.5]], np.float32))[0]
    np.testing.assert_allclose(triangle, place, atol=1e-4)


def test_splits_may_be_lists_and_text_files_and_names_a_mapping(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set")
    (root / "val.txt").write_text("images/val/val2.png\n\nimages/train/train0.png\n")
    (tmp_path / "data.yaml").write_text(
        "path: set\ntrain: [images/train, images/val]\nval: val.txt\nnames: {1: b, 0: no}\n"
    )
    data = YoloFolders(root=tmp_path, image_size=64).open()
    assert (len(data.train), len(data.val), data.classes) == (6, 2, ("no", "b"))
    assert [data.val.sample(i, None)[1]["id"] for i in range(2)] == ["train0.png", "val2.png"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: images/train\nvalid: images/val\nnames: [a]\n", "val: .*did you mean 'valid'"),
        ("train: images/none\nval: images/val\nnames: [a]\n", "train: no folder .*images/none"),
        ("train: images/train\nval: images/val\n", "names: "),
        ("train: images/train\nval: images/val\nnames: [a, b]\nnc: 1\n", "nc is 1 but names has 2"),
        ("train: images/train\nval: images/val\nnames: {0: a, 2: b}\n", "numbered from 0"),
        ("train: labels/train\nval: images/val\nnames: [a]\n", "train: no image"),
        ("- train\n", "expected the keys"),
        ("train: [\n", "not YAML"),
    ],
)
def test_a_wrong_data_yaml_is_one_line_that_says_what(tmp_path: Path, text: str, said: str) -> None:
    root = write_folder(tmp_path)
    (root / "data.yaml").write_text(text)
    with pytest.raises(CompressError, match=said) as error:
        YoloFolders(root=root, image_size=64).open()
    assert "data.yaml" in str(error.value) and "\n" not in str(error.value)


def test_a_split_without_a_readable_image_is_an_error(tmp_path: Path) -> None:
    root = write_folder(tmp_path, n=1)
    (root / "images" / "val" / "val0.png").write_bytes(b"")
    with pytest.raises(CompressError, match="val: none of the 1 images can be read"):
        YoloFolders(root=root, image_size=64).open()


def test_missing_data_say_where_they_come_from_and_name_a_command_that_exists(tmp_path: Path) -> None:
    dataset = YoloFolders(root=tmp_path / "oxford-hand")
    missing = dataset.available()
    assert missing and "https://www.robots.ox.ac.uk/~vgg/data/hands/" in missing and "\n" not in missing
    command = missing.split("`compress ")[1].split()[:2]
    assert command == ["data", "oxford-hand"]
    app = installed().commands[command[0]]
    assert command[1] in {each.name for each in app.registered_commands}
    with pytest.raises(CompressError) as error:
        dataset.open()
    assert str(error.value) == missing
    assert YoloFolders(root=write_folder(tmp_path / "there")).available() is None


def test_subsets_are_prefixes_that_cover_everything() -> None:
    assert find_subsets(["ego_1.jpg", "asl_2.jpg", "ego_b_3.jpg"]) == ("asl", "ego")
    assert find_subsets(["ego_1.jpg", "plain.jpg"]) == ()
    assert find_subsets(["img_1.jpg", "img_2.jpg"]) == ()
    assert find_subsets([f"{i}_1.jpg" for i in range(9)]) == ()
    assert labels_of(Path("a/images/b/images/c/d.jpeg")) == Path("a/images/b/labels/c/d.txt")


def test_the_fingerprint_knows_contents_not_places(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "one")
    moved = shutil.copytree(root, tmp_path / "two")
    fingerprints = [YoloFolders(root=folder, image_size=64).open().fingerprint for folder in (root, moved)]
    (moved / "labels" / "val" / "val1.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    fingerprints.append(YoloFolders(root=moved, image_size=64).open().fingerprint)
    (moved / "images" / "train" / "train1.png").rename(moved / "images" / "train" / "train9.png")
    fingerprints.append(YoloFolders(root=moved, image_size=64).open().fingerprint)
    assert fingerprints[0] == fingerprints[1] and len(set(fingerprints)) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image_size": 100}, "image_size: 100 is no multiple of 32.*try 96"),
        ({"image_size": [64, 0]}, "image_size: 0 is no multiple of 32.*try 32"),
        ({"flip": 1.5}, "flip: 1.5 is not between 0 and 1"),
        ({"scale": 1}, "scale: 1.0 is not between 0 and 1"),
        ({"hsv": [0, 0, -1]}, r"hsv \(value\): -1.0"),
        ({"image_sise": 64}, "did you mean 'image_size'"),
    ],
)
def test_wrong_options_are_said(tmp_path: Path, options: dict, said: str) -> None:
    with pytest.raises(CompressError, match=said):
        installed().make("datasets", {"uses": "yolo", "root": str(tmp_path), **options})


@pytest.mark.data
@pytest.mark.skipif(not (SHARED / "hands").is_dir(), reason=f"the real images are not there: {SHARED / 'hands'}")
def test_the_real_hands_are_read_whole() -> None:
    data = YoloFolders(root=SHARED / "hands", image_size=64).open()
    assert (len(data.train), len(data.val), data.classes, data.problems) == (1807, 604, ("hand",), ())
    assert data.subsets == ("asl", "dguzk", "ego", "gest")
    boxes = [sum(len(split.sample(i, None)[1]["boxes"]) for i in range(len(split))) for split in (data.train, data.val)]
    assert boxes == [2439, 730]
