"""The name of a recipe, a profile and the command line's `key=value` in; a checked Recipe out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from .. import plugins
from ..errors import CompressError, nearest
from ..registry import KINDS, Registry
from .check import Checked, check_keys, check_recipe
from .find import read
from .keys import IN_PROFILE
from .merge import drop_alternatives, merge, overlay
from .mistakes import Mistake, Place, RecipeError
from .nodes import Node
from .profiles import AUTO, Draft, choose, cuda, settle_data
from .recipe import Recipe

WITHOUT_POLICY = ("train", "finetune", "evaluate", "export", "report")
ON_COMMAND_LINE = ("name", "plugins", *IN_PROFILE)


def load(
    source: str | Path, overrides: Sequence[str] = (), profile: str | None = None, registry: Registry | None = None
) -> Recipe:
    """The recipe at a path, or the shipped one of a name, with a profile and overrides laid over it.

    overrides: `key.key=value` each; relative paths in them are relative to the working directory. profile: its name,
    or `auto`; None takes the recipe's own `profile`, else `auto`. registry: default the installed plugins.
    Raises RecipeError with every mistake, or CompressError where there is no such recipe.
    """
    tree, path, mistakes = read(str(source), Path.cwd())
    return load_tree(tree, path, overrides, profile, registry, mistakes)


def load_tree(
    tree: Node,
    path: Path,
    overrides: Sequence[str],
    profile: str | None,
    registry: Registry | None,
    mistakes: list[Mistake],
) -> Recipe:
    """The recipe of a tree that was read from `path`, with the `mistakes` found there. Raises RecipeError."""
    if not isinstance(tree.value, Mapping):
        mistakes.append(Mistake(tree.place, "expected a recipe: a mapping that begins with `version: 1`"))
        raise RecipeError(mistakes)
    overlays = _overlays(overrides, mistakes)
    files = _plugin_files(tree, overlays, mistakes)
    registry = _with_files(files, registry, mistakes)

    drafts = {name: _draft(tree, above, overlays, registry) for name, above in _profiles(tree, mistakes).items()}
    wanted, place = _wanted(tree, profile)
    notes: list[str] = []
    if wanted == AUTO:
        wanted, notes = choose(drafts)
    elif wanted not in drafts:
        hint = nearest(wanted, [AUTO, *filter(None, drafts)])
        mistakes.append(Mistake(place, f"no profile is called '{wanted}'{hint}"))
    for name, draft in drafts.items():  # the command line need only fit the chosen profile
        used = name == wanted or len(drafts) == 1 or (name and wanted not in drafts)
        mistakes += [mistake for mistake in draft.mistakes if used or (name and mistake.place.line)]
    if mistakes:
        raise RecipeError(mistakes)

    draft = drafts[wanted]
    checked, said, mistakes = settle_data(draft, overridden=any("data" in above.mapping for above in overlays))
    if checked.device == "cuda" and cuda() is None:
        mistakes.append(Mistake(draft.place("device"), "'device': torch sees no GPU (CUDA) here; say cpu or auto"))
    if mistakes:
        raise RecipeError(mistakes)
    return _recipe(checked, wanted, path, files, (*notes, *said), registry)


def _recipe(
    checked: Checked, profile: str, path: Path, files: Iterable[Path], notes: Sequence[str], registry: Registry
) -> Recipe:
    head: dict[str, Any] = {"profile": profile, "profiles": {profile: {}}} if profile else {}
    if files:
        head["plugins"] = [str(file) for file in files]
    plain = checked.plain()
    resolved = {"version": plain.pop("version"), "name": plain.pop("name"), **head, **plain}
    return Recipe(
        name=checked.name,
        profile=profile,
        seed=checked.seed,
        threads=checked.threads,
        device=checked.device,
        architecture=checked.model,
        dataset=checked.data,
        task=checked.task,
        policy=checked.policy,
        stages=checked.stages,
        expect=checked.expect,
        resolved=resolved,
        source=path,
        plugin_files=registry.files,
        notes=(*notes, *_said_of_files(registry, resolved), *_unused_policy(checked)),
        registry=registry,
    )


def _draft(tree: Node, above: Node | None, overlays: Sequence[Node], registry: Registry) -> Draft:
    mistakes: list[Mistake] = []
    alternatives = {name: stage.alternatives for name, stage in registry.stages.items()}
    laid = tree
    said = [reduce(lambda all_, one: merge(all_, one, []), overlays)] if overlays else []
    for node in (*([above] if above else []), *said):
        laid = drop_alternatives(merge(laid, node, mistakes), node, alternatives)
    checked = check_recipe(laid, registry, mistakes)
    return Draft(laid, checked, tuple(mistakes))


def _overlays(overrides: Sequence[str], mistakes: list[Mistake]) -> list[Node]:
    """The trees of the command line's assignments."""
    here = Path.cwd()
    found: dict[str, Node] = {}
    for assignment in overrides:
        try:
            node = overlay(assignment, here)
        except RecipeError as error:
            mistakes += error.mistakes
            continue
        path = assignment.partition("=")[0].strip()
        (key, place), *_ = node.keys.items()
        if key not in ON_COMMAND_LINE:
            mistakes.append(Mistake(place, f"unknown key '{key}'{nearest(key, ON_COMMAND_LINE)}"))
        elif path in found:
            mistakes.append(Mistake(place, f"'{path}' is given twice"))
        else:
            found[path] = node
    return list(found.values())


