"""Darknet's .data file, image lists and .names in, two splits out."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from compress import CompressError, nearest

from .annotated import Annotations, FolderDataset
from .problems import Problems
from .yolo_folders import read_listed

LISTS = {"train": ("train.txt",), "valid": ("valid.txt", "val.txt"), "names": ("*.names",)}
"""What a folder without a .data file must hold instead of its keys."""


class DarknetLists(FolderDataset):
    """Images as Darknet's trainer takes them: text files of image paths, YOLO labels, a file of class names.

    `root` is a .data file (`train = list, valid = list, names = file`), or a folder that holds one, or one with
    train.txt, valid.txt and a .names file. Relative paths count from there, or from the folder above as Darknet's own
    cfg/coco.data has them. The labels of images/a.jpg are labels/a.txt; without a folder `images`, they lie beside it.
    """

    name = "darknet-lists"
    named_subsets: ClassVar[bool] = True
    root: Path
    """A .data file, or the folder of one."""

    def available(self) -> str | None:
        try:
            _keys(self.root)
        except CompressError as missing:
            return str(missing)
        return None

    def read(self, problems: Problems) -> Annotations:
        """The lists, the names and every label file."""
        keys, base = _keys(self.root)
        names = tuple(line.strip() for line in _lines(_find(keys["names"], base, "names")) if line.strip())
        if not names:
            raise CompressError(f"{keys['names']}: names no class; expected one name a line")
        if keys.get("classes", str(len(names))) != str(len(names)):
            raise CompressError(
                f"{self.root}: classes is {keys['classes']} but {keys['names']} has {len(names)} names; make them agree"
            )
        splits = [_images(_find(keys[key], base, key), base) for key in ("train", "valid")]
        return Annotations(names, *(read_listed(paths, len(names), problems) for paths in splits))


def _keys(root: Path) -> tuple[dict[str, str], Path]:
    """`train`, `valid`, `names` (and `classes`) -> path as it is written; and the folder that it counts from."""
    if root.is_dir():
        found = sorted(root.glob("*.data"))
        if len(found) > 1:
            raise CompressError(f"{root}: holds {', '.join(f.name for f in found)}; name one of them as root")
        if not found:
            return _loose(root), root
        root = found[0]
    if not root.is_file():
        raise CompressError(f"{root}: no such file or folder; expected a .data file or the folder of one")
    keys = {}
    for line in _lines(root):
        key, equals, value = line.partition("=")
        if equals and not line.lstrip().startswith("#"):
            keys[key.strip()] = value.strip()
    for key in LISTS:
        if not keys.get(key):
            raise CompressError(f"{root}: no `{key} = FILE`{nearest(key, keys)}")
    return keys, root.parent


def _loose(folder: Path) -> dict[str, str]:
    """The same keys for a folder that has no .data file."""
    keys = {}
    for key, patterns in LISTS.items():
        files = sorted(file for pattern in patterns for file in folder.glob(pattern))
        if len(files) != 1:
            there = f"found {', '.join(f.name for f in files)}" if files else "none there"
            raise CompressError(
                f"{folder}: expected a .data file, or train.txt, valid.txt and one .names file; "
                f"{' or '.join(patterns)}: {there}"
            )
        keys[key] = files[0].name
    return keys


def _find(written: str, base: Path, key: str) -> Path:
    """The file that a key or a line of a list means."""
    for folder in (base, base.parent):
        if (folder / written).is_file():
            return folder / written
    raise CompressError(f"{key} = {written}: no such file in {base}, nor in the folder above; mend the path")


def _images(file: Path, base: Path) -> list[Path]:
    """The image paths of a list, relative to whichever folder the first image that is there lies under."""
    written = list(dict.fromkeys(line.strip() for line in _lines(file) if line.strip()))
    if not written:
        raise CompressError(f"{file}: lists no image; expected one path a line")
    places = dict.fromkeys((base, base.parent, file.parent))
    home = next((place for line in written for place in places if (place / line).is_file()), base)
    return sorted(home / line for line in written)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CompressError(f"{file}: cannot be read as text: {error}") from None
