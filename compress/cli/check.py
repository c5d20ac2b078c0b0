"""`compress check`: a recipe in, what it means or every mistake in it out."""

from __future__ import annotations

import json
import sys

from .arguments import AsJson, Profile, RecipeName, Settings, read_recipe, say


def check(recipe: RecipeName, settings: Settings = None, profile: Profile = None, as_json: AsJson = False) -> None:
    """Check a recipe, its data, its network and what it selects, and show what would be run. Nothing is trained."""
    from ..stages.rehearsal import rehearse, warn

    checked = read_recipe(recipe, settings, profile)
    say(checked.notes)
    data = checked.dataset.open()
    say(data.problems)
    say(warn(data))
    rehearse(checked, data)
    print(json.dumps(dict(checked.resolved), indent=2) if as_json else checked)
    print(f"{recipe}: in order; run it: compress run {recipe}", file=sys.stderr)
