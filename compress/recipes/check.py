"""A recipe's tree in, its objects out, with every mistake noted at its place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..checking import plain
from ..errors import nearest
from .keys import KEYS
from .mistakes import Mistake
from .nodes import Node
from .objects import make

if TYPE_CHECKING:
    from ..registry import Registry
    from ..stages.stage import Stage

VERSION = 1
DEVICES = ("auto", "cpu", "cuda")
RESERVED_IDS = ("model", "recipe.yaml", "lock.json", "report.json", "report.html", "log.txt")  # what else a run holds

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Checked:
    """The objects of a recipe; None where there was a mistake, or where the recipe gives none."""

    name: str
    seed: int
    threads: int | None
    device: str
    model: Any
    data: Any
    fallback_data: Any
    task: Any
    policy: Any
    stages: tuple[tuple[str, Stage], ...]
    expect: Mapping[str, Mapping[str, float]]

    def plain(self) -> dict[str, Any]:
        """The same as plain values, in the order in which a recipe is written."""
        parts = {key: getattr(self, key) for key in ("model", "data", "task", "policy")}
        return {
            "version": VERSION,
            "name": self.name,
            "seed": self.seed,
            "threads": self.threads,
            "device": self.device,
            **{key: plain(part) for key, part in parts.items() if part is not None},
            "stages": [{"id": id_, **plain(stage)} for id_, stage in self.stages],
            "expect": {metric: dict(bounds) for metric, bounds in self.expect.items()},
        }


def check_recipe(tree: Node, registry: Registry, mistakes: list[Mistake]) -> Checked:
    """The objects of a tree with nothing left to lay over it."""
    check_keys(tree, tuple(KEYS), "", mistakes)
    version = tree.mapping.get("version")
    if version is None or version.value != VERSION or isinstance(version.value, bool):
        place = version.place if version else tree.place
        mistakes.append(Mistake(place, f"'version': expected {VERSION}, the only version of recipes there is"))
    for key in ("name", "model", "data", "stages"):
        if key not in tree.mapping:
            mistakes.append(Mistake(tree.place, f"'{key}' is missing"))
    model = _optional(tree, "model", "architectures", registry, mistakes)
    return Checked(
        name=_name(tree, mistakes),
        seed=_integer(tree, "seed", 0, 0, mistakes) or 0,
        threads=_integer(tree, "threads", None, 1, mistakes),
        device=_device(tree, mistakes),
        model=model,
        data=_optional(tree, "data", "datasets", registry, mistakes),
        fallback_data=_optional(tree, "fallback_data", "datasets", registry, mistakes),
        task=_task(tree, model, registry, mistakes),
        policy=_optional(tree, "policy", "policies", registry, mistakes),
        stages=_stages(tree.mapping.get("stages"), registry, mistakes),
        expect=_expect(tree, mistakes),
    )


def check_keys(node: Node, valid: tuple[str, ...], where: str, mistakes: list[Mistake]) -> None:
    """Note every key that is none of `valid`."""
    for key in node.mapping:
        if key not in valid:
            mistakes.append(Mistake(node.keys[key], f"unknown key '{key}'{where}{nearest(key, valid)}"))


def _optional(tree: Node, key: str, kind: str, registry: Registry, mistakes: list[Mistake]) -> Any:
    node = tree.mapping.get(key)
    if node is None or (node.value is None and key not in ("model", "data")):
        return None
    return make(node, kind, registry, mistakes)


def _task(tree: Node, model: Any, registry: Registry, mistakes: list[Mistake]) -> Any:
    node = tree.mapping.get("task")
    if node is not None and node.value is not None:
        return make(node, "tasks", registry, mistakes)
    if model is None:
        return None
    place = tree.mapping["model"].place
    if model.task is None:
        hint = nearest("", registry.tasks)
        mistakes.append(Mistake(place, f"model {model.name} names no task of its own; add `task: {{uses: ...}}`{hint}"))
        return None
    return make(Node(model.task, place), "tasks", registry, mistakes)


def _stages(node: Node | None, registry: Registry, mistakes: list[Mistake]) -> tuple[tuple[str, Stage], ...]:
    if node is None:
        return ()
    if not node.items:
        mistakes.append(Mistake(node.place, "'stages': expected a list of {id: ..., uses: ..., option: value}"))
    built: list[tuple[str, Stage]] = []
    whole = True
    places: dict[str, Any] = {}
    for item in node.items:
        id_ = item.mapping.get("id")
        if id_ is None:
            mistakes.append(Mistake(item.place, "expected a stage {id: ..., uses: ..., option: value}"))
            whole = False
            continue
        name = id_.value
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in RESERVED_IDS:
            expected = "a word of letters, digits, '.', '_' and '-' (its folder), not a name that the run itself uses"
            mistakes.append(Mistake(id_.place, f"'id': expected {expected}; got {name!r}"))
        elif name in places:
            mistakes.append(Mistake(id_.place, f"two stages have the id '{name}'; the first is at {places[name]}"))
        places.setdefault(str(name), id_.place)
        if "uses" not in item.mapping:
            mistakes.append(Mistake(item.place, f"stage '{name}' lacks `uses`{nearest('', registry.stages)}"))
            whole = False
            continue
        stage = make(item, "stages", registry, mistakes, ("id",))
        whole = whole and stage is not None
        if whole:
            wrong = stage.mistakes(tuple(built), registry)
            mistakes.extend(Mistake(item.at((option,)), f"stage '{name}': {message}") for option, message in wrong)
            built.append((str(name), stage))
    return tuple(built)


def _expect(tree: Node, mistakes: list[Mistake]) -> dict[str, dict[str, float]]:
    node = tree.mapping.get("expect")
    if node is None or node.value is None or node.value == {}:
        return {}
    stages = tree.mapping["stages"].items if "stages" in tree.mapping else ()
    if not any("uses" in stage.mapping and stage.mapping["uses"].value == "report" for stage in stages):
        mistakes.append(Mistake(node.place, "'expect' is held against the report, but no stage says `uses: report`"))
    shape = "expected {metric: {max: number}}, with min, max or both"
    if not isinstance(node.value, Mapping):
        mistakes.append(Mistake(node.place, f"'expect': {shape}"))
    found: dict[str, dict[str, float]] = {}
    for metric, bounds in node.mapping.items():
        check_keys(bounds, ("min", "max"), f" in 'expect.{metric}'", mistakes)
        numbers = {
            key: float(bound.value)
            for key, bound in bounds.mapping.items()
            if isinstance(bound.value, int | float) and not isinstance(bound.value, bool)
        }
        if not bounds.mapping or len(numbers) < len(bounds.mapping):
            mistakes.append(Mistake(bounds.place, f"'expect.{metric}': {shape}"))
        elif numbers.get("min", float("-inf")) > numbers.get("max", float("inf")):
            mistakes.append(Mistake(bounds.place, f"'expect.{metric}': min is above max"))
        found[metric] = numbers
    return found


def _name(tree: Node, mistakes: list[Mistake]) -> str:
    node = tree.mapping.get("name")
    if node is not None and not (isinstance(node.value, str) and _NAME.fullmatch(node.value)):
        expected = "a word of letters, digits, '.', '_' and '-'; runs are called after it"
        mistakes.append(Mistake(node.place, f"'name': expected {expected}, got {node.plain()!r}"))
    return str(node.value) if node else ""


def _integer(tree: Node, key: str, default: int | None, least: int, mistakes: list[Mistake]) -> int | None:
    node = tree.mapping.get(key)
    if node is None or node.value is None:
        return default
    if not isinstance(node.value, int) or isinstance(node.value, bool) or node.value < least:
        expected = f"expected a whole number, {least} or more"
        mistakes.append(Mistake(node.place, f"'{key}': {expected}, got {node.plain()!r}"))
        return default
    return node.value


def _device(tree: Node, mistakes: list[Mistake]) -> str:
    node = tree.mapping.get("device")
    if node is None:
        return "auto"
    if node.value not in DEVICES:
        mistakes.append(Mistake(node.place, f"'device': expected {', '.join(DEVICES)}, got {node.plain()!r}"))
        return "auto"
    return str(node.value)
