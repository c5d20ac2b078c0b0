"""Docs and code are held together: pages made from the code are fresh, and what pages show exists and runs."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.text import Text

import compress
from compress.checking import options
from compress.cli.app import build
from compress.cli.list_plugins import entries
from compress.plugins import installed
from compress.recipes import load
from compress.recipes.find import shipped
from compress.recipes.keys import KEYS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
BASE = "version: 1\nname: x\nmodel: {uses: darknet, cfg: yolov3-hand}\ndata: {uses: drawn-hands}\n"
"""What a recipe that a page shows only a part of is completed with."""


def reference() -> Any:
    """docs/write_reference.py as a module."""
    spec = importlib.util.spec_from_file_location("write_reference", DOCS / "write_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(page: Path, language: str) -> list[str]:
    return [code for name, code in FENCED.findall(page.read_text(encoding="utf-8")) if name == language]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def shown_commands(page: Path) -> list[str]:
    """Every `compress ...` of a page, in blocks without a language and in the text; a line that ends in \\ goes on."""
    lines = "\n".join(blocks(page, "")).replace("\\\n", " ").splitlines()
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]
    commands = [part.strip() for line in lines for part in line.split("&&")]
    return [command for command in commands if command.startswith("compress ")]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in that looks like the project's, with data.yaml wherever a page's command reads one."""
    here = tmp_path / "work"
    here.mkdir()
    shutil.copytree(ROOT / "recipes", here / "recipes")
    for page in PAGES:
        for root in re.findall(r"root[=:] ?([\w./-]+)", page.read_text(encoding="utf-8")):
            folder = here / root
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "data.yaml").touch()
    monkeypatch.chdir(here)
    return here


def test_pages_made_from_the_code_are_fresh() -> None:
    for page, text in reference().pages().items():
        stale = page.read_text(encoding="utf-8") != text
        assert not stale, f"{page.name} is stale: run python docs/write_reference.py"


def test_every_name_with_every_option_is_on_the_recipe_page() -> None:
    page = (DOCS / "recipes.md").read_text(encoding="utf-8")
    sections = {part.split("`")[1]: "" for part in page.split("\n### ")[1:]}
    for part in page.split("\n### ")[1:]:
        sections[part.split("`")[1]] += part
    registry = installed()
    kinds = ("criteria", "regularizers", "distillations", "compensations", "policies", "architectures", "datasets",
             "tasks", "stages", "exporters")  # fmt: skip
    for kind in kinds:
        for name, cls in getattr(registry, kind).items():
            for option in options(cls):
                assert f"| `{option.name}` | " in sections[name], f"recipes.md: {name} lacks {option.name}"
    for name in [*KEYS, *shipped()]:
        assert f"| `{name}` | " in page.split("## Stages")[0], f"recipes.md lacks {name}"


def test_every_command_with_every_option_is_on_the_command_page() -> None:
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    found = reference().all_commands(installed())
    assert {"compress run", "compress data oxford-hand"} <= set(found)
    for words, command in found.items():
        (section,) = re.findall(rf"^## `{re.escape(words)}`\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
        for parameter in command.params:
            for option in parameter.opts if parameter.param_type_name == "option" else ():
                assert option == "--help" or f"`{option}" in section, f"commands.md: {words} lacks {option}"


def test_help_is_shown_as_it_is_written() -> None:
    """Help texts are Rich markup, in which [word] is a style and not a word."""
    for words, command in reference().all_commands(installed()).items():
        for text in [command.help, *(getattr(parameter, "help", None) for parameter in command.params)]:
            shown = Text.from_markup(text or "").plain
            assert shown.count("[") == (text or "").replace("\\[", "[").count("["), f"{words} --help: {text}"


def test_every_option_says_what_it_means() -> None:
    for entry in entries(installed()):
        for option in entry["options"]:
            assert option["meaning"], f"{entry['kind']} {entry['name']} says nothing about {option['name']}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name if page.parent == DOCS else "project")
def test_commands_that_a_page_shows_exist(page: Path, place: Path) -> None:
    commands = reference().all_commands(installed())
    root = {option for parameter in build().params for option in parameter.opts}
    for line in shown_commands(page):
        words = shlex.split(line)
        known = [" ".join(words[:n]) for n in (3, 2) if " ".join(words[:n]) in commands]
        if not known:  # a plugin's command, as docs/plugins.md has one, or `compress COMMAND`
            assert words[1] in {"COMMAND", "largest", "--help", *root}, f"{page.name}: {line}"
            continue
        given = words[len(known[0].split()) :]
        valid = {option for parameter in commands[known[0]].params for option in parameter.opts}
        for option in (word.partition("=")[0] for word in given if word.startswith("-")):
            assert option in {*valid, "--help"}, f"{page.name}: {line}: no option {option}"
        recipe = next((word for word in given if Path(word).stem in shipped()), None)
        if recipe is not None and Path(recipe).suffix in ("", ".yaml"):
            load(recipe, [word for word in given if re.match(r"[a-z_.]+=", word)])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name if page.parent == DOCS else "project")
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), f"{page.name}: {target}"
        assert there.is_relative_to(ROOT), f"{page.name}: {target} is outside the project"
        if anchor:
            headings = HEADING.findall(there.read_text(encoding="utf-8"))
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{page.name}: {target}"


