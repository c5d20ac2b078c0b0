"""What the tests of formats write: the same pictures of rectangles as YOLO folders, image lists, VOC XML, COCO JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from folders import line
from PIL import Image

CLASSES = ("bolt", "nut", "screw")
COLOURS = ((255, 0, 0), (0, 255, 0), (255, 255, 0))


@dataclass(frozen=True)
class Scene:
    """A picture of rectangles, each of its class's colour. boxes: x0, y0, x1, y1 in whole pixels, from 0."""

    name: str
    size: tuple[int, int]
    boxes: Sequence[tuple[int, int, int, int]]
    labels: Sequence[int]

    def draw(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((self.size[1], self.size[0], 3), (0, 0, 120), np.uint8)
        for (x0, y0, x1, y1), label in zip(self.boxes, self.labels, strict=True):
            pixels[y0:y1, x0:x1] = COLOURS[label]
        Image.fromarray(pixels).save(path)


def scenes(seed: int, n: int, split: str) -> list[Scene]:
    """Pictures of one to three rectangles that do not touch, together of every class."""
    rng = np.random.default_rng([seed, split == "val"])
    made = []
    for i in range(n):
        width, height = (int(v) for v in rng.integers(60, 140, 2))
        columns = width // 3
        boxes = []
        for k in range(int(rng.integers(1, 4))):
            x0, y0 = int(rng.integers(k * columns, k * columns + 6)), int(rng.integers(0, height // 2))
            boxes.append((x0, y0, x0 + int(rng.integers(8, columns - 6)), y0 + int(rng.integers(8, height // 2))))
        labels = [(i + k) % 3 for k in range(len(boxes))]
        made.append(Scene(f"{split}{i}", (width, height), boxes, labels))
    return made


def write_yolo(root: Path, splits: dict[str, list[Scene]]) -> dict[str, object]:
    for split, pictures in splits.items():
        for scene in pictures:
            scene.draw(root / "images" / split / f"{scene.name}.png")
            labels = root / "labels" / split / f"{scene.name}.txt"
            labels.parent.mkdir(parents=True, exist_ok=True)
            labels.write_text(_lines(scene))
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: [{', '.join(CLASSES)}]\n")
    return {"uses": "yolo", "root": str(root)}


def write_lists(root: Path, splits: dict[str, list[Scene]]) -> dict[str, object]:
    """As Darknet's documentation has it: cfg/obj.data, data/obj.names, labels beside the images, paths from above."""
    for split, pictures in splits.items():
        for scene in pictures:
            scene.draw(root / "data/obj" / f"{scene.name}.png")
            (root / "data/obj" / f"{scene.name}.txt").write_text(_lines(scene))
        listed = "".join(f"data/obj/{scene.name}.png\n" for scene in pictures)
        (root / "data" / f"{split}.txt").write_text(listed)
    (root / "data/obj.names").write_text("\n".join(CLASSES) + "\n")
    (root / "cfg").mkdir()
    (root / "cfg/obj.data").write_text(
        "classes= 3\ntrain  = data/train.txt\nvalid  = data/val.txt\n# the rest\nnames = data/obj.names\nbackup = b/\n"
    )
    return {"uses": "darknet-lists", "root": str(root / "cfg/obj.data")}


def write_voc(root: Path, splits: dict[str, list[Scene]]) -> dict[str, object]:
    for split, pictures in splits.items():
        for scene in pictures:
            scene.draw(root / "JPEGImages" / f"{scene.name}.png")
            write_xml(root / "Annotations" / f"{scene.name}.xml", scene)
        (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Main/{split}.txt").write_text("".join(f"{scene.name}\n" for scene in pictures))
    return {"uses": "voc", "root": str(root)}


def write_xml(file: Path, scene: Scene, size: tuple[int, int] | None = None) -> None:
    """One annotation as VOC's development kit has it: the first pixel is 1, the last one of a box belongs to it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = f"{scene.name}.png"
    sides = ElementTree.SubElement(root, "size")
    for side, value in zip(("width", "height", "depth"), (*(size or scene.size), 3), strict=True):
        ElementTree.SubElement(sides, side).text = str(value)
    for (x0, y0, x1, y1), label in zip(scene.boxes, scene.labels, strict=True):
        each = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(each, "name").text = CLASSES[label]
        corners = ElementTree.SubElement(each, "bndbox")
        for key, value in {"xmin": x0 + 1, "ymin": y0 + 1, "xmax": x1, "ymax": y1}.items():
            ElementTree.SubElement(corners, key).text = str(value)
    ElementTree.ElementTree(root).write(file)


def write_coco(root: Path, splits: dict[str, list[Scene]]) -> dict[str, object]:
    """COCO's own folders; category ids have gaps, as COCO's have."""
    for split, pictures in splits.items():
        for scene in pictures:
            scene.draw(root / f"{split}2017" / f"{scene.name}.png")
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(coco(pictures)))
    return {"uses": "coco", "root": str(root)}


def coco(pictures: Sequence[Scene]) -> dict[str, list[dict[str, object]]]:
    """The content of a COCO file."""
    boxes = [
        {"image_id": 70 + i, "category_id": 2 * label + 1, "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0,
         "area": (x1 - x0) * (y1 - y0)}
        for i, scene in enumerate(pictures)
        for (x0, y0, x1, y1), label in zip(scene.boxes, scene.labels, strict=True)
    ]  # fmt: skip
    return {
        "images": [
            {"id": 70 + i, "file_name": f"{scene.name}.png", "width": scene.size[0], "height": scene.size[1]}
            for i, scene in enumerate(pictures)
        ],
        "annotations": [{"id": i, **box} for i, box in enumerate(boxes)],
        "categories": [{"id": 2 * i + 1, "name": name} for i, name in enumerate(CLASSES)],
    }


def _lines(scene: Scene) -> str:
    return "".join(line(*scene.size, box, label) for box, label in zip(scene.boxes, scene.labels, strict=True))


WRITERS: dict[str, Callable[[Path, dict[str, list[Scene]]], dict[str, object]]] = {
    "yolo": write_yolo,
    "darknet-lists": write_lists,
    "voc": write_voc,
    "coco": write_coco,
}
