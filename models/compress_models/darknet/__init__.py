"""Darknet cfg and weights files in, networks out: YOLOv3 and whatever else is written in Darknet's language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import ClassVar

from torch import nn

from compress import Architecture, CompressError, hookimpl, nearest

from .cfg import Section, format_cfg, parse_cfg, read_cfg
from .checkpoint import is_checkpoint, load_checkpoint
from .describe import describe
from .network import Darknet, Head
from .resize import resize
from .weights import Header, load_weights, save_weights

__all__ = [
    "Darknet",
    "DarknetArchitecture",
    "Head",
    "Header",
    "Section",
    "describe",
    "find_cfg",
    "format_cfg",
    "load_weights",
    "parse_cfg",
    "read_cfg",
    "resize",
    "save_weights",
]


class DarknetArchitecture(Architecture):
    """A network from a Darknet cfg: a shipped one by name (yolov3-hand, yolov4-tiny-hand, ...) or any file by path.

    cfg: shipped name or path. width: factor on the filters of every layer but the heads' last, rounded to a multiple
    of 8. weights: what `start: fresh` means then, a .weights file or a .pth checkpoint (state_dict) of the PyTorch
    scripts that read cfgs. cutoff: read only the first layers of it, as of a backbone file.
    """

    name = "darknet"
    task: ClassVar[str | None] = "yolov3"
    reads: ClassVar[Mapping[str, str]] = {".cfg": "cfg"}

    cfg: str | Path
    width: float = 1.0
    weights: Path | None = None
    cutoff: int | None = None

    def native_size(self) -> tuple[int, int] | None:
        """The [net] section's height and width."""
        net = read_cfg(find_cfg(self.cfg))[0]
        return net.integer("height", at_least=1), net.integer("width", at_least=1)

    def build(self, classes: int, image_size: tuple[int, int]) -> nn.Module:
        """A Darknet with heads for `classes`, for images of (height, width) pixels.

        Anchors are scaled to that size from the cfg's - unless the heads are trained already: what those learned to
        say, they say in the cfg's anchors, whatever the size of the image.
        """
        if not self.width > 0:
            raise CompressError(f"width={self.width}: expected a factor above 0")
        sections = read_cfg(find_cfg(self.cfg))
        if not any(section.kind == "yolo" for section in sections):
            raise CompressError(f"{self.cfg}: has no [yolo] section; a detector needs at least one")
        if self.cutoff is not None and self.weights is None:
            raise CompressError(f"cutoff={self.cutoff}: says how much of `weights` to read, but no weights are given")
        trained = self.weights is not None and self.cutoff is None
        model = Darknet(resize(sections, classes, image_size, self.width, scale_anchors=not trained))
        if self.weights is not None:
            load = load_checkpoint if is_checkpoint(self.weights) else load_weights
            try:
                load(model, self.weights, self.cutoff)
            except CompressError as error:
                own = {head.classes for head in Darknet(sections).heads}
                other = f"; the data has {classes} classes, {self.cfg} has {', '.join(map(str, sorted(own)))}"
                raise CompressError(f"{error}{other if trained and own != {classes} else ''}") from None
        return model


def find_cfg(name: str | Path) -> Path:
    """The file of a shipped cfg, or the file at a path. Raises CompressError where there is neither."""
    folder = Path(str(resources.files("compress_models"))) / "cfg"
    shipped = {path.stem: path for path in folder.glob("*.cfg")}
    if str(name) in shipped:
        return shipped[str(name)]
    if Path(name).is_file():
        return Path(name)
    hint = nearest(Path(name).stem, shipped)
    raise CompressError(f"cfg '{name}': neither a file nor the name of a shipped cfg{hint}")


@hookimpl
def compress_register_models() -> Sequence[type[Architecture]]:
    """The `darknet` architecture."""
    return [DarknetArchitecture]