def test_every_page_is_in_the_index() -> None:
    linked = set(re.findall(r"\]\(([\w.]+\.md)\)", (DOCS / "README.md").read_text(encoding="utf-8")))
    assert linked == {page.name for page in DOCS.glob("*.md")} - {"README.md"}
    assert "(docs/README.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def recipe_blocks() -> Iterator[Any]:
    for page in PAGES:
        for number, code in enumerate(blocks(page, "yaml")):
            if "uses:" in code:
                yield pytest.param(page, code, id=f"{page.stem}-{number}")


@pytest.mark.parametrize(("page", "code"), list(recipe_blocks()))
def test_recipes_that_a_page_shows_are_right(page: Path, code: str, place: Path) -> None:
    for name, plugin in re.findall(r"<!-- plugin: (\S+) -->\n```python\n(.*?)^```", page.read_text(), re.M | re.S):
        (place / name).write_text(plugin)
    (place / "shown.yaml").write_text(code if "version:" in code else BASE + code)
    assert load("shown.yaml").stages


@pytest.fixture
def saved(place: Path) -> None:
    """What the pages load: a network of the recipe's quick profile, cut, for one class and for two."""
    from compress_models.darknet import DarknetArchitecture

    for folder, classes in (("runs/first/model", 1), ("runs/screws/model", 2)):
        model = DarknetArchitecture(cfg="yolov3-hand", width=0.25).build(classes, (128, 128)).eval()
        graph = compress.trace(model, torch.rand(1, 3, 128, 128))
        compress.save(compress.apply(model, graph, compress.plan(graph, "l1", ratio=0.5), verify=False), folder)


OTHERS = {"ultralytics.md"}
"""Pages whose code needs more than this project installs."""


@pytest.mark.parametrize(
    "page", sorted(p for p in DOCS.glob("*.md") if p.name not in OTHERS), ids=lambda page: page.name
)
def test_python_that_a_page_shows_runs(page: Path, request: pytest.FixtureRequest) -> None:
    """All blocks of a page in order, in one namespace; functions called test_... are called. README: test_readme.py."""
    code = blocks(page, "python")
    if not code:
        return
    if any("compress.load(" in block for block in code):
        request.getfixturevalue("saved")
    names: dict[str, Any] = {"__name__": f"page_{page.stem}"}
    for block in code:
        exec(compile(block, str(page), "exec", dont_inherit=True), names)
    for test in [value for name, value in names.items() if name.startswith("test_")]:
        test()


def test_the_way_through_ultralytics_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's code, an epoch at 64 pixels: the network that Ultralytics saves in the end is the one that was cut."""
    if importlib.util.find_spec("ultralytics") is None:
        pytest.skip("needs `pip install ultralytics`")
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
        for number in range(8):
            Image.effect_noise((64, 64), 80).convert("RGB").save(tmp_path / "images" / split / f"{number}.jpg")
            (tmp_path / "labels" / split / f"{number}.txt").write_text("0 0.5 0.5 0.4 0.6\n")
    (tmp_path / "hands.yaml").write_text(f"path: {tmp_path}\ntrain: images/train\nval: images/val\nnames: [hand]\n")
    quick = {
        "imgsz=640": "imgsz=64, workers=0, plots=False, device='cpu'",
        "epochs=100": f"epochs=1, batch=4, nbs=4, project=r'{tmp_path}'",
        "640, 640": "64, 64",
        '.val(data="hands.yaml")': '.val(data="hands.yaml", imgsz=64, workers=0, plots=False, device="cpu")',
        '.export(format="onnx")': '.export(format="torchscript", imgsz=64)',
    }
    code = "\n".join(blocks(DOCS / "ultralytics.md", "python"))
    for shown, run in quick.items():
        code = code.replace(shown, run)
    assert "640" not in code
    code += """
assert pruned.verification.passed and pruned.after.macs <= pruned.before.macs / 2
assert sum(p.numel() for p in small.model.parameters()) == pruned.after.params < pruned.before.params
"""
    Path("page.py").write_text(code)
    done = subprocess.run([sys.executable, "page.py"], capture_output=True, text=True)  # it patches PIL when imported
    assert done.returncode == 0, done.stderr


def test_examples_in_docstrings_run() -> None:
    run = 0
    for folder, package in ((ROOT / "compress", "compress"), (ROOT / "plugins/compress_plugins", "compress_plugins"),
                            (ROOT / "models/compress_models", "compress_models")):  # fmt: skip
        for path in sorted(folder.rglob("*.py")):
            if ">>> " not in path.read_text(encoding="utf-8"):
                continue
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            result = doctest.testmod(importlib.import_module(".".join(parts).removesuffix(".__init__")))
            assert result.failed == 0, path
            run += result.attempted
    assert run > 10
