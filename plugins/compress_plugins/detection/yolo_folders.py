"""A folder with data.yaml, images and YOLO label files in, two splits out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from torch import Tensor

from compress import CompressError, Data, nearest

from .augment import Augment
from .labels import read_labels
from .pictures import EXTENSIONS, OnDisk, decode_all
from .problems import Problems
from .split import DetectionDataset, DetectionSplit

OXFORD_HAND = "https://www.robots.ox.ac.uk/~vgg/data/hands/"
MOST_SUBSETS = 8


class YoloFolders(DetectionDataset):
    """Images and boxes as YOLO trainers keep them: data.yaml, images/ and labels/ (`class cx cy w h`, fractions).

    data.yaml names `train` and `val` (folders, lists of folders, or text files of image paths; relative to `path`, and
    that to the file itself) and the classes (`names`, a list or a mapping). The labels of images/a/b.jpg are
    labels/a/b.txt. Broken images, wrong labels and empty files are counted, named (`Data.problems`) and survived.
    Where all file names begin with one of two to eight prefixes and an underscore, the prefix is the image's subset.
    """

    name = "yolo"
    root: Path
    """The folder that holds data.yaml."""
    cache: bool = True
    """Keep the fitted images in memory, image_size * image_size * 3 bytes each; otherwise decode them every time."""

    def available(self) -> str | None:
        if (self.root / "data.yaml").is_file():
            return None
        line = f"{self.root}: no data.yaml there; it goes beside images/train, images/val, labels/train and labels/val"
        if "oxford" in self.root.name.lower():
            line += (
                f". To get the Oxford Hand data: download and unpack it from {OXFORD_HAND}, then run "
                f"`compress data oxford-hand UNPACKED_FOLDER {self.root}`"
            )
        return line

    def open(self) -> Data:
        """Read everything once. Raises CompressError where data.yaml is missing or wrong, or a split has no image."""
        missing = self.available()
        if missing:
            raise CompressError(missing)
        frame = self.frame()
        index = read_index(self.root / "data.yaml")
        problems = Problems()
        train = _read_split(index, "train", frame, self.cache, problems)
        val = _read_split(index, "val", frame, self.cache, problems)
        subsets = find_subsets([*train.names, *val.names])
        return Data(
            name=self.root.resolve().name,
            classes=index.classes,
            train=train.split(subsets, self.how()),
            val=val.split(subsets, self.how()),
            image_size=frame,
            fingerprint=_fingerprint(index.classes, train, val),
            subsets=subsets,
            problems=problems.lines(),
        )


@dataclass(frozen=True)
class Index:
    """A data.yaml: file, classes by number, and the images of each split, sorted."""

    file: Path
    classes: tuple[str, ...]
    images: Mapping[str, tuple[Path, ...]]


def read_index(file: Path) -> Index:
    """data.yaml -> Index of `train` and `val`. Raises CompressError naming the key that is missing or wrong."""
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # every scalar a string
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CompressError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise CompressError(f"{file}: expected the keys train, val and names, found {type(content).__name__}")
    classes = _classes(file, content)
    base = file.parent / content.get("path", ".")
    return Index(file, classes, {split: _images(file, content, base, split) for split in ("train", "val")})


def _classes(file: Path, content: dict[str, Any]) -> tuple[str, ...]:
    names = content.get("names")
    if isinstance(names, dict):
        if sorted(names) != sorted(str(i) for i in range(len(names))):
            raise CompressError(f"{file}: names must be numbered from 0 without a gap, found {', '.join(names)}")
        names = [names[str(i)] for i in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise CompressError(f"{file}: names: a list of class names is missing, e.g. names: [hand]")
    if "nc" in content and content["nc"] != str(len(names)):
        raise CompressError(f"{file}: nc is {content['nc']} but names has {len(names)} classes; make them agree")
    return tuple(names)


def _images(file: Path, content: dict[str, Any], base: Path, split: str) -> tuple[Path, ...]:
    """The image files of one split, sorted. Raises CompressError where a folder is missing or holds none."""
    if not content.get(split):
        raise CompressError(f"{file}: {split}: the folder of the {split} images is missing{nearest(split, content)}")
    entries = content[split] if isinstance(content[split], list) else [content[split]]
    found: set[Path] = set()
    for entry in entries:
        place = base / entry
        if place.is_dir():
            found.update(p for p in place.rglob("*") if p.suffix.lower() in EXTENSIONS)
        elif place.is_file() and place.suffix == ".txt":
            found.update(place.parent / line.strip() for line in place.read_text().splitlines() if line.strip())
        else:
            raise CompressError(f"{file}: {split}: no folder {place}; paths are relative to `path`, here {base}")
    if not found:
        raise CompressError(f"{file}: {split}: no image ({', '.join(EXTENSIONS)}) in {', '.join(entries)}")
    return tuple(sorted(found))


def labels_of(image: Path) -> Path:
    """Where the labels of an image are: the last folder called `images` is `labels` instead, the suffix .txt."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def find_subsets(names: Sequence[str]) -> tuple[str, ...]:
    """The prefixes before "_", sorted, where two to eight of them cover every name; else none."""
    prefixes = {name.partition("_")[0] if "_" in name else "" for name in names}
    return tuple(sorted(prefixes)) if "" not in prefixes and 2 <= len(prefixes) <= MOST_SUBSETS else ()