def _profiles(tree: Node, mistakes: list[Mistake]) -> dict[str, Node | None]:
    """Profile name -> what it lays over the recipe; and "" -> None, the recipe as it is written."""
    profiles = tree.mapping.get("profiles")
    if profiles is None:
        return {"": None}
    if not profiles.mapping or AUTO in profiles.mapping:
        expected = f"expected {{name: {{key: value}}}}, and no profile called '{AUTO}'"
        mistakes.append(Mistake(profiles.place, f"'profiles': {expected}"))
        return {"": None}
    found: dict[str, Node | None] = {"": None}
    for name, node in profiles.mapping.items():
        if node.value is not None and not isinstance(node.value, Mapping):
            mistakes.append(Mistake(node.place, f"profile '{name}': expected {{key: value}}"))
            continue
        check_keys(node, IN_PROFILE, f" in profile '{name}'", mistakes)
        known = {key: child for key, child in node.mapping.items() if key in IN_PROFILE}
        found[name] = Node(known, node.place, node.keys)
    return found


def _wanted(tree: Node, profile: str | None) -> tuple[str, Place]:
    """The profile that is asked for, and where."""
    node = tree.mapping.get("profile")
    if profile is not None:
        return profile, Place(f"'--profile {profile}'", 0, 0, Path.cwd())
    return (str(node.value), node.place) if node else (AUTO, tree.place)


def _plugin_files(tree: Node, overlays: Sequence[Node], mistakes: list[Mistake]) -> dict[Path, Place]:
    """The recipe's own plugin files, absolute, and where each is named."""
    node = next((above.mapping["plugins"] for above in reversed(overlays) if "plugins" in above.mapping), None)
    node = node or tree.mapping.get("plugins")
    if node is None or node.value is None:
        return {}
    if not isinstance(node.value, tuple) or not all(isinstance(item.value, str) for item in node.items):
        mistakes.append(Mistake(node.place, "'plugins': expected a list of Python files, e.g. [./my_criterion.py]"))
        return {}
    return {
        Path(os.path.abspath(item.place.base / Path(str(item.value)).expanduser())): item.place for item in node.items
    }


def _with_files(files: Mapping[Path, Place], registry: Registry | None, mistakes: list[Mistake]) -> Registry:
    """The registry with the recipe's own plugins in it."""
    registry = registry or plugins.installed()
    for number, place in enumerate(files.values(), 1):
        try:
            registry = plugins.load(list(files)[:number])
        except CompressError as error:
            mistakes.append(Mistake(place, str(error)))
            break
    return registry


def _said_of_files(registry: Registry, resolved: Mapping[str, Any]) -> list[str]:
    """That code of the recipe's own was run, and a warning where nothing uses what it registers."""
    lines = [f"plugins: ran the code of {path} (sha256 {sha256[:12]})" for path, sha256 in registry.files.items()]
    used = _texts(resolved)
    for kind in KINDS:
        for (field, name), source in registry.owners.items():
            if field == kind.field and source.file and name not in used and field not in ("op_rules", "commands"):
                lines.append(f"warning: {kind.singular} '{name}' of {source.file} is defined and not used")
    return lines


def _unused_policy(checked: Checked) -> list[str]:
    used = any(stage.name not in WITHOUT_POLICY for _, stage in checked.stages)
    if checked.policy is None or used:
        return []
    return [f"warning: policy '{checked.policy.name}' is defined and not used"]


def _texts(values: Any) -> set[str]:
    if isinstance(values, Mapping):
        return set().union(*map(_texts, values.values()))
    if isinstance(values, list | tuple):
        return set().union(*map(_texts, values))
    return {values} if isinstance(values, str) else set()
