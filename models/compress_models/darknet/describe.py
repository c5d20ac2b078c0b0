"""A Darknet, cut or not, in; the sections of a cfg that builds the same shapes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from compress import Skipped

from .cfg import Section
from .layers import Convolutional, norm_of
from .network import Darknet


def describe(model: Darknet) -> tuple[Section, ...]:
    """[net] and one section a layer, with the filters, groups and batch norms that the model has now.

    Layers of removed residual blocks are left out, and whoever read them reads what stands in for them: `layers=` and
    `from=` are numbered anew. Classes, anchors and image size are those that it was built with; keys that nobody reads
    are kept.

    Raises: CompressError, naming the layer, where a convolution is one that no cfg can ask for.
    """
    cfg = _Cfg(model)
    for section, layer, sources in zip(model.sections, model.layers, model.sources, strict=True):
        if isinstance(layer, Convolutional):
            section = _as_it_is(section, layer)
        elif section.kind == "yolo":
            section = _said_aloud(section)
        elif isinstance(layer, nn.Identity | Skipped):
            cfg.leave_out(section, sources[_handed_on(section, layer)])
            continue
        cfg.add(section, sources, layer)
    if not model.heads and model.layers:
        cfg.bring_up(cfg.places[model.sections[-1].index], model.sections[-1])
    for section, written, twin in zip(cfg.sections[1:], cfg.layers, Darknet(cfg.sections).layers, strict=True):
        if isinstance(written, Convolutional) and isinstance(twin, Convolutional):
            _check_same(section, written, twin)
    return tuple(cfg.sections)


class _Cfg:
    """Sections as they are written. places: a layer's index in the model -> the index of what gives its map here."""

    def __init__(self, model: Darknet) -> None:
        self.sections: list[Section] = [model.net]
        self.layers: list[nn.Module | None] = []
        self.places = {-1: -1}

    def leave_out(self, section: Section, instead: int) -> None:
        """The layer is not written; its map is another's, by the model's index."""
        self.places[section.index] = self.places[instead]

    def add(self, section: Section, sources: Sequence[int], layer: nn.Module) -> None:
        """Write a layer; sources: by the model's indices."""
        places = [self.places[source] for source in sources]
        if section.kind != "route":
            self.bring_up(places[0], section)
        index = len(self.layers)
        self.places[section.index] = index
        key = {"route": "layers", "shortcut": "from"}.get(section.kind)
        named = places if section.kind == "route" else places[1:]
        if key is not None and (index != section.index or tuple(places) != tuple(sources)):
            relative = [number < 0 for number in section.integers(key)]
            if -1 in named:
                raise section.mistake("reads the image, which no cfg can name, now that a block is gone", key)
            numbers = [place - index if back else place for place, back in zip(named, relative, strict=True)]
            section = section.revised(**{key: ",".join(map(str, numbers))})
        self._write(replace(section, index=index), layer)

    def bring_up(self, place: int, section: Section) -> None:
        """Have the map of a place come last, by a route to it where it does not."""
        last = len(self.layers) - 1
        if place == last:
            return
        if place < 0:
            raise section.mistake("reads the image, which no cfg can name, now that a block is gone")
        route = Section("route", {"layers": str(place)}, section.line, last + 1, section.source)
        self._write(route, None)

    def _write(self, section: Section, layer: nn.Module | None) -> None:
        self.sections.append(section)
        self.layers.append(layer)


def _handed_on(section: Section, layer: nn.Identity | Skipped) -> int:
    """Which of its inputs a layer gives that stands where a residual block was taken out."""
    if isinstance(layer, nn.Identity):
        return 0
    if layer.zeros or not isinstance(layer.argument, int):
        raise section.mistake("gives zeros where a residual block was, before an activation: no cfg can ask for that")
    return layer.argument


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
