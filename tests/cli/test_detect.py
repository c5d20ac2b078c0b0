"""Detection with a detector whose answer is known: it finds what is red, wherever a picture or a video shows it."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
from compress_plugins.detection.yolo_folders import YoloFolders
from PIL import Image
from torch import Tensor, nn

import compress
import compress.plugins
from compress.stages.detect import Detector, detect, find_files
from compress.stages.named import Named, Origin
from compress.training.progress import Progress


class RedFinder(compress.Task):
    """One box around everything red."""

    name = "red-finder"

    def detect(self, model: nn.Module, images: Tensor) -> list[dict[str, Tensor]]:
        found = []
        for image in images:
            rows, columns = ((image[0] > 0.7) & (image[1] < 0.4)).nonzero(as_tuple=True)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else []
            boxes = torch.tensor([box], dtype=torch.float32).reshape(-1, 4)
            scores, labels = torch.full((len(boxes),), 0.9), torch.ones(len(boxes), dtype=torch.int64)
            found.append({"boxes": boxes, "scores": scores, "labels": labels})
        return found


def detector(tmp_path: Path, size: int | tuple[int, int]) -> Detector:
    architecture = compress.plugins.installed().make("architectures", {"uses": "darknet", "cfg": "yolov3-tiny-hand"})
    dataset = YoloFolders(root=tmp_path, image_size=size)
    origin = Origin(("green", "red"), dataset.frame(), architecture, dataset, RedFinder(), compress.plugins.installed())
    return Detector(Named("finder", nn.Identity(), origin), nn.Identity(), 0.5, "cpu")


def scene(width: int, height: int, box: tuple[int, int, int, int]) -> np.ndarray:
    pixels = np.full((height, width, 3), (20, 60, 120), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = (255, 10, 10)
    return pixels


@pytest.mark.parametrize("size", [160, (96, 224)])
@pytest.mark.parametrize("shape", [(640, 480), (301, 517), (90, 60)])
def test_boxes_are_in_pixels_of_the_picture(tmp_path: Path, size: int | tuple[int, int], shape: tuple[int, int]):
    width, height = shape
    box = (width // 5, height // 3, width // 2, height - height // 4)
    (tmp_path / "in").mkdir()
    Image.fromarray(scene(width, height, box)).save(tmp_path / "in/one.png")
    Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save(tmp_path / "in/none.webp", lossless=True)
    files = find_files([tmp_path / "in"])
    found = detect(detector(tmp_path, size), files, tmp_path / "out", 4, Progress())
    none, one = found["pictures"]
    assert none["boxes"] == [] and none["drawn"].endswith("none.webp.png") and Path(none["drawn"]).is_file()
    (red,) = one["boxes"]
    pixel = max(max(width, height) / min(np.atleast_1d(size)), 1)  # of the network's input, in pixels of the picture
    np.testing.assert_allclose(red["box"], box, atol=1.5 * pixel)
    assert (red["class"], red["label"], red["score"]) == ("red", 1, 0.9)
    drawn = np.array(Image.open(one["drawn"]))
    inside = drawn[height // 3 + 30 : height // 2, width // 5 + 12 : width // 2 - 12]
    assert drawn.shape == (height, width, 3) and (inside.size == 0 or (inside[..., 0] > 200).all())


def write_by_opencv(file: Path, frames: list[np.ndarray]) -> None:
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 12.5, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()


def write_by_av(file: Path, frames: list[np.ndarray]) -> None:
    with av.open(str(file), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(25, 2))
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize(("write", "suffix", "width"), [(write_by_opencv, "avi", 160), (write_by_av, "mkv", 161)])
def test_a_video_is_drawn_frame_by_frame(tmp_path: Path, write: Any, suffix: str, width: int) -> None:
    source = tmp_path / f"clip.{suffix}"
    boxes = [(10 + 3 * i, 20 + i, 70 + 3 * i, 80 + i) for i in range(20)]
    write(source, [scene(width, 120, box) for box in boxes])
    found = detect(detector(tmp_path, 160), find_files([source]), tmp_path / "out", 8, Progress())
    assert found["pictures"] == []
    (clip,) = found["videos"]
    assert (clip["width"], clip["height"], clip["frames_per_second"]) == (width, 120, 12.5)
    assert [frame["seconds"] for frame in clip["frames"]] == [round(i / 12.5, 4) for i in range(20)]
    for frame, box in zip(clip["frames"], boxes, strict=True):
        (red,) = frame["boxes"]
        np.testing.assert_allclose(red["box"], box, atol=2.5)
    read = cv2.VideoCapture(clip["drawn"])
    assert read.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    frames = []
    while (step := read.read())[0]:
        frames.append(step[1])
    assert len(frames) == 20 and frames[0].shape == (120, 160, 3)
    inside = frames[-1][boxes[-1][1] + 25 : boxes[-1][3] - 6, boxes[-1][0] + 6 : boxes[-1][2] - 6]
    assert inside[..., 2].mean() > 200 and inside[..., 1].mean() < 60  # the object, where it was


def test_without_pyav_a_video_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "clip.mp4").write_bytes(b"")
    with pytest.raises(compress.CompressError, match=r"pip install 'torch-compress\[video\]'"):
        detect(detector(tmp_path, 96), find_files([tmp_path / "clip.mp4"]), tmp_path / "out", 1, Progress())


def test_a_task_without_boxes_says_so(tmp_path: Path) -> None:
    class Blind(RedFinder):
        """Finds nothing."""

        name = "blind"
        detect = compress.Task.detect

    whole = detector(tmp_path, 96)
    origin = Origin(**{**vars(whole.named.origin), "task": Blind()})
    Image.new("RGB", (40, 30)).save(tmp_path / "one.png")
    blind = Detector(Named("blind", whole.model, origin), whole.model, 0.5, "cpu")
    with pytest.raises(compress.CompressError, match="task blind finds no boxes"):
        detect(blind, find_files([tmp_path / "one.png"]), tmp_path / "out", 1, Progress())
