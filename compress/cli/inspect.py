"""`compress inspect`: a recipe in, its network's groups - which may be cut, which not and why - out."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from .arguments import AsJson, Profile, RecipeName, Settings, read_recipe, say


def inspect(recipe: RecipeName, settings: Settings = None, profile: Profile = None, as_json: AsJson = False) -> None:
    """Show the groups of channels that live or die together, what stays whole and why. Nothing is trained."""
    from ..stages.rehearsal import rehearse

    checked = read_recipe(recipe, settings, profile)
    say(checked.notes)
    graph = rehearse(checked, checked.dataset.open()).graph
    if not as_json:
        print(graph.explain())
        print(f"what a cut would save: compress plan {recipe}", file=sys.stderr)
        return
    cost = graph.cost()
    groups = [
        {
            "name": group.name,
            "size": group.size,
            "frozen": {"reason": group.frozen.reason, "by": group.frozen.by} if group.frozen else None,
            "members": [{"name": member.name, "dim": member.dim, "role": member.role} for member in group.members],
            "links": [{"groups": [name for name, _ in link.slots], "reason": link.reason} for link in group.links],
        }
        for group in graph.groups
    ]
    blocks = [
        {
            "name": block.name,
            **asdict(graph.cost_of_block(block.name)),
            "frozen": {"reason": block.frozen.reason, "by": block.frozen.by} if block.frozen else None,
            "groups": list(block.groups),
        }
        for block in graph.blocks
    ]
    print(json.dumps({"params": cost.params, "macs": cost.macs, "groups": groups, "blocks": blocks}, indent=2))
