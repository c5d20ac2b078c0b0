"""Darknet cfg and weights files in, networks out: YOLOv3 and whatever else is written in Darknet's language."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import ClassVar

from torch import nn

from compress import Architecture, CompressError, hookimpl, nearest

from .cfg import Section, format_cfg, parse_cfg, read_cfg
from .network import Darknet, Head
from .resize import resize

__all__ = [
    "Darknet",
    "DarknetArchitecture",
    "Head",
    "Section",
    "find_cfg",
    "format_cfg",
    "parse_cfg",
    "read_cfg",
    "resize",
]


class DarknetArchitecture(Architecture):
    """A network from a Darknet cfg: a shipped one by name (yolov3-hand, yolov3-tiny-hand) or any file by path.

    cfg: shipped name or path. width: factor on the filters of every layer but the heads' last, rounded to a multiple
    of 8.
    """

    name = "darknet"
    task: ClassVar[str | None] = "yolov3"

    cfg: str
    width: float = 1.0

    def build(self, classes: int, image_size: tuple[int, int]) -> nn.Module:
        """A Darknet with heads for `classes` and anchors for images of (height, width) pixels."""
        if not self.width > 0:
            raise CompressError(f"width={self.width}: expected a factor above 0")
        sections = read_cfg(find_cfg(self.cfg))
        if not any(section.kind == "yolo" for section in sections):
            raise CompressError(f"{self.cfg}: has no [yolo] section; a detector needs at least one")
        return Darknet(resize(sections, classes, image_size, self.width))


def find_cfg(name: str) -> Path:
    """The file of a shipped cfg, or the file at a path. Raises CompressError where there is neither."""
    folder = Path(str(resources.files("compress_models"))) / "cfg"
    shipped = {path.stem: path for path in folder.glob("*.cfg")}
    if name in shipped:
        return shipped[name]
    if Path(name).is_file():
        return Path(name)
    hint = nearest(Path(name).stem, shipped)
    raise CompressError(f"cfg '{name}': neither a file nor the name of a shipped cfg{hint}")


@hookimpl
def compress_register_models() -> Sequence[type[Architecture]]:
    """The `darknet` architecture."""
    return [DarknetArchitecture]
