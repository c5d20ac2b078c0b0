"""A folder with data.yaml, images and YOLO label files in, two splits out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from compress import CompressError, nearest

from .annotated import Annotated, Annotations, FolderDataset
from .labels import labels_of, read_labels
from .pictures import EXTENSIONS, Picture
from .problems import Problems

OXFORD_HAND = "https://www.robots.ox.ac.uk/~vgg/data/hands/"


class YoloFolders(FolderDataset):
    """Images and boxes as YOLO trainers keep them: data.yaml, images/ and labels/ (`class cx cy w h`, fractions).

    data.yaml names `train` and `val` (folders, lists of folders, or text files of image paths; relative to `path`, and
    that to the file itself) and the classes (`names`, a list or a mapping). A folder without one needs the option
    `names`; its splits are images/train and images/val. Without training images the data is good to evaluate on. The
    labels of images/a/b.jpg are labels/a/b.txt. Broken images, wrong labels and empty files are counted, named
    (`Data.problems`) and survived. Where all file names begin with one of two to eight prefixes and an underscore, the
    prefix is the image's subset.
    """

    name = "yolo"
    named_subsets: ClassVar[bool] = True
    root: Path
    """The folder that holds data.yaml."""
    names: Path | None = None
    """A file with the classes' names, one a line, in place of a data.yaml."""

    def available(self) -> str | None:
        if self.names is not None:
            for path in (self.names, self.root / "images/val"):
                if not path.exists():
                    return f"{path}: not there; with data.names=FILE the root holds images/val and labels/val"
            return None
        if (self.root / "data.yaml").is_file():
            return None
        line = f"{self.root}: no data.yaml there; it goes beside images/train, images/val, labels/train and labels/val"
        if (self.root / "images/val").is_dir():
            line += ", or data.names=FILE names the classes, one a line"
        if "oxford" in self.root.name.lower():
            line += (
                f". To get the Oxford Hand data: download and unpack it from {OXFORD_HAND}, then run "
                f"`compress data oxford-hand UNPACKED_FOLDER {self.root}`"
            )
        return line

    def read(self, problems: Problems) -> Annotations:
        """The annotations that data.yaml leads to. Raises CompressError where it is wrong."""
        index = read_index(self.root / "data.yaml") if self.names is None else _index(self.root, self.names)
        train, val = (read_listed(index.images[split], len(index.classes), problems) for split in ("train", "val"))
        _name_orphans([each.picture.path for each in (*train, *val)], problems)
        return Annotations(index.classes, train, val)


def read_listed(paths: Sequence[Path], classes: int, problems: Problems) -> list[Annotated]:
    """Each image with the boxes of its label file."""
    found = []
    for path in paths:
        file = labels_of(path)
        text = file.read_bytes() if file.is_file() else b""
        found.append(Annotated(Picture(path), *read_labels(file, classes, problems), text))
    return found


def _name_orphans(paths: Sequence[Path], problems: Problems) -> None:
    """Note files in the label folders that belong to no image, be it one of the splits or not."""
    for images, labels in sorted({(path.parent, labels_of(path).parent) for path in paths}):
        known = {file.stem for file in images.glob("*") if file.suffix.lower() in EXTENSIONS}
        for orphan in sorted(labels.glob("*.txt")):
            problems.add("label files belong to no image", orphan.name, times=orphan.stem not in known)


@dataclass(frozen=True)
class Index:
    """A data.yaml: file, classes by number, and the images of each split, sorted."""

    file: Path
    classes: tuple[str, ...]
    images: Mapping[str, tuple[Path, ...]]


def read_index(file: Path) -> Index:
    """data.yaml -> Index of `val`, and of `train` if it names one. Raises CompressError naming a key that is wrong."""
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # every scalar a string
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CompressError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise CompressError(f"{file}: expected the keys train, val and names, found {type(content).__name__}")
    classes = _classes(file, content)
    base = file.parent / content.get("path", ".")
    misspelt = "did you mean" in nearest("train", content)
    train = _images(file, content, base, "train") if "train" in content or misspelt else ()
    return Index(file, classes, {"train": train, "val": _images(file, content, base, "val")})


def _index(root: Path, names: Path) -> Index:
    """The Index of a folder that has images/val, perhaps images/train, and no data.yaml."""
    try:
        classes = tuple(line.strip() for line in names.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise CompressError(f"{names}: cannot be read as text: {error}") from None
    if not classes:
        raise CompressError(f"{names}: names no class; expected one name a line")
    content = {split: f"images/{split}" for split in ("train", "val")}
    train = _images(root, content, root, "train") if (root / "images/train").is_dir() else ()
    return Index(names, classes, {"train": train, "val": _images(root, content, root, "val")})


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
