"""Sections in, the same network's sections for other classes, another image size or another width out."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .cfg import Section
from .network import head_anchors


def resize(
    sections: Sequence[Section],
    classes: int,
    image_size: tuple[int, int],
    width: float = 1.0,
    scale_anchors: bool = True,
) -> tuple[Section, ...]:
    """The cfg as it would have been written for this job.

    classes: of every [yolo]; the convolution before it gets filters = anchors * (5 + classes).
    image_size: (height, width) in pixels; anchors are scaled from the cfg's own, unless scale_anchors is False. width:
    factor on every other layer's filters, rounded to a multiple of 8 and at least 8 (1 changes nothing).
    """
    net = sections[0]
    scale = (image_size[1] / net.integer("width", at_least=1), image_size[0] / net.integer("height", at_least=1))
    if not scale_anchors:
        scale = (1, 1)
    yolo = {section.index: section for section in sections if section.kind == "yolo"}
    resized = [net.revised(width=image_size[1], height=image_size[0])]
    for section in sections[1:]:
        if section.index in yolo:
            if sections[section.index].kind != "convolutional":  # sections[0] is [net], so this is the layer before
                raise section.mistake("expected [convolutional] before [yolo], so that its filters fit the classes")
            section = _with_anchors(section.revised(classes=classes), scale)
        elif section.index + 1 in yolo:
            section = section.revised(filters=len(head_anchors(yolo[section.index + 1])) * (5 + classes))
        elif section.kind == "convolutional" and width != 1:
            section = _with_width(section, width)
        resized.append(section)
    return tuple(resized)


def _with_anchors(section: Section, scale: tuple[float, float]) -> Section:
    if scale == (1, 1):
        return section
    scaled = (f"{value * scale[k % 2]:.6g}" for k, value in enumerate(section.numbers("anchors")))
    return section.revised(anchors=",".join(scaled))


def _with_width(section: Section, width: float) -> Section:
    filters = section.integer("filters", at_least=1)
    groups = section.integer("groups", 1, at_least=1)
    scaled = max(8, 8 * math.floor(filters * width / 8 + 0.5))
    if groups > 1 and groups == filters:  # depthwise stays depthwise
        return section.revised(filters=scaled, groups=scaled)
    return section.revised(filters=scaled)
