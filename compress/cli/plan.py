"""`compress plan`: a recipe in, what its prune stages would remove and what that saves out."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..errors import CompressError
from .arguments import AsJson, Profile, RecipeName, Settings, columns, read_recipe, say

if TYPE_CHECKING:
    from ..stages.rehearsal import Rehearsal, Rehearsed


def plan(recipe: RecipeName, settings: Settings = None, profile: Profile = None, as_json: AsJson = False) -> None:
    """Show what would go, layer by layer, and what that saves. Nothing is trained.

    The network has the weights that the recipe's model is given, or none that were trained: then the numbers are exact
    for scope local, and for scope global they show what the ratio and the policy can do, not which layers it will hit.
    """
    from ..stages.rehearsal import rehearse

    checked = read_recipe(recipe, settings, profile)
    say(checked.notes)
    rehearsal = rehearse(checked, checked.dataset.open())
    if not rehearsal.cuts:
        measured = [id_ for id_, stage in checked.stages if getattr(stage, "sensitivity", None)]
        why = f"what '{measured[0]}' removes is measured by the run" if measured else "no stage says `uses: prune`"
        raise CompressError(f"{checked.source}: {why}, so there is nothing to show")
    if as_json:
        print(json.dumps([_plain(rehearsal, cut) for cut in rehearsal.cuts], indent=2))
        return
    for cut in rehearsal.cuts:
        print(_table(rehearsal, cut))
    print(f"do it: compress run {recipe}", file=sys.stderr)


def _plain(rehearsal: Rehearsal, cut: Rehearsed) -> dict[str, Any]:
    groups = [
        {"group": group.name, "before": group.size, "after": group.size - len(cut.plan.removed.get(group.name, ()))}
        for group in rehearsal.graph.groups
    ]
    return {
        "stage": cut.stage,
        "settings": dict(cut.plan.settings),
        "before": asdict(cut.before),
        "after": asdict(cut.after),
        "groups": groups,
        "blocks": [{"block": name, **asdict(rehearsal.graph.cost_of_block(name))} for name in cut.plan.blocks],
        "frozen": dict(cut.plan.frozen),
    }


def _table(rehearsal: Rehearsal, cut: Rehearsed) -> str:
    removed = cut.plan.removed
    rows = [
        (group.name, f"{group.size:,}", f"{group.size - len(removed[group.name]):,}")
        for group in rehearsal.graph.groups
        if len(removed.get(group.name, ()))
    ]
    lines = [f"stage {cut.stage}: {cut.plan}", columns([("group", "before", "after"), *rows], right=(1, 2))]
    if cut.plan.blocks:
        costs = [(name, rehearsal.graph.cost_of_block(name)) for name in cut.plan.blocks]
        blocks = [(name, f"{cost.params:,}", f"{cost.macs:,}") for name, cost in costs]
        lines.append(columns([("block that goes", "parameters", "multiply-adds"), *blocks], right=(1, 2)))
    whole = [group for group in rehearsal.graph.groups if not len(removed.get(group.name, ()))]
    reasons = Counter(cut.plan.frozen.get(g.name, str(g.frozen) if g.frozen else "not chosen") for g in whole)
    lines += [f"stays whole: {count} groups, {reason}" for reason, count in reasons.most_common()]
    for name, before, after in (
        ("parameters", cut.before.params, cut.after.params),
        ("multiply-adds", cut.before.macs, cut.after.macs),
    ):
        lines.append(f"{name:<14} {before:>15,} -> {after:>15,}  (-{1 - after / before:.1%})")
    return "\n".join(lines)
