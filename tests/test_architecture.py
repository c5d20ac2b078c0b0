"""The house is built as its plan says: who may import whom, what is light, what is packaged, what is public."""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import compress

ROOT = Path(__file__).parents[1]
SOURCES = {"compress": ROOT / "compress", "compress_plugins": ROOT / "plugins/compress_plugins",
           "compress_models": ROOT / "models/compress_models", "compress_recipes": ROOT / "recipes"}  # fmt: skip
GROUND = {"", "errors", "files", "options", "checking", "docstrings", "registry", "plugins", "hookspecs"}
"""Modules directly in `compress` that every room may use; "" is the package itself."""
ROOMS: dict[str, set[str]] = {  # room -> the rooms that it may use at run time, beside the ground
    "graph": set(),
    "pruning": {"graph", "measure"},
    "training": {"graph", "pruning"},
    "measure": set(),
    "report": {"measure"},
    "recipes": set(),
    "stages": {"graph", "pruning", "training", "measure", "report", "recipes"},
    "testing": {"graph", "pruning", "training", "stages"},
    "cli": {"stages", "recipes"},
    "__main__": {"cli"},
}


@dataclass(frozen=True)
class Import:
    """One name that a module imports: `from module import name`; typing: only for type checkers."""

    file: Path
    line: int
    module: str
    name: str
    typing: bool

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}: from {self.module} import {self.name}"


