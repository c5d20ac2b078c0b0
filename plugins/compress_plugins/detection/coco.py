"""COCO's JSON annotations in, two splits out.

Lin et al., Microsoft COCO: common objects in context, ECCV 2014; https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress import CompressError, nearest

from .annotated import Annotated, Annotations, FolderDataset, inside
from .pictures import Picture
from .problems import Problems

PLACES = ("annotations/instances_{}*.json", "annotations/*{}*.json", "{}/_annotations.coco.json", "{}.json")
"""Where the JSON of a split is looked for, {} being a word for the split; the first pattern that matches counts."""
WORDS = {"train": ("train",), "val": ("val", "valid", "test")}


class Coco(FolderDataset):
    """COCO's layout: one JSON file a split (`images`, `annotations`, `categories`), images in folders beside it.

    The JSON files are found where COCO (annotations/instances_train2017.json) and its imitators
    (train/_annotations.coco.json) have them. The classes are the categories of the training split, by their id. Crowd
    regions are left out. Missing images, unknown ids and boxes without an area are counted, named and survived.
    """

    name = "coco"
    root: Path
    """The folder that holds the annotations and the images."""
    train: str | None = None
    """The JSON file of the training images, from root on, where it is not found by itself."""
    val: str | None = None
    """The JSON file of the validation images, from root on."""
    images: Path | None = None
    """The folder that the images are under, where it is not root."""
    classes: tuple[str, ...] = ()
    """The classes in the order of the network's outputs; others are left out. Empty: all categories, by id."""

    def available(self) -> str | None:
        try:
            for split in WORDS:
                self._file(split)
        except CompressError as missing:
            return str(missing)
        return None

    def read(self, problems: Problems) -> Annotations:
        """Both JSON files."""
        files = {split: self._file(split) for split in WORDS}
        contents = {split: _load(file) for split, file in files.items()}
        classes = self.classes or tuple(_categories(contents["train"], files["train"]).values())
        train, val = (self._split(split, files[split], contents[split], classes, problems) for split in WORDS)
        return Annotations(classes, train, val)

    def _file(self, split: str) -> Path:
        """The JSON file of a split."""
        wanted = {"train": self.train, "val": self.val}[split]
        if wanted is not None:
            if not (self.root / wanted).is_file():
                there = [str(path.relative_to(self.root)) for path in self.root.glob("**/*.json")]
                raise CompressError(f"{self.root}: {split}: no file {wanted}{nearest(wanted, there)}")
            return self.root / wanted
        for word in WORDS[split]:
            for place in PLACES:
                found = sorted(self.root.glob(place.format(word)))
                if len(found) > 1:
                    several = ", ".join(str(path.relative_to(self.root)) for path in found)
                    raise CompressError(f"{self.root}: {split}: could be {several}; say which: data.{split}=FILE")
                if found:
                    return found[0]
        looked = ", ".join(place.format(WORDS[split][0]) for place in PLACES)
        raise CompressError(f"{self.root}: {split}: no annotations there ({looked}); name them: data.{split}=FILE")

    def _split(
        self, split: str, file: Path, content: Mapping[str, Any], classes: tuple[str, ...], problems: Problems
    ) -> list[Annotated]:
        number = {name: i for i, name in enumerate(classes)}
        names = _categories(content, file)
        labels = {id_: number.get(name) for id_, name in names.items()}
        pictures = _pictures(content, problems)
        if not pictures:
            raise CompressError(f"{file}: lists no image")
        folder = self._folder(split, file, [str(image["file_name"]) for image in pictures.values()])
        rows: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
        for row in content["annotations"]:
            if not isinstance(row, dict) or _key(row.get("image_id")) not in pictures:
                problems.add("annotations belong to no image and are left out", file.name)
            else:
                rows[_key(row["image_id"])].append(row)
        found = []
        for id_, image in pictures.items():
            path, size = folder / image["file_name"], _size(image)
            wanted = [row for row in rows[id_] if _counts(row, labels, path.name, problems)]
            if size is None and wanted:
                problems.add("images have no width and height and are left out", path.name)
                continue
            boxes = [_box(row["bbox"]) / np.array([*(size or (1, 1))] * 2) for row in wanted]
            found.append(
                Annotated(
                    Picture(path, size),
                    *inside(boxes, [labels[_key(row["category_id"])] or 0 for row in wanted], path.name, problems),
                    json.dumps([[row["category_id"], row["bbox"]] for row in wanted]).encode(),
                )
            )
        return sorted(found, key=lambda each: each.picture.path)

    def _folder(self, split: str, file: Path, names: Sequence[str]) -> Path:
        """The folder that a split's file names count from: the first of the usual ones in which one of them is."""
        root = self.images or self.root
        words = (file.stem.removeprefix("instances_"), *WORDS[split])
        named = [root / part / word for word in words for part in ("", "images")]
        places = dict.fromkeys((*named, root, root / "images", file.parent))
        for folder in places:
            if any((folder / name).is_file() for name in names[:50]):
                return folder
        looked = ", ".join(map(str, places))
        raise CompressError(f"{file}: {split}: no image {names[0]} in {looked}; say where: data.images=FOLDER")


