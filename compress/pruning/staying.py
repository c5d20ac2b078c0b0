"""A graph and what a caller wants to keep in, the groups and blocks that stay whole, each with the reason, out."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from ..errors import CompressError, nearest
from .atoms import Atoms
from .policy import GroupPolicy
from .question import match

if TYPE_CHECKING:
    from ..graph.graph import DependencyGraph, Frozen


def ignored(graph: DependencyGraph, ignore: Sequence[str]) -> dict[str, str]:
    """Groups and blocks that globs name -> which one. Raises CompressError for a glob that names none."""
    if isinstance(ignore, str):
        raise CompressError(f"ignore: expected a list of globs over group names, found one string; write ({ignore!r},)")
    found: dict[str, str] = {}
    for glob in ignore:
        blocks = fnmatch.filter([block.name for block in graph.blocks], glob)
        groups = fnmatch.filter([group.name for group in graph.groups], glob)
        found |= dict.fromkeys(blocks + (groups if blocks else match(graph, glob, "ignore")), f"ignore '{glob}'")
    return found


def kept_by_policy(graph: DependencyGraph, policy: GroupPolicy | None, model: nn.Module | None) -> dict[str, str]:
    """Groups and blocks that a policy keeps, with its reasons, less those that the graph keeps anyway."""
    if policy is None:
        return {}
    if model is None:
        raise CompressError(f"policy '{policy.name}' looks at the model and the traced one is gone; pass model=")
    reasons = dict(policy.freeze(graph, model))
    names: dict[str, Frozen | None] = {group.name: group.frozen for group in graph.groups}
    names |= {block.name: block.frozen for block in graph.blocks}
    for name in reasons:
        if name not in names:
            raise CompressError(f"policy '{policy.name}' keeps '{name}', which is no group{nearest(name, names)}")
    return {name: reason for name, reason in reasons.items() if not names[name]}


def blocks_with(graph: DependencyGraph, kept: Mapping[str, str]) -> dict[str, str]:
    """Blocks in which a group lives that is kept: they stay for its sake."""
    found = {}
    for block in graph.blocks:
        why = next((f"{name} stays: {kept[name]}" for name in block.groups if name in kept), None)
        if why is not None and block.name not in kept and not block.frozen:
            found[block.name] = why
    return found


def tied(graph: DependencyGraph, atoms: Atoms, whole: set[str]) -> dict[str, str]:
    """Groups of which no unit can go because of links alone, with the links' reasons."""
    reasons = {}
    for group in graph.groups:
        start = graph.start(group.name)
        if group.name not in whole and (atoms.of[start : start + group.size] < 0).all():
            others = sorted({name for link in group.links for name, _ in link.slots} & whole)
            because = "; ".join(sorted({link.reason for link in group.links if link.reason})) or "linked"
            reasons[group.name] = f"keeps as many units as {', '.join(others) or 'groups that stay whole'}: {because}"
    return reasons


def in_the_way(graph: DependencyGraph, frozen: Mapping[str, str]) -> str:
    """The largest groups that stay whole and why, as the end of a sentence."""
    kept = [(g.size, g.name, frozen.get(g.name, g.frozen)) for g in graph.groups if g.frozen or g.name in frozen]
    largest = sorted(kept, key=lambda k: (-k[0], k[1]))[:3]
    names = ", ".join(f"{name} ({size} units: {reason})" for size, name, reason in largest)
    more = f" and {len(kept) - len(largest)} more groups" if len(kept) > len(largest) else ""
    return f"; in the way: {names}{more}" if kept else ""
