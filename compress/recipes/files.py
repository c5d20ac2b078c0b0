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
    named = [each.removeprefix(USES) for each in settings if each.startswith(USES)]
    others = [each for each in settings if not each.startswith(USES)]
    tree, pixels = _model(network, weights, registry)
    where = {"root": str(data)} | ({"image_size": list(size or pixels or ())} if size or pixels else {})
    read: dict[str, Recipe] = {}
    wrong: dict[str, list[Mistake]] = {}
    for dataset in named or _rooted(registry):
        node = _node(tree | {"data": {"uses": dataset, **where}}, Place(str(network), 0, 0, Path.cwd()))
        try:
            read[dataset] = load_tree(node, network, others, None, registry, [])
        except RecipeError as error:
            wrong[dataset] = error.mistakes
    if len(read) != 1:
        raise _unsure(data, list(read), wrong)
    return next(iter(read.values()))


def _model(network: Path, weights: Path | None, registry: Registry) -> tuple[dict[str, Any], tuple[int, int] | None]:
    """All of the recipe but its data; and the (height, width) that the network is meant for."""
    found = architecture_of(network, registry)
    if found is None:
        known = sorted({suffix for each in registry.architectures.values() for suffix in each.reads})
        raise CompressError(f"{network}: no architecture reads such files; expected {' or '.join(known)}")
    name, option = found
    cls = registry.architectures[name]
    made, _ = check(cls, {option: str(network.absolute())})
    word = re.sub(r"[^A-Za-z0-9._-]", "-", network.stem).lstrip("._-")
    tree = {
        "version": VERSION,
        "name": word or name,
        "model": {"uses": name, option: str(network)} | ({"weights": str(weights)} if weights else {}),
        "stages": [{"id": "evaluate", "uses": "evaluate"}],
    }
    return tree | ({"task": {"uses": cls.task}} if cls.task else {}), made.native_size() if made else None


def _rooted(registry: Registry) -> list[str]:
    """The datasets that are told by `root` where they lie."""
    return sorted(name for name, cls in registry.datasets.items() if any(o.name == "root" for o in options(cls)))


def _unsure(data: Path, read: Sequence[str], wrong: Mapping[str, list[Mistake]]) -> CompressError:
    """What to say where not just one dataset can be had. read: those that can. wrong: why the others cannot."""
    if read:
        return CompressError(f"{data}: could be read as {' or '.join(read)}; say which: {USES}{read[0]}")
    common = [mistake for mistake in next(iter(wrong.values()), []) if all(mistake in each for each in wrong.values())]
    if common:
        return RecipeError(common)
    reasons = [f"{dataset}: {mistakes[0].message}" for dataset, mistakes in wrong.items()]
    return CompressError("\n".join([f"{data}: no dataset finds its files there; what each of them misses:", *reasons]))


def _node(value: Any, place: Place) -> Node:
    """A plain value as the tree of a recipe, all of it written at one place."""
    if isinstance(value, Mapping):
        return Node({key: _node(child, place) for key, child in value.items()}, place, dict.fromkeys(value, place))
    return Node(tuple(_node(item, place) for item in value) if isinstance(value, list) else value, place)
