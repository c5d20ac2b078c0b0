"""`compress plugins`: everything that has a name, where it comes from, and its options."""

from __future__ import annotations

import inspect
import json
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import CompressError, nearest
from .arguments import AsJson, columns, say

if TYPE_CHECKING:
    from ..checking import Option
    from ..registry import Registry


def list_plugins(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show all about one, with its options.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what is installed and where it comes from; with a NAME, its description and options."""
    from ..plugins import installed

    registry = installed()
    say(tuple(f"warning: {problem}" for problem in registry.problems))
    found = entries(registry)
    if name is not None:
        named = [entry for entry in found if entry["name"] == name]
        if not named:
            raise CompressError(f"nothing is called '{name}'{nearest(name, {entry['name'] for entry in found})}")
        print(json.dumps(named, indent=2) if as_json else "\n\n".join(map(page, named)))
        return
    if as_json:
        print(json.dumps(found, indent=2))
        return
    rows = [(e["kind"], e["name"], e["doc"].partition("\n")[0], e["owner"]) for e in found]
    print(columns([("kind", "name", "what it is", "from"), *rows]))


def entries(registry: Registry) -> list[dict[str, Any]]:
    """One plain mapping a name: kind, name, doc, owner, and its options {name, type, required, default, meaning}."""
    from ..checking import options
    from ..docstrings import introduction, meanings
    from ..options import Plugin
    from ..registry import KINDS

    found = []
    for kind in KINDS:
        for name, thing in sorted(getattr(registry, kind.field).items()):
            listed: list[dict[str, Any]] = []
            if isinstance(thing, type) and issubclass(thing, Plugin):
                doc, said = introduction(thing), meanings(thing)
                listed = [{**asdict(o), "type": _type(o), "meaning": said.get(o.name, "")} for o in options(thing)]
            else:
                doc = _help(thing) if kind.field == "commands" else inspect.getdoc(thing) or ""
            owner = str(registry.owners[kind.field, name])
            found.append({"kind": kind.singular, "name": name, "doc": doc, "owner": owner, "options": listed})
    return found


def _help(command: Any) -> str:
    """What `compress COMMAND --help` says first: of a function, or of a Typer app with its callback."""
    if not isinstance(command, typer.Typer):
        return inspect.getdoc(command) or ""
    return typer.main.get_command(command).help or ""


def _type(option: Option) -> str:
    """What an option takes, in a user's words."""
    from ..checking import describe
    from ..registry import KINDS

    if option.uses is None:
        return describe(option.type)
    kind = next(kind.singular for kind in KINDS if kind.field == option.uses.kind)
    several = ", or a list of these" if "list[" in str(option.type) else ""
    article = "an" if kind[0] in "aeiou" else "a"
    return f"{article} {kind} by name, or {{uses: name, option: value}}{several}"


def page(entry: dict[str, Any]) -> str:
    """All about one name, as text."""
    lines = [f"{entry['kind']} {entry['name']}, from plugin {entry['owner']}", "", entry["doc"]]
    rows = [
        (o["name"], o["type"], "required" if o["required"] else json.dumps(o["default"], default=str))
        for o in entry["options"]
    ]
    if rows:
        head, *table = columns([("option", "type", "default"), *rows]).splitlines()
        lines += ["", head]
        for line, option in zip(table, entry["options"], strict=True):
            lines += [line, *textwrap.wrap(option["meaning"], 100, initial_indent="    ", subsequent_indent="    ")]
    return "\n".join(lines)
