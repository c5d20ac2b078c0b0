"""A network's file, its weights and its data, as a command line names them, in; the recipe that they stand for out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import plugins
from ..checking import check, options
from ..errors import CompressError
from ..registry import Registry
from .check import VERSION
from .loading import load_tree
from .merge import overlay
from .mistakes import Place
from .nodes import Node
from .recipe import Recipe


def architecture_of(file: Path, registry: Registry) -> tuple[str, str] | None:
    """The architecture that reads files with this suffix and the option that takes them; None where none does."""
    for name, architecture in registry.architectures.items():
        if file.suffix in architecture.reads:
            return name, architecture.reads[file.suffix]
    return None


def recipe_of(
    network: Path,
    weights: Path | None,
    data: Path,
    size: tuple[int, int] | None,
    settings: Sequence[str] = (),
    registry: Registry | None = None,
) -> Recipe:
    """A recipe that evaluates the network as it is given, its values open to `settings` (key=value each).

    data: the root of a data set; which dataset reads it is found out, or said by `data.uses=NAME` in the settings.
    size: (height, width) of the images; None for what the network is meant for.

    Raises: CompressError where no architecture reads such a file, none or several datasets find their files in `data`,
    or an option does not fit.
    """
    registry = registry or plugins.installed()
    found = architecture_of(network, registry)
    if found is None:
        known = sorted({suffix for each in registry.architectures.values() for suffix in each.reads})
        raise CompressError(f"{network}: no architecture reads such files; expected {' or '.join(known)}")
    name, option = found
    architecture = registry.architectures[name]
    made, _ = check(architecture, {option: str(network)})
    size = size or (made.native_size() if made else None)
    tree: dict[str, Any] = {
        "version": VERSION,
        "name": re.sub(r"[^A-Za-z0-9._-]", "-", network.stem).lstrip("._-") or name,
        "model": {"uses": name, option: str(network)} | ({"weights": str(weights)} if weights else {}),
        "data": {"uses": _dataset(data, settings, registry), "root": str(data)},
        "stages": [{"id": "evaluate", "uses": "evaluate"}],
    }
    if size is not None:
        tree["data"] |= {"image_size": list(size)}
    if architecture.task is not None:
        tree["task"] = {"uses": architecture.task}
    return load_tree(_node(tree, Place(str(network), 0, 0, Path.cwd())), network, settings, None, registry, [])


def _dataset(root: Path, settings: Sequence[str], registry: Registry) -> str:
    """The name of the one dataset that finds its files in the folder."""
    given: dict[str, Any] = {}
    for setting in settings:
        above = overlay(setting, Path.cwd()).mapping.get("data")
        given |= {key: node.plain() for key, node in above.mapping.items()} if above else {}
    if "uses" in given:
        return str(given["uses"])
    if not root.exists():
        raise CompressError(f"{root}: no such file or folder; --data is where the images and their labels are")
    missing: dict[str, str | None] = {}
    for name, cls in sorted(registry.datasets.items()):
        own = {option.name for option in options(cls)}
        known = {key: value for key, value in given.items() if key in own}
        made = check(cls, {"root": str(root), **known})[0] or check(cls, {"root": str(root)})[0]
        if "root" in own and made is not None:
            missing[name] = made.available()
    there = [name for name, lack in missing.items() if lack is None]
    if len(there) > 1:
        raise CompressError(f"{root}: could be read as {' or '.join(there)}; say which: data.uses={there[0]}")
    if not there:
        first = f"{root}: no dataset finds its files there; what each of them misses:"
        raise CompressError("\n".join([first, *(f"{name}: {lack}" for name, lack in missing.items())]))
    return there[0]


def _node(value: Any, place: Place) -> Node:
    """A plain value as the tree of a recipe, all of it written at one place."""
    if isinstance(value, Mapping):
        return Node({key: _node(child, place) for key, child in value.items()}, place, dict.fromkeys(value, place))
    return Node(tuple(_node(item, place) for item in value) if isinstance(value, list) else value, place)