def modules(package: str) -> dict[str, Path]:
    """Dotted name -> file of every module of a package."""
    folder, found = SOURCES[package], {}
    for path in sorted(folder.rglob("*.py")):
        parts = [package, *path.relative_to(folder).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(package: str) -> Iterator[Import]:
    for dotted, path in modules(package).items():
        inside = dotted if path.name == "__init__.py" else dotted.rpartition(".")[0]
        yield from _of(ast.parse(path.read_text()), path, inside, typing=False)


def _of(tree: ast.AST, path: Path, inside: str, typing: bool) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(path, node.lineno, alias.name, "", typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = inside.split(".")[: len(inside.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield from (Import(path, node.lineno, module, alias.name, typing) for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for part in node.body:
                yield from _of(ast.Module([part], []), path, inside, typing=True)
            for part in node.orelse:
                yield from _of(ast.Module([part], []), path, inside, typing)
        else:
            yield from _of(node, path, inside, typing)


def _room(dotted: str) -> str:
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "compress" else ""


def test_the_reader_of_imports_reads_all_forms() -> None:
    code = "import a.b\nif TYPE_CHECKING:\n from .x import y\nelse:\n from .. import z\ndef f():\n from c import d\n"
    found = [(i.module, i.name, i.typing) for i in _of(ast.parse(code), ROOT, "p.q", False)]
    assert found == [("a.b", "", False), ("p.q.x", "y", True), ("p", "z", False), ("c", "d", False)]


def test_every_room_is_on_the_plan() -> None:
    rooms = {_room(dotted) for dotted in modules("compress")}
    assert rooms - GROUND == set(ROOMS)


def test_rooms_import_only_what_the_plan_allows() -> None:
    wrong = []
    names = modules("compress")
    for each in imports("compress"):
        if each.typing or each.module.split(".")[0] != "compress":
            continue
        here = _room(".".join(["compress", *each.file.relative_to(SOURCES["compress"]).with_suffix("").parts]))
        whole = f"{each.module}.{each.name}"
        there = _room(whole if whole in names else each.module)
        if here in GROUND or there in GROUND | {here}:
            continue
        if there not in ROOMS[here]:
            wrong.append(str(each))
    assert not wrong


def test_the_ground_stands_on_nothing_but_itself() -> None:
    wrong = [
        str(each)
        for each in imports("compress")
        if each.file.parent == SOURCES["compress"] and each.file.stem not in ("__init__", "__main__")
        if not each.typing and each.module.startswith("compress.") and _room(each.module) not in GROUND
    ]
    assert not wrong


def test_the_core_knows_no_plugin_and_only_two_modules_know_pluggy() -> None:
    for each in imports("compress"):
        top = each.module.split(".")[0]
        assert top not in ("compress_plugins", "compress_models", "compress_recipes"), str(each)
        assert top != "pluggy" or each.file.name in ("plugins.py", "hookspecs.py"), str(each)


@pytest.mark.parametrize("package", ["compress_plugins", "compress_models"])
def test_plugins_import_only_public_names(package: str) -> None:
    for each in imports(package):
        if each.module.split(".")[0] == "compress":
            assert each.module == "compress" and each.name in {*compress.__all__, ""}, str(each)


def test_no_plugin_imports_anothers_internals() -> None:
    names = {**modules("compress_plugins"), **modules("compress_models")}
    for package in ("compress_plugins", "compress_models"):
        for each in imports(package):
            parts = each.module.split(".")
            if parts[0] not in ("compress_plugins", "compress_models"):
                continue
            own = each.file.relative_to(SOURCES[package]).with_suffix("").parts[0]
            if parts[:2] == [package, own] or (each.module == package and each.name == own):
                continue
            assert len(parts) == 2, f"{each}: another plugin's internals"
            public = ast.literal_eval(_assigned(names[each.module], "__all__"))
            assert each.name in public, f"{each}: not in its __all__"


def _assigned(path: Path, name: str) -> ast.expr:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return node.value
    raise AssertionError(f"{path} has no {name}")


def test_public_names_are_the_same_in_all_three_lists() -> None:
    """What type checkers see, what `__all__` says, and what is found on first use are one and the same."""
    seen = [each for each in imports("compress") if each.file == SOURCES["compress"] / "__init__.py" and each.typing]
    assert sorted(each.name for each in seen) == compress.__all__ == sorted(compress.__all__)
    for each in seen:
        module = __import__(each.module, fromlist=[each.name])
        assert getattr(compress, each.name) is getattr(module, each.name), str(each)
    with pytest.raises(AttributeError, match="no attribute 'Criterium'"):
        compress.Criterium  # type: ignore[attr-defined] # noqa: B018


def test_importing_compress_and_all_its_names_is_light() -> None:
    code = (
        "import sys, torch; before = set(sys.modules)\n"
        "import compress; [getattr(compress, n) for n in compress.__all__]\n"
        "print(*{m.split('.')[0] for m in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    own = set(done.stdout.split()) - set(sys.stdlib_module_names)
    allowed = {"compress", "torch", "numpy", "scipy", "pluggy", "safetensors"}
    assert {name for name in own if not name.startswith("_")} <= allowed


def test_setup_cfg_lists_every_package() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = config["options"]["packages"].split()
    folders = {
        ".".join([package, *path.parent.relative_to(folder).parts])
        for package, folder in SOURCES.items()
        for path in folder.rglob("__init__.py")
    }
    assert len(listed) == len(set(listed)) and set(listed) == folders
    mapped = dict(line.split(" = ") for line in config["options"]["package_dir"].strip().splitlines())
    assert {name: ROOT / path for name, path in mapped.items()} == SOURCES
    loose = [
        str(path.relative_to(ROOT))
        for folder in SOURCES.values()
        for path in folder.rglob("*.py")
        if not (path.parent / "__init__.py").exists()
    ]
    assert not loose, "in a folder that is no package"


def test_what_is_no_python_is_packaged_as_well() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    patterns = {name: line.replace(",", " ").split() for name, line in config["options.package_data"].items()}
    for package, folder in SOURCES.items():
        for path in folder.rglob("*"):
            if path.is_dir() or path.suffix in (".py", ".pyc") or "__pycache__" in path.parts:
                continue
            inner = [package, *path.parent.relative_to(folder).parts]
            matched = any(
                path.match(pattern) and name in {".".join(inner[: n + 1]) for n in range(len(inner))}
                for name, wanted in patterns.items()
                for pattern in wanted
            )
            assert matched, f"{path.relative_to(ROOT)} is in no package_data of setup.cfg"


def test_every_entry_point_leads_to_a_module() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    known = {name for package in SOURCES for name in modules(package)}
    points = config["options.entry_points"]["compress"].strip().splitlines()
    assert points and all(line.split(" = ")[1] in known for line in points)


@pytest.mark.parametrize("package", sorted(SOURCES))
def test_every_module_says_what_it_is(package: str) -> None:
    for path in modules(package).values():
        said = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
        assert said or not path.read_text().strip(), f"{path.relative_to(ROOT)} has no docstring"
