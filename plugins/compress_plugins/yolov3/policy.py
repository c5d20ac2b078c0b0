"""A Darknet's structure in, the groups that stay whole out: what the published pruning left alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from compress import CompressError, Group, GroupPolicy, nearest

if TYPE_CHECKING:
    from compress import DependencyGraph


class ShortcutPolicy(GroupPolicy):
    """Which channels of a YOLOv3 may go: all but those in residual chains, or those too.

    shortcut: `keep`, the published rule: every convolution whose output channels reach a shortcut stays whole, and so
        does the one before each upsample (42 of yolov3-hand's 72 layers are left to cut). `merge`: nothing stays for
        that; a residual chain is cut as one, the same channels in all its layers.
    ignore: globs of layers that stay whole besides, e.g. ["layers.0.conv", "layers.8?.*"]; a glob names every group in
        which one of its layers' outputs lives.

    The detection heads are the network's outputs, so the graph itself freezes them. The structure is read from the
    network's sections (which layers feed which), never from layer numbers.
    """

    name = "yolov3"

    shortcut: Literal["keep", "merge"] = "keep"
    ignore: tuple[str, ...] = ()

    def freeze(self, graph: DependencyGraph, model: nn.Module) -> Mapping[str, str]:
        """Group name -> reason. Raises CompressError for a network without sections, or a glob that matches nothing."""
        producers = {group.name: _producers(group) for group in graph.groups}
        reasons: dict[str, str] = {}
        if self.shortcut == "keep":
            layers = kept_layers(model)
            for name, paths in producers.items():
                why = [layers[path] for path in paths if path in layers]
                if why:
                    reasons[name] = why[0]
        for pattern in self.ignore:
            named = [n for n, paths in producers.items() if any(fnmatchcase(p, pattern) for p in (n, *paths))]
            if not named:
                layer_names = sorted({path for paths in producers.values() for path in paths})
                raise CompressError(f"policy.ignore: '{pattern}' matches no layer{nearest(pattern, layer_names)}")
            reasons.update({name: f"ignored by '{pattern}'" for name in named if name not in reasons})
        return reasons


def kept_layers(model: nn.Module) -> dict[str, str]:
    """Module path of every convolution that the published rule leaves whole -> the reason.

    Source: L1-pruned YOLOv3 as published for Oxford Hand: all that a shortcut adds, and what an upsample enlarges.
    """
    sections: Sequence[Any] | None = getattr(model, "sections", None)
    sources: Sequence[Sequence[int]] | None = getattr(model, "sources", None)
    if sections is None or sources is None:
        raise CompressError(
            f"policy yolov3 with shortcut: keep reads a Darknet network's sections, and {type(model).__name__} has "
            "none; use model darknet, or shortcut: merge"
        )
    reasons: dict[str, str] = {}
    for index, section in enumerate(sections):
        if section.kind in ("shortcut", "upsample"):
            does = "is added by shortcut" if section.kind == "shortcut" else "is enlarged by upsample"
            for layer in sorted(_convolutions(index, sections, sources)):
                reasons.setdefault(f"layers.{layer}.conv", f"its output {does} {index} (policy yolov3, shortcut: keep)")
    return reasons


def _convolutions(index: int, sections: Sequence[Any], sources: Sequence[Sequence[int]]) -> set[int]:
    """The convolutions whose output channels are the channels of a layer's inputs."""
    found: set[int] = set()
    for source in sources[index]:
        if source < 0:
            continue  # the image
        if sections[source].kind == "convolutional":
            found.add(source)
        else:
            found |= _convolutions(source, sections, sources)
    return found


def _producers(group: Group) -> tuple[str, ...]:
    """Module paths of the layers whose output channels are the group's."""
    return tuple(m.name.rpartition(".")[0] for m in group.members if m.role == "out" and m.dim == 0)
