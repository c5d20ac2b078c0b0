"""Sections of a cfg in, the network that they describe out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .cfg import Section
from .layers import Convolutional, Shape, make_layer, norm_of

OBJECTNESS_PRIOR = 0.01
"""The objectness that a new network gives to every anchor; RetinaNet's prior (Lin et al., ICCV 2017, section 4.1)."""
RESIDUAL_START = 0.1
"""BatchNorm's scale, in a new network, of what a shortcut adds: a deep network learns its first steps far faster."""


@dataclass(frozen=True)
class Head:
    """What one output map means: its anchors, (w, h) in pixels at the network's image_size, and number of classes.

    layer: index of its [yolo] section. A raw map has channels (anchor, [x, y, w, h, objectness, classes...]).
    new_coords: the map's numbers are sigmoids already and a size is (2 * w)^2 anchors (Scaled-YOLOv4, 2021).
    """

    anchors: tuple[tuple[float, float], ...]
    classes: int
    layer: int
    ignore_thresh: float = 0.5
    scale_x_y: float = 1.0
    new_coords: bool = False


class Darknet(nn.Module):
    """Any Darknet cfg as a network: one module a section, run in order, each fed by earlier ones.

    layers: nn.ModuleList, indexed as Darknet counts layers ([net] is not one). sections: the Section of each layer.
    net: the [net] section. sources: for each layer the indices of the layers that feed it, -1 the image.
    heads: one Head an output. image_size: (height, width) that the anchors are meant for.

    Raises CompressError, naming file, section and line, where the cfg makes no sense.
    """

    def __init__(self, sections: Sequence[Section]) -> None:
        super().__init__()
        self.net, self.sections = sections[0], tuple(sections[1:])
        self.image_size = (self.net.integer("height", at_least=1), self.net.integer("width", at_least=1))
        self.sources = tuple(_sources(section, self.sections) for section in self.sections)
        shapes: dict[int, Shape] = {-1: (self.net.integer("channels", at_least=1), *self.image_size)}
        self.layers = nn.ModuleList()
        for section, sources in zip(self.sections, self.sources, strict=True):
            layer, shapes[section.index] = make_layer(section, [shapes[source] for source in sources])
            self.layers.append(layer)
        self.heads = tuple(
            _head(section, shapes[section.index][0]) for section in self.sections if section.kind == "yolo"
        )
        self.outputs = tuple(head.layer for head in self.heads) or (len(self.layers) - 1,)
        last_use = {source: index for index, sources in enumerate(self.sources) for source in sources}
        self.released = tuple(
            tuple(s for s, last in last_use.items() if last == index) for index in range(len(self.layers))
        )
        _initialise(self)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Raw maps, one a [yolo] section in the cfg's order; without any, the last layer's map.

        images: (B, channels, H, W) in [0, 1], H and W multiples of the network's largest stride.
        A map: (B, anchors * (5 + classes), H / stride, W / stride), nothing decoded, in train and eval mode alike.
        """
        maps = {-1: images}
        outputs = []
        for index, (layer, sources, released) in enumerate(zip(self.layers, self.sources, self.released, strict=True)):
            maps[index] = layer(*(maps[source] for source in sources))
            if index in self.outputs:
                outputs.append(maps[index])
            for source in released:
                del maps[source]
        return tuple(outputs)


def head_anchors(section: Section) -> tuple[tuple[float, float], ...]:
    """The (w, h) of a [yolo] section's own anchors, those that its mask names (all of them without a mask)."""
    flat = section.numbers("anchors")
    if len(flat) % 2 or min(flat) <= 0:
        raise section.mistake(f"anchors: expected pairs of positive numbers, found {len(flat)} numbers", "anchors")
    pairs = tuple(zip(flat[::2], flat[1::2], strict=True))
    if section.integer("num", len(pairs)) != len(pairs):
        raise section.mistake(f"num={section.word('num')}, but {len(pairs)} anchors are listed", "num")
    mask = section.integers("mask", ",".join(str(k) for k in range(len(pairs))))
    if not all(0 <= k < len(pairs) for k in mask):
        raise section.mistake(f"mask={section.word('mask')}: expected indices below {len(pairs)}", "mask")
    return tuple(pairs[k] for k in mask)


def _sources(section: Section, sections: Sequence[Section]) -> tuple[int, ...]:
    """Which layers feed this one; -1 is the image."""
    key = {"route": "layers", "shortcut": "from"}.get(section.kind)
    before = () if section.kind == "route" else (section.index - 1,)
    named = () if key is None else section.integers(key)
    sources = before + tuple(index if index >= 0 else section.index + index for index in named)
    for source in sources:
        if key is not None and not 0 <= source < section.index:
            expected = f"expected layers 0 to {section.index - 1}" if section.index else "there is no earlier layer"
            raise section.mistake(f"{key}={section.word(key)} names layer {source}; {expected}", key)
        if source >= 0 and sections[source].kind == "yolo":
            raise section.mistake(f"is fed by layer {source}, a [yolo] section; expected a map", key or "")
    return sources


def _head(section: Section, channels: int) -> Head:
    anchors = head_anchors(section)
    classes = section.integer("classes", 20, at_least=1)
    if section.index == 0:
        raise section.mistake("expected a layer before it")
    if channels != len(anchors) * (5 + classes):
        expected = f"{len(anchors)} anchors x (5 + {classes} classes) = {len(anchors) * (5 + classes)}"
        raise section.mistake(f"expected {expected} channels from the layer before, found {channels}", "classes")
    return Head(
        anchors,
        classes,
        section.index,
        ignore_thresh=section.number("ignore_thresh", 0.5),
        scale_x_y=section.number("scale_x_y", 1.0),
        new_coords=section.integer("new_coords", 0) != 0,
    )


@torch.no_grad()
def _initialise(model: Darknet) -> None:
    """He et al. (ICCV 2015) for leaky 0.1; small heads: objectness starts at the prior, n classes at 1 / (1 + n).

    What a shortcut adds to its input starts small (after Goyal et al. 2017, section 5.1, which starts it at zero).
    """
    for layer in model.layers:
        if isinstance(layer, Convolutional):
            nn.init.kaiming_normal_(layer.conv.weight, a=0.1)
            if layer.conv.bias is not None:
                layer.conv.bias.zero_()
    for section in model.sections:
        layer = model.layers[section.index - 1]
        norm = norm_of(layer) if isinstance(layer, Convolutional) else None
        if section.kind == "shortcut" and norm is not None:
            norm.weight.fill_(RESIDUAL_START)
    for head in model.heads:
        layer = model.layers[head.layer - 1]
        if isinstance(layer, Convolutional) and layer.conv.bias is not None:
            layer.conv.weight.normal_(0, 0.01)
            bias = layer.conv.bias.view(len(head.anchors), 5 + head.classes)  # (A * (5 + C),) -> (A, 5 + C)
            bias[:, 4] = math.log(OBJECTNESS_PRIOR / (1 - OBJECTNESS_PRIOR))
            bias[:, 5:] = -math.log(head.classes)
