"""Pascal VOC's XML annotations in, two splits out.

Everingham et al., The Pascal Visual Object Classes challenge, IJCV 2010; the format is that of its development kit.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from compress import CompressError, nearest

from .annotated import Annotated, Annotations, FolderDataset, inside
from .pictures import EXTENSIONS, UNREADABLE, Picture
from .problems import Problems


class Voc(FolderDataset):
    """Pascal VOC folders: JPEGImages/, Annotations/ with an XML file an image, ImageSets/Main/ with lists of names.

    Where there is no list of a split's name, a folder of that name with images and their XML files side by side does
    as well. The classes are those that the annotations name, in alphabetical order. Boxes are corners in pixels, the
    first pixel being 1. Broken images, broken XML and boxes without an area are counted, named and survived.
    """

    name = "voc"
    root: Path
    """The folder that holds JPEGImages, Annotations and ImageSets."""
    train: str = "train"
    """The list (or folder) of the training images."""
    val: str = "val"
    """The list (or folder) of the validation images."""
    classes: tuple[str, ...] = ()
    """The classes in the order of the network's outputs; others are left out. Empty: all there are, by alphabet."""
    difficult: bool = False
    """Whether objects marked as difficult count. The challenge ignores them; here they are left out."""

    def available(self) -> str | None:
        for split in (self.train, self.val):
            if not (self.root / "ImageSets/Main" / f"{split}.txt").is_file() and not (self.root / split).is_dir():
                known = [*(p.stem for p in self.root.glob("ImageSets/Main/*.txt")), *_folders(self.root)]
                return f"{self.root}: neither ImageSets/Main/{split}.txt nor a folder {split}{nearest(split, known)}"
        return None

    def read(self, problems: Problems) -> Annotations:
        """Every XML file of both splits."""
        files = {split: _pairs(self.root, split, problems) for split in (self.train, self.val)}
        read = {
            split: [(image, found) for image, xml in pairs if (found := _read(xml, image, problems)) is not None]
            for split, pairs in files.items()
        }
        named = {each.name for pictures in read.values() for _, found in pictures for each in found.objects}
        classes = self.classes or tuple(sorted(named))
        if not classes:
            raise CompressError(f"{self.root}: no XML file of {self.train} and {self.val} names an object")
        number = {name: i for i, name in enumerate(classes)}
        splits = {
            split: [self._annotated(image, found, number, problems) for image, found in pictures]
            for split, pictures in read.items()
        }
        return Annotations(classes, splits[self.train], splits[self.val])

    def _annotated(self, image: Path, found: _Annotation, number: Mapping[str, int], problems: Problems) -> Annotated:
        wanted = []
        for each in found.objects:
            if each.name not in number:
                problems.add("objects are of none of the classes and are left out", image.name)
            elif each.difficult and not self.difficult:
                problems.add("objects are marked as difficult and are left out", image.name)
            else:
                wanted.append(each)
        scale = np.array([*found.size, *found.size], float)
        boxes = [(each.corners - [1, 1, 0, 0]) / scale for each in wanted]  # the first pixel spans 0 to 1
        labels = [number[each.name] for each in wanted]
        return Annotated(Picture(image, found.size), *inside(boxes, labels, image.name, problems), found.text)


@dataclass(frozen=True)
class _Object:
    """One <object>. corners: (4,) xmin, ymin, xmax, ymax as they are written."""

    name: str
    corners: np.ndarray
    difficult: bool


@dataclass(frozen=True)
class _Annotation:
    """One XML file. size: (width, height) in pixels."""

    size: tuple[int, int]
    objects: Sequence[_Object]
    text: bytes


def _folders(root: Path) -> list[str]:
    return [path.name for path in root.glob("*") if path.is_dir() and any(path.glob("*.xml"))]


def _pairs(root: Path, split: str, problems: Problems) -> list[tuple[Path, Path]]:
    """(image, XML file) of each image of a split, sorted; those that lack one of the two are noted."""
    listed = root / "ImageSets/Main" / f"{split}.txt"
    if listed.is_file():
        folder, annotations = root / "JPEGImages", root / "Annotations"
        lines = listed.read_text(encoding="utf-8-sig").splitlines()
        names = sorted({line.split()[0] for line in lines if line.strip()})  # a second word says whether a class is in
    else:
        folder = annotations = root / split
        names = sorted({path.stem for path in folder.glob("*") if path.suffix.lower() in (*EXTENSIONS, ".xml")})
    if not names:
        raise CompressError(f"{listed if listed.is_file() else folder}: names no image")
    images = {path.stem: path for path in sorted(folder.glob("*")) if path.suffix.lower() in EXTENSIONS}
    pairs = []
    for name in names:
        xml = annotations / f"{name}.xml"
        if name not in images:
            problems.add("images are missing and are left out", name)
        elif not xml.is_file():
            problems.add("images have no annotation and are left out", images[name].name)
        else:
            pairs.append((images[name], xml))
    if not pairs:
        raise CompressError(f"{root}: {split}: none of its {len(names)} images has both an image and an XML file")
    return pairs


def _read(file: Path, image: Path, problems: Problems) -> _Annotation | None:
    """One XML file, or None where it cannot be understood."""
    text = file.read_bytes()
    try:
        root = ElementTree.fromstring(text)
        size = _size(root, image)
    except (ElementTree.ParseError, *UNREADABLE):
        problems.add("annotations cannot be read, and their images are left out", file.name)
        return None
    objects = []
    for each in root.iter("object"):
        name, corners = (each.findtext("name") or "").strip(), _corners(each)
        if not name or corners is None:
            problems.add("objects have no name or no box and are left out", file.name)
        else:
            objects.append(_Object(name, corners, (each.findtext("difficult") or "0").strip() == "1"))
    return _Annotation(size, objects, text)


def _size(root: ElementTree.Element, image: Path) -> tuple[int, int]:
    """(width, height) as annotated; where that is nothing, as some tools write it, of the image itself."""
    width, height = (int(float(root.findtext(f"size/{side}") or 0)) for side in ("width", "height"))
    if width > 0 and height > 0:
        return width, height
    with Image.open(image) as opened:
        return opened.size


def _corners(element: ElementTree.Element) -> np.ndarray | None:
    try:
        corners = [float(element.findtext(f"bndbox/{side}") or "nan") for side in ("xmin", "ymin", "xmax", "ymax")]
    except ValueError:
        return None
    return np.array(corners) if all(map(math.isfinite, corners)) else None
