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
from .mistakes import Mistake, Place, RecipeError
from .nodes import Node
from .recipe import Recipe

USES = "data.uses="


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
        raise CompressError(f"{network}: no architecture reads such a file; expected {', '.join(known) or 'a recipe'}")
    name, option = found
    cls = registry.architectures[name]
    if size is None:
        made, _ = check(cls, {option: str(network.absolute())})
        size = made.native_size() if made is not None else None
    wanted = [each.removeprefix(USES) for each in settings if each.startswith(USES)]
    settings = [each for each in settings if not each.startswith(USES)]
    rooted = [each for each, dataset in registry.datasets.items() if any(o.name == "root" for o in options(dataset))]
    read: dict[str, Recipe] = {}
    wrong: dict[str, list[Mistake]] = {}
    for dataset in wanted or sorted(rooted):
        tree = {
            "version": VERSION,
            "name": re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9._-]", "-", network.stem).lstrip("-") or name,
            "model": {"uses": name, option: str(network)} | ({"weights": str(weights)} if weights else {}),
            "data": {"uses": dataset, "root": str(data)} | ({"image_size": list(size)} if size else {}),
            "stages": [{"id": "evaluate", "uses": "evaluate"}],
        } | ({"task": {"uses": cls.task}} if cls.task else {})
        try:
            read[dataset] = load_tree(_node(tree, Place(str(network), 0, 0, Path.cwd())), network, settings, None, registry, [])
        except RecipeError as error:
            wrong[dataset] = error.mistakes
    if len(read) == 1:
        return next(iter(read.values()))
    if read:
        raise CompressError(f"{data}: could be read as {' or '.join(read)}; say which: {USES}{next(iter(read))}")
    first, *others = wrong.values()
    common = [mistake for mistake in first if all(mistake in each for each in others)]
    if common:
        raise RecipeError(common)
    reasons = [f"{dataset}: {each.message}" for dataset, mistakes in wrong.items() for each in mistakes[:1]]
    raise CompressError("\n".join([f"{data}: no dataset finds its files there; what each of them misses:", *reasons]))


def _node(value: Any, place: Place) -> Node:
    """A plain value as the tree of a recipe, all of it written at one place."""
    if isinstance(value, Mapping):
        return Node({key: _node(child, place) for key, child in value.items()}, place, dict.fromkeys(value, place))
    return Node(tuple(_node(item, place) for item in value) if isinstance(value, list) else value, place)
