"""What the code says about itself in, the rest of docs/recipes.md and docs/commands.md out.

Run `python docs/write_reference.py` after a change of commands, options or docstrings; the text above the mark in each
page is written by hand and stays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.text import Text

from compress.cli.app import build
from compress.cli.list_plugins import entries
from compress.errors import CompressError
from compress.plugins import installed
from compress.recipes.find import shipped
from compress.recipes.keys import IN_PROFILE, KEYS
from compress.registry import Registry

DOCS = Path(__file__).parent
MARK = "<!-- From here on made by `python docs/write_reference.py`: change the code's docstrings, and run it again. -->"
KINDS = {
    "stage": ("Stages", "What `stages` can list."),
    "model": ("Models", "For `model`."),
    "dataset": ("Datasets", "For `data` and `fallback_data`."),
    "task": ("Tasks", "For `task`."),
    "policy": ("Policies", "For `policy`."),
    "criterion": ("Criteria", "For `criterion` of a `prune` stage."),
    "regularizer": ("Regularizers", "For `regularizer` of a `sparsify` stage."),
    "distillation": ("Distillations", "For `distill` of a `finetune` stage that has a `teacher`."),
    "compensation": ("Compensations", "For `compensate` of a `prune` stage."),
    "exporter": ("Exporters", "For `formats` of an `export` stage."),
}


def pages() -> dict[Path, str]:
    """Page -> its text."""
    registry = installed()
    if registry.problems:
        raise CompressError("\n".join(registry.problems))
    made = {DOCS / "recipes.md": recipes(registry), DOCS / "commands.md": commands(registry)}
    return {path: _by_hand(path) + text for path, text in made.items()}


def _by_hand(page: Path) -> str:
    """What stands above the mark, and the mark."""
    text, mark, _ = page.read_text(encoding="utf-8").partition(MARK)
    if not mark:
        raise CompressError(f"{page}: the line {MARK} is missing")
    return f"{text}{mark}\n\n"


def recipes(registry: Registry) -> str:
    """The recipe reference: keys, shipped recipes, and every plugin of the project with its options."""
    keys = [(f"`{key}`", meaning, "yes" if key in IN_PROFILE else "") for key, meaning in KEYS.items()]
    shown = [(f"`{name}`", _says(path)) for name, path in shipped().items()]
    parts = [
        "## Keys",
        _table(("key", "meaning", "in profiles"), keys),
        "## Shipped recipes",
        _table(("name", "what it does"), shown),
    ]
    ours = [entry for entry in entries(registry) if _is_ours(entry["owner"])]
    for kind, (title, use) in KINDS.items():
        named = [entry for entry in ours if entry["kind"] == kind]
        parts += [f"## {title}", use, *(_plugin(entry) for entry in named)]
    return "\n\n".join(parts) + "\n"


def commands(registry: Registry) -> str:
    """The command reference: every command of the project with its arguments and options."""
    found = all_commands(registry).items()
    return "\n\n".join("\n\n".join([f"## `{words}`", *_command(words, command)]) for words, command in found) + "\n"


def all_commands(registry: Registry) -> dict[str, Any]:
    """`compress run` -> its command, the subcommands of plugins' commands as well; those of strangers are left out."""
    group = build()
    names = [*group.commands, *(n for n in sorted(registry.commands) if _is_ours(registry.owners["commands", n]))]
    context = typer.Context(group, info_name="compress")
    return dict(_below("compress", {name: group.get_command(context, name) for name in names}))


def _below(words: str, found: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, command in found.items():
        yield f"{words} {name}", command
        yield from _below(f"{words} {name}", getattr(command, "commands", {}))


def _command(words: str, command: Any) -> Iterator[str]:
    """The paragraphs about one command."""
    kinds: dict[str, list[Any]] = {"argument": [], "option": []}
    for parameter in command.params:
        if "--help" not in parameter.opts:
            kinds[parameter.param_type_name].append(parameter)
    if not hasattr(command, "commands"):
        yield f"    {' '.join([words, *(['[OPTIONS]'] if kinds['option'] else []), *map(_usage, kinds['argument'])])}"
    yield _plain(command.help or "")
    for kind, shown in (("argument", _name), ("option", _option)):
        if kinds[kind]:
            yield _table((kind, "meaning"), [(f"`{shown(p)}`", _escaped(p.help or "")) for p in kinds[kind]])
    example = re.search(r"Example:\s*(.+?)\s*$", _plain(command.epilog or ""), re.MULTILINE)
    if example:
        yield f"Example: `{example[1]}`"


def _name(argument: Any) -> str:
    """`RECIPE`."""
    return (argument.metavar or argument.name.upper()).strip("[]")


def _usage(argument: Any) -> str:
    """`RUN`, `[RECIPE]`, `[KEY=VALUE]...`."""
    name = _name(argument) if argument.required else f"[{_name(argument)}]"
    return f"{name}..." if argument.nargs != 1 and not name.endswith("...") else name


def _option(parameter: Any) -> str:
    """`--threads NUMBER`, `--json`."""
    value = "" if parameter.is_flag else parameter.metavar or parameter.type.name.upper()
    return " ".join(filter(None, [", ".join(parameter.opts), value]))


def _plugin(entry: Mapping[str, Any]) -> str:
    rows = [(f"`{o['name']}`", _type(o["type"]), _default(o), _escaped(o["meaning"])) for o in entry["options"]]
    table = [_table(("option", "value", "default", "meaning"), rows)] if rows else []
    return "\n\n".join([f"### `{entry['name']}`", _escaped(entry["doc"]), *table])


def _type(said: str) -> str:
    return _escaped(said).replace("{uses: name, option: value}", "`{uses: name, option: value}`")


def _default(option: Mapping[str, Any]) -> str:
    return "required" if option["required"] else f"`{json.dumps(option['default'], default=str)}`"


def _says(recipe: Path) -> str:
    """The first sentence of a recipe's first comment."""
    lines = recipe.read_text(encoding="utf-8").splitlines()
    words = " ".join(line.strip("# ") for line in lines[: next(n for n, line in enumerate(lines) if line in ("", "#"))])
    return _escaped(re.split(r"[.:](?:\s|$)", words)[0]) + "."


def _is_ours(owner: object) -> bool:
    return " of torch-compress " in str(owner)


def _plain(text: str) -> str:
    """Rich markup without its marks."""
    return Text.from_markup(text).plain.strip()


def _escaped(text: str) -> str:
    """Text as Markdown that looks like it: what stands in backquotes is left alone, but for table bars."""
    parts = re.split(r"(`[^`]+`)", text)
    plain = (re.sub(r"([*<\\])", r"\\\1", part) if i % 2 == 0 else part for i, part in enumerate(parts))
    return "".join(plain)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    cells = ([" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(path)