@dataclass(frozen=True)
class _Read:
    """What was read of a split: pixels, name, boxes and labels of each image that survived; a digest of its files."""

    images: Sequence[Tensor]
    names: tuple[str, ...]
    boxes: tuple[np.ndarray, ...]
    labels: tuple[np.ndarray, ...]
    digest: bytes

    def split(self, subsets: tuple[str, ...], how: Augment) -> DetectionSplit:
        parts = tuple(name.partition("_")[0] if subsets else None for name in self.names)
        return DetectionSplit(self.images, self.boxes, self.labels, self.names, parts, how)


def _read_split(index: Index, split: str, frame: tuple[int, int], cache: bool, problems: Problems) -> _Read:
    paths = index.images[split]
    digest = hashlib.sha256()
    kept: list[tuple[Path, Tensor | None, np.ndarray, np.ndarray]] = []
    for path, decoded in zip(paths, decode_all(paths, frame, keep=cache), strict=True):
        label_file = labels_of(path)
        size = path.stat().st_size if path.is_file() else -1
        text = label_file.read_bytes() if label_file.is_file() else b""
        digest.update(f"{split}/{path.name}\0{size}\0{len(text)}\0".encode() + text)
        if decoded is None:
            problems.add("images cannot be read and are left out", path.name)
            continue
        image, place = decoded
        boxes, labels = read_labels(label_file, len(index.classes), problems)
        kept.append((path, image, place.place(boxes), labels))
    if not kept:
        raise CompressError(f"{index.file}: {split}: none of the {len(paths)} images can be read, e.g. {paths[0]}")
    _name_orphans(paths, problems)
    read_paths = tuple(path for path, *_ in kept)
    pixels = [image for _, image, _, _ in kept if image is not None]
    return _Read(
        images=pixels if cache else OnDisk(read_paths, frame),
        names=tuple(path.name for path in read_paths),
        boxes=tuple(boxes for _, _, boxes, _ in kept),
        labels=tuple(labels for _, _, _, labels in kept),
        digest=digest.digest(),
    )


def _name_orphans(paths: Sequence[Path], problems: Problems) -> None:
    """Note label files in the split's label folders that belong to no image."""
    expected = {labels_of(path) for path in paths}
    for folder in sorted({path.parent for path in expected}):
        for orphan in sorted(set(folder.glob("*.txt")) - expected):
            problems.add("label files belong to no image", orphan.name)


def _fingerprint(classes: tuple[str, ...], *splits: _Read) -> str:
    """sha256 over the classes and each split's sorted names, file sizes and label texts."""
    return hashlib.sha256("\0".join(classes).encode() + b"".join(s.digest for s in splits)).hexdigest()
