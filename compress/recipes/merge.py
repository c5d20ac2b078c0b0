"""A recipe and what is laid over it - a child, a profile, the command line - in; one recipe out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ..errors import nearest
from .mistakes import Mistake, Place, RecipeError
from .nodes import Node, parse


def merge(below: Node, above: Node, mistakes: list[Mistake]) -> Node:
    """`above` laid over `below`: mappings key by key, stages by their id, everything else is replaced.

    A mapping whose `uses` changes replaces the whole mapping: another plugin's options are of no use to it.
    """
    if not isinstance(below.value, dict) or not isinstance(above.value, dict):
        return above
    if "uses" in above.mapping and above.mapping["uses"].value != _uses(below):
        return above
    entries, keys = dict(below.mapping), {**below.keys, **above.keys}
    for key, node in above.mapping.items():
        if key not in entries:
            entries[key] = node
        elif key == "stages" and isinstance(entries[key].value, tuple) and isinstance(node.value, dict):
            entries[key] = _merge_stages(entries[key], node, mistakes)
        else:
            entries[key] = merge(entries[key], node, mistakes)
    return Node(entries, below.place, keys)


def overlay(assignment: str, base: Path) -> Node:
    """`stages.prune.ratio=0.7` as the mapping it stands for; split at the first `=`, the value is YAML.

    base: what relative paths in the value are relative to. Raises RecipeError.
    """
    path, equals, text = assignment.partition("=")
    place = Place(f"'{assignment}'", 0, 0, base)
    steps = path.strip().split(".")
    if not equals or not all(steps):
        raise RecipeError([Mistake(place, "expected key=value, e.g. seed=1 or stages.prune.ratio=0.7")])
    node, mistakes = parse(text, place.source, place.base, line=False)
    if mistakes:
        raise RecipeError(mistakes)
    for step in reversed(steps):
        node = Node({step: node}, place, {step: place})
    return node


def drop_alternatives(laid: Node, above: Node, alternatives: Mapping[str, Sequence[Collection[str]]]) -> Node:
    """The merged recipe without those options of a stage that what was laid over it replaces by others.

    alternatives: what a stage `uses` -> sets of options of which only one set can be given (`ratio` or budgets).
    """
    changed, stages = above.mapping.get("stages"), laid.mapping.get("stages")
    if changed is None or stages is None or not isinstance(changed.value, dict) or not isinstance(stages.value, tuple):
        return laid
    settled = []
    for stage in stages.items:
        id_ = stage.mapping["id"].value if "id" in stage.mapping else None
        asked = changed.mapping[str(id_)].mapping if str(id_) in changed.mapping else {}
        sets = alternatives.get(str(_uses(stage)), ())
        given = [{key for key in options if key in asked and asked[key].value is not None} for options in sets]
        gone = {k for options, own in zip(sets, given, strict=True) if any(given) and not own for k in options}
        left = {key: node for key, node in stage.mapping.items() if key not in gone or key in asked}
        settled.append(Node(left, stage.place, stage.keys) if len(left) < len(stage.mapping) else stage)
    return Node({**laid.mapping, "stages": Node(tuple(settled), stages.place)}, laid.place, laid.keys)


def _uses(node: Node) -> object:
    return node.mapping["uses"].value if "uses" in node.mapping else None


def _merge_stages(below: Node, above: Node, mistakes: list[Mistake]) -> Node:
    """A mapping id -> changes laid over a list of stages."""
    ids = {str(stage.mapping["id"].value): at for at, stage in enumerate(below.items) if "id" in stage.mapping}
    stages = list(below.items)
    for id_, changes in above.mapping.items():
        if id_ not in ids:
            mistakes.append(Mistake(above.keys[id_], f"no stage has the id '{id_}'{nearest(id_, ids)}"))
            continue
        stage = stages[ids[id_]]
        merged = merge(stage, changes, mistakes)
        if isinstance(merged.value, dict) and "id" not in merged.value:
            merged = Node({"id": stage.mapping["id"], **merged.mapping}, merged.place, merged.keys)
        stages[ids[id_]] = merged
    return Node(tuple(stages), below.place)
