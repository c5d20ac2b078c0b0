"""The name or path of a recipe in, its tree with everything that it extends laid under it out."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from ..errors import CompressError, nearest
from .merge import merge
from .mistakes import Mistake, RecipeError
from .nodes import Node, parse


def shipped() -> dict[str, Path]:
    """Name -> file of the recipes that are installed with the project."""
    try:
        folder = Path(str(resources.files("compress_recipes")))
    except ModuleNotFoundError:
        return {}
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find(name: str, base: Path) -> Path:
    """The file of a recipe: a path, relative to `base`, or the name of a shipped one. Raises CompressError."""
    path = base / Path(name).expanduser()
    if path.is_file():
        return path
    known = shipped()
    if name in known:
        return known[name]
    what = "is a folder" if path.is_dir() else "no such file"
    hint = nearest(Path(name).stem, known)
    raise CompressError(f"recipe {name}: {what}, and no shipped recipe of that name{hint}")


def read(name: str, base: Path, seen: tuple[Path, ...] = ()) -> tuple[Node, Path, list[Mistake]]:
    """The tree of a recipe laid over what it extends, its file, and the mistakes in the texts. Raises RecipeError."""
    path = find(name, base)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CompressError(f"recipe {path}: cannot be read: {error}") from None
    node, mistakes = parse(text, _shown(path, base), _base(path, name, base))
    parent = node.mapping.get("extends")
    if parent is None:
        return node, path, mistakes
    if not isinstance(parent.value, str):
        mistakes.append(Mistake(parent.place, "'extends': expected the path or name of one recipe"))
        return node, path, mistakes
    if path.resolve() in seen:
        raise RecipeError([*mistakes, Mistake(parent.place, f"'{parent.value}' extends itself")])
    try:
        below, _, more = read(parent.value, parent.place.base, (*seen, path.resolve()))
    except RecipeError as error:
        raise RecipeError([*mistakes, *error.mistakes]) from None
    except CompressError as error:
        raise RecipeError([*mistakes, Mistake(parent.place, str(error))]) from None
    mistakes += more
    return merge(below, node, mistakes), path, mistakes


def _base(path: Path, name: str, base: Path) -> Path:
    """What a recipe's relative paths are relative to; for one found by name, what the recipe's are that extends it.

    `base`: that, or the working directory where the command line gives the name.
    """
    if path == shipped().get(name):
        return base
    folder = path.absolute().parent
    return folder.parent if folder.name == "recipes" else folder


def _shown(path: Path, base: Path) -> str:
    """The file as a user would name it."""
    return str(path.relative_to(base)) if base.is_absolute() and path.is_relative_to(base) else str(path)
