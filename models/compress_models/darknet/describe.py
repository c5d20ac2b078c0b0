"""A Darknet, cut or not, in; the sections of a cfg that builds the same shapes out."""

from __future__ import annotations

from .cfg import Section
from .layers import Convolutional, norm_of
from .network import Darknet


def describe(model: Darknet) -> tuple[Section, ...]:
    """[net] and one section a layer, with the filters, groups and batch norms that the model has now.

    Classes, anchors and image size are those that it was built with; keys that nobody reads are kept.

    Raises: CompressError, naming the layer, where a convolution is one that no cfg can ask for.
    """
    sections = [model.net]
    for section, layer in zip(model.sections, model.layers, strict=True):
        if isinstance(layer, Convolutional):
            section = _as_it_is(section, layer)
        elif section.kind == "yolo":
            section = _said_aloud(section)
        sections.append(section)
    for section, layer, twin in zip(sections[1:], model.layers, Darknet(sections).layers, strict=True):
        if isinstance(layer, Convolutional) and isinstance(twin, Convolutional):
            _check_same(section, layer, twin)
    return tuple(sections)


def _as_it_is(section: Section, layer: Convolutional) -> Section:
    now = {
        "filters": layer.conv.weight.shape[0],
        "size": section.integer("size", 1),  # said aloud: OpenCV has no default for it
        "groups": layer.conv.groups,
        "batch_normalize": int(norm_of(layer) is not None),
    }
    defaults = {"filters": 0, "size": 0, "groups": 1, "batch_normalize": 0}
    return section.revised(**{key: value for key, value in now.items() if section.integer(key, defaults[key]) != value})


def _said_aloud(section: Section) -> Section:
    """The [yolo] section with the keys that other readers have another default for, or none."""
    pairs = len(section.numbers("anchors")) // 2
    every = {"mask": ",".join(str(k) for k in range(pairs)), "num": pairs, "classes": 20}
    return section.revised(**{key: value for key, value in every.items() if key not in section.options})


def _check_same(section: Section, layer: Convolutional, twin: Convolutional) -> None:
    if layer.conv.weight.shape != twin.conv.weight.shape:
        shape, wanted = tuple(layer.conv.weight.shape), tuple(twin.conv.weight.shape)
        raise section.mistake(f"the weight is {shape}, but what enters this layer asks for {wanted}")
    for key in ("stride", "padding", "dilation", "padding_mode"):
        if getattr(layer.conv, key) != getattr(twin.conv, key):
            raise section.mistake(f"{key} is {getattr(layer.conv, key)} now, the cfg says {getattr(twin.conv, key)}")
    if (type(layer.act), layer.act.extra_repr()) != (type(twin.act), twin.act.extra_repr()):
        raise section.mistake(f"the activation is {layer.act} now, the cfg says {twin.act}")
