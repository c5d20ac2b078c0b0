"""The classification task against scikit-learn's metrics, its datasets against what lies on the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from compress_plugins.classification.split import shifted
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn import metrics as sk
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from compress import CompressError
from compress.plugins import installed
from compress.testing import check_dataset, check_task

REGISTRY = installed()


class Fixed(nn.Module):
    """A network whose scores are given: image i, all of whose pixels are i / 255, gets row i."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)

    def forward(self, images: Tensor) -> Tensor:
        return self.scores[(images[:, 0, 0, 0] * 255).round().long()]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(8, 60), classes=st.integers(2, 8), batch=st.integers(1, 30))
def test_metrics_are_scikit_learns(seed: int, n: int, classes: int, batch: int) -> None:
    rng = np.random.default_rng(seed)
    scores, truth = rng.normal(size=(n, classes)).astype(np.float32), rng.integers(0, classes, n)
    model, images = Fixed(torch.from_numpy(scores)).train(), torch.arange(n).view(n, 1, 1, 1).repeat(1, 3, 8, 8) / 255
    targets = [{"label": int(label), "id": str(i)} for i, label in enumerate(truth)]
    batches = [(images[k : k + batch], targets[k : k + batch]) for k in range(0, n, batch)]
    told: list[int] = []
    found = REGISTRY.make("tasks", "classify").evaluate(model, batches, tuple(map(str, range(classes))), told.append)
    assert sum(told) == n and model.training
    assert found.metrics["accuracy"] == pytest.approx(sk.accuracy_score(truth, scores.argmax(1)))
    there = sorted(set(truth))
    recall = sk.recall_score(truth, scores.argmax(1), labels=there, average="macro", zero_division=0)
    assert found.metrics["recall"] == pytest.approx(recall)
    assert ("accuracy5" in found.metrics) is (classes > 5)
    if classes > 5:
        five = sk.top_k_accuracy_score(truth, scores, k=5, labels=range(classes))
        assert found.metrics["accuracy5"] == pytest.approx(five)
    assert 1 <= len(found.examples) <= 6
    shown = [int(example["image"][0, 0, 0]) for example in found.examples]
    assert shown == sorted(set(shown)) and [e["labels"][0] for e in found.examples] == scores[shown].argmax(1).tolist()


def test_the_loss_is_cross_entropy_of_either_kind_of_targets() -> None:
    scores, labels = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    images = torch.arange(5).view(5, 1, 1, 1).repeat(1, 3, 4, 4) / 255
    expected = cross_entropy(scores, labels, label_smoothing=0.1)
    task = REGISTRY.make("tasks", {"uses": "classify", "smoothing": 0.1})
    for targets in (labels, [{"label": int(label)} for label in labels]):
        torch.testing.assert_close(task.loss(Fixed(scores), images, targets)["loss"].detach(), expected)


