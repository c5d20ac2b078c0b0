"""A folder of folders of images in, two splits out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from PIL import Image
from pydantic import Field
from torch import Tensor

from compress import CompressError, Data

from .pictures import EXTENSIONS, UNREADABLE, read
from .split import ClassDataset, ClassSplit

SPLITS = ("train", "val")
NAMED = 3  # broken files that a line spells out


class ImageFolders(ClassDataset):
    """Images in one folder a class: root/train/CLASS/*.jpg to train on, root/val/CLASS/*.jpg to validate.

    Each image is cut to the aspect of image_size and scaled to it. Files that are no images, or broken, are left out,
    counted and named.
    """

    name = "image-folders"
    root: Path
    """The folder that holds train/ and val/."""
    image_size: Annotated[int, Field(ge=8)] | tuple[Annotated[int, Field(ge=8)], Annotated[int, Field(ge=8)]] = 224
    """Pixels of the square (or the height and width) that every image is scaled to."""

    def available(self) -> str | None:
        missing = [split for split in SPLITS if not (self.root / split).is_dir()]
        if missing:
            wanted = " and ".join(f"{split}/CLASS/*.jpg" for split in SPLITS)
            return f"{self.root}: no folder {' or '.join(missing)} there; it must hold {wanted}"
        return None

    def open(self) -> Data:
        missing = self.available()
        if missing:
            raise CompressError(missing)
        size = (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size
        classes = tuple(sorted(path.name for path in (self.root / "train").iterdir() if path.is_dir()))
        if len(classes) < 2:
            raise CompressError(f"{self.root / 'train'}: expected a folder for each of two or more classes")
        strange = sorted({p.name for p in (self.root / "val").iterdir() if p.is_dir()} - set(classes))
        if strange:
            raise CompressError(f"{self.root / 'val'}: {', '.join(strange)}: no such class in {self.root / 'train'}")
        digest, problems = hashlib.sha256(repr((classes, size)).encode()), []
        splits = {}
        for split in SPLITS:
            files = _files(self.root / split, classes)
            sound = _sound([path for path, _ in files])
            broken = [path.name for (path, _), well in zip(files, sound, strict=True) if not well]
            if broken:
                named = ", ".join(broken[:NAMED]) + (f" and {len(broken) - NAMED} more" if broken[NAMED:] else "")
                problems.append(f"{len(broken)} {split} images cannot be read and are left out: {named}")
            kept = [each for each, well in zip(files, sound, strict=True) if well]
            if not kept:
                raise CompressError(f"{self.root / split}: no image ({', '.join(EXTENSIONS)}) in a class's folder")
            for path, label in kept:
                digest.update(f"{split}/{path.parent.name}/{path.name}\0{path.stat().st_size}\0{label}\0".encode())
            paths = tuple(path for path, _ in kept)
            names = [f"{path.parent.name}/{path.name}" for path in paths]
            images = _OnDisk(paths, size)
            splits[split] = ClassSplit(images, [label for _, label in kept], names, self.flip, self.shift)
        name, fingerprint = self.root.resolve().name, digest.hexdigest()
        return Data(name, classes, splits["train"], splits["val"], size, fingerprint, problems=tuple(problems))


def _files(folder: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """(file, class number) of every image, sorted."""
    found = []
    for label, name in enumerate(classes):
        paths = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in EXTENSIONS)
        found += [(path, label) for path in paths]
    return found


def _sound(paths: Sequence[Path]) -> list[bool]:
    """Whether each file can be decoded."""

    def attempt(path: Path) -> bool:
        try:
            with Image.open(path) as image:
                image.draft("RGB", (1, 1))
                image.load()
        except UNREADABLE:
            return False
        return True

    with ThreadPoolExecutor() as pool:  # Pillow releases the GIL
        return list(pool.map(attempt, paths))


@dataclass(frozen=True)
class _OnDisk(Sequence[Tensor]):
    """Images that are decoded each time they are asked for."""

    paths: tuple[Path, ...]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index):  # type: ignore[no-untyped-def,override]
        try:
            return read(self.paths[index], self.size)
        except UNREADABLE as error:
            raise CompressError(
                f"{self.paths[index]}: could be read when the data was opened, and cannot now ({error}); "
                "check the disk, then resume the run"
            ) from error