def _load(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CompressError(f"{file}: not JSON: {error}") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise CompressError(f"{file}: expected COCO's lists images, annotations and categories; {key} is none")
    return content


def _categories(content: Mapping[str, Any], file: Path) -> dict[Any, str]:
    """Category id -> name, by id."""
    try:
        names = {_key(each["id"]): str(each["name"]) for each in sorted(content["categories"], key=lambda c: c["id"])}
    except (KeyError, TypeError):
        raise CompressError(f"{file}: categories: expected a list of {{id, name}}") from None
    if not names or len(set(names.values())) != len(content["categories"]):
        raise CompressError(f"{file}: categories: expected at least one, each with an id and a name of its own")
    return names


def _pictures(content: Mapping[str, Any], problems: Problems) -> dict[Any, Mapping[str, Any]]:
    """Image id -> its entry."""
    found: dict[Any, Mapping[str, Any]] = {}
    for image in content["images"]:
        if not isinstance(image, dict) or not isinstance(image.get("file_name"), str) or _key(image.get("id")) is None:
            problems.add("image entries have no id or no file_name and are left out", str(image)[:40])
        elif _key(image["id"]) in found:
            problems.add("image entries have the id of another and are left out", image["file_name"])
        else:
            found[_key(image["id"])] = image
    return found


def _counts(row: Mapping[str, Any], labels: Mapping[Any, int | None], name: str, problems: Problems) -> bool:
    """Whether an annotation is a box of a class."""
    kind = _key(row.get("category_id"))
    if row.get("iscrowd"):
        problems.add("crowd regions are left out", name)
    elif kind not in labels:
        problems.add("annotations are of no category that is listed and are left out", name)
    elif labels[kind] is None:
        problems.add("annotations are of none of the classes and are left out", name)
    elif _box(row.get("bbox")) is None:
        problems.add("annotations have no box and are left out", name)
    else:
        return True
    return False


def _box(bbox: Any) -> Any:
    """COCO's [x, y, width, height] -> (4,) xyxy, in pixels; None where it is something else."""
    numbers = isinstance(bbox, list) and len(bbox) == 4 and all(isinstance(v, int | float) for v in bbox)
    if not numbers or not all(map(math.isfinite, bbox)):
        return None
    x, y, width, height = bbox
    return np.array([x, y, x + width, y + height], float)


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    good = isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0
    return (width, height) if good else None  # type: ignore[return-value]


def _key(id_: Any) -> Any:
    """An id that can be looked up: COCO's are numbers, others' are text."""
    return id_ if isinstance(id_, int | str) else None