def test_a_network_for_something_else_is_one_line() -> None:
    task = REGISTRY.make("tasks", "classify")
    with pytest.raises(CompressError, match=r"gives scores \(images, classes\), and it gave \(2, 4, 8, 8\)"):
        task.loss(nn.Conv2d(3, 4, 1), torch.rand(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(CompressError, match="nothing to evaluate"):
        task.evaluate(nn.Identity(), [], ("a", "b"))


@given(down=st.integers(-4, 4), right=st.integers(-4, 4))
def test_a_shift_is_a_crop_of_the_padded_image(down: int, right: int) -> None:
    image = torch.arange(3 * 8 * 8, dtype=torch.uint8).view(3, 8, 8)
    crop = pad(image, (4, 4, 4, 4))[:, 4 - down : 12 - down, 4 - right : 12 - right]
    assert torch.equal(shifted(image, down / 8, right / 8), crop)


def test_digits_are_all_there_and_can_be_learnt_from() -> None:
    data = check_dataset(REGISTRY.make("datasets", "digits"))
    assert (len(data.train), len(data.val), data.image_size, data.synthetic) == (1437, 360, (8, 8), False)
    names = [data.train.sample(i, None)[1]["id"] for i in range(1437)]
    assert not set(names) & {data.val.sample(i, None)[1]["id"] for i in range(360)}
    counts = np.bincount([data.val.sample(i, None)[1]["label"] for i in range(360)])
    assert counts.min() > 25 and data.classes == tuple("0123456789")
    model = REGISTRY.make("architectures", {"uses": "vgg-cifar", "depth": 11, "width": 0.1})
    check_task(REGISTRY.make("tasks", "classify"), model.build(10, (8, 8)), data)


def paint(folder: Path, size: tuple[int, int], colour: tuple[int, int, int]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(folder)


def test_image_folders(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("val", 2)):
        for i in range(count):
            paint(tmp_path / split / "red" / f"r{i}.png", (30 + 9 * i, 40), (250, 0, 0))
            paint(tmp_path / split / "blue" / "deep" / f"b{i}.png", (64, 20 + i), (0, 0, 250))
    (tmp_path / "train/red/broken.jpg").write_bytes(b"not an image")
    (tmp_path / "train/red/notes.txt").write_text("no image either")
    made = REGISTRY.make("datasets", {"uses": "image-folders", "root": str(tmp_path), "image_size": [16, 24]})
    data = check_dataset(made)
    assert data.classes == ("blue", "red") and (len(data.train), len(data.val)) == (8, 4)
    assert data.problems == ("1 train images cannot be read and are left out: broken.jpg",)
    for i in range(8):
        image, target = data.train.sample(i, None)
        blue = target["label"] == 0
        assert target["id"].startswith("deep/b" if blue else "red/r")
        assert image[2 if blue else 0].min() == 250 and image[0 if blue else 2].max() == 0
    before = data.fingerprint
    paint(tmp_path / "val/red/more.png", (20, 20), (250, 0, 0))
    assert made.open().fingerprint != before
    (tmp_path / "train/red/r0.png").write_bytes(b"gone")
    with pytest.raises(CompressError, match="could be read when the data was opened"):
        [data.train.sample(i, None) for i in range(8)]
    paint(tmp_path / "val/green/g.png", (20, 20), (0, 250, 0))
    with pytest.raises(CompressError, match="green: no such class"):
        made.open()
    with pytest.raises(CompressError, match=r"no folder train or val there; it must hold train/CLASS/\*.jpg"):
        REGISTRY.make("datasets", {"uses": "image-folders", "root": str(tmp_path / "train")}).open()


def idx(path: Path, values: np.ndarray) -> None:
    """MNIST's own file format: type 8, dimensions, sizes, bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = b"".join(int(n).to_bytes(4, "big") for n in values.shape)
    path.write_bytes(bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes())


def test_torchvision_data_is_found_on_the_disk(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 255, (30, 28, 28)), rng.integers(0, 10, 30)
    for title, part in (("train", slice(0, 20)), ("t10k", slice(20, 30))):
        idx(tmp_path / f"MNIST/raw/{title}-images-idx3-ubyte", pixels[part])
        idx(tmp_path / f"MNIST/raw/{title}-labels-idx1-ubyte", labels[part])
    data = check_dataset(REGISTRY.make("datasets", {"uses": "torchvision/MNIST", "root": str(tmp_path)}))
    assert (data.name, len(data.train), len(data.val), data.image_size) == ("mnist", 20, 10, (28, 28))
    for i in range(10):
        image, target = data.val.sample(i, None)
        assert np.array_equal(image[1].numpy(), pixels[20 + i]) and target["label"] == labels[20 + i]
    scaled = {"uses": "torchvision/MNIST", "root": str(tmp_path), "image_size": 32}
    assert check_dataset(REGISTRY.make("datasets", scaled)).image_size == (32, 32)


def test_torchvision_data_that_is_missing_says_how_to_get_it(tmp_path: Path) -> None:
    made = REGISTRY.make("datasets", {"uses": "torchvision/CIFAR10", "root": str(tmp_path)})
    said = made.available()
    assert said and "\n" not in said and "torchvision does not find CIFAR10 there" in said
    assert f"torchvision.datasets.CIFAR10('{tmp_path}', download=True)" in said
    assert not list(tmp_path.iterdir())
    with pytest.raises(CompressError, match="does not find CIFAR10"):
        made.open()
    with pytest.raises(CompressError, match="no classification data set 'CIFAR11' with two splits; did you mean"):
        REGISTRY.make("datasets", {"uses": "torchvision/CIFAR11", "root": str(tmp_path)})
