"""The registry: what strangers' distributions and local files can do to it, and what it says about that."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import compress.plugins
from compress import CompressError
from compress.plugins import load

CRITERION = """\
from compress import Criterion, hookimpl

class Mine(Criterion):
    \"\"\"Mine.\"\"\"
    name = "{name}"
    power: float = 1.0

@hookimpl
def compress_register_criteria():
    return [Mine]
"""
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution with one plugin module on the path: install("fancy-pruner", "fancy", source)."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("COMPRESS_DISABLE_PLUGINS", raising=False)
    modules: list[str] = []

    def install(distribution: str, plugin: str, source: str) -> None:
        module = f"{distribution}_{plugin}".replace("-", "_")
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[compress]\n{plugin} = {module}\n")
        modules.append(module)

    yield install
    for module in modules:
        sys.modules.pop(module, None)


def refused(*parts: str) -> str:
    """The one line with which `load` refuses, which must hold all the parts."""
    with pytest.raises(CompressError) as caught:
        load()
    said = str(caught.value)
    assert "\n" not in said and all(part in said for part in parts), said
    return said


def test_the_projects_own_plugins_come_through_the_same_door() -> None:
    registry = load()
    assert registry.problems == ()
    assert {"bn-gamma", "l1", "l2", "random"} <= set(registry.criteria)
    assert {"train", "sparsify", "prune", "finetune", "evaluate", "export", "report"} <= set(registry.stages)
    assert {source.origin.split()[0] for source in registry.owners.values()} == {"torch-compress"}


def test_a_strangers_plugin_is_found_with_its_owner(install: Install) -> None:
    install("fancy-pruner", "fancy", CRITERION.format(name="fancy-l1"))
    registry = load()
    assert registry.criteria["fancy-l1"].__doc__ == "Mine."
    assert str(registry.owners["criteria", "fancy-l1"]) == "'fancy' of fancy-pruner 1.2"
    assert registry.make("criteria", {"uses": "fancy-l1", "power": 2}).power == 2.0
    assert registry.make("criteria", "fancy-l1", power=3).power == 3.0


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("1 / 0", "ZeroDivisionError"),
        ("def broken(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("x = 1", "implements no hook"),
        (CRITERION.format(name="x").replace("return [Mine]", "raise RuntimeError('later')"), "RuntimeError: later"),
    ],
)
def test_a_broken_plugin_is_a_problem_and_the_others_live(install: Install, source: str, said: str) -> None:
    install("fancy-pruner", "fancy", source)
    install("other-pruner", "other", CRITERION.format(name="other-l1"))
    registry = load()
    (problem,) = registry.problems
    assert said in problem and "'fancy' of fancy-pruner 1.2" in problem and "COMPRESS_DISABLE_PLUGINS=fancy" in problem
    assert {"other-l1", "l2"} <= set(registry.criteria)


@pytest.mark.parametrize("name", ["fancy", "fancy-pruner"])
def test_a_plugin_can_be_switched_off_by_its_name_or_its_distribution(
    install: Install, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    install("fancy-pruner", "fancy", "1 / 0")
    monkeypatch.setenv("COMPRESS_DISABLE_PLUGINS", f"{name}, fanzy")
    registry = load()
    assert registry.problems == ("COMPRESS_DISABLE_PLUGINS names no plugin 'fanzy'; did you mean 'fancy'?",)


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("register_criteria", "register_criterion", ["no hook", "did you mean 'compress_register_criteria'?"]),
        ("@hookimpl\n", "", ["'compress_register_criteria' lacks its decorator @hookimpl"]),
        ("criteria()", "criteria(graph)", ["graph"]),
        ("return [Mine]", "return Mine", ["compress_register_criteria must return a list, not type"]),
        ("return [Mine]", "return [Mine()]", ["must return subclasses of Criterion, not Mine(", "power=1.0)"]),
        ("return [Mine]", "return [int]", ["must return subclasses of Criterion, not int"]),
        ('name = "mine"', 'name: str = "mine"', ['Mine.name must be a plain `name = "..."` without a type']),
        ('name = "mine"', 'named = "mine"', ['Mine has no name; write `name = "..."`']),
        ("compress_register_criteria", "compress_register_op_rules", ["Mine has no name; write `function.ops"]),
        ("compress_register_criteria", "compress_register_datasets", ["must return subclasses of Dataset, not Mine"]),
    ],
)  # fmt: skip
def test_a_plugin_that_is_wrong_in_itself_is_an_error_that_names_it(
    install: Install, old: str, new: str, parts: list[str]
) -> None:
    source = CRITERION.format(name="mine")
    assert old in source
    install("fancy-pruner", "fancy", source.replace(old, new))
    refused("'fancy' of fancy-pruner 1.2", *parts)


def test_a_name_used_twice_names_both_owners(install: Install) -> None:
    install("fancy-pruner", "fancy", CRITERION.format(name="l2"))
    said = refused("a criterion called 'l2'", "'criteria' of torch-compress", "'fancy' of fancy-pruner 1.2")
    assert "COMPRESS_DISABLE_PLUGINS=" in said


def test_two_entry_points_of_one_name_name_both_distributions(install: Install) -> None:
    install("fancy-pruner", "same", CRITERION.format(name="a"))
    install("other-pruner", "same", CRITERION.format(name="b"))
    refused("two plugins are called 'same'", "fancy-pruner 1.2", "other-pruner 1.2", "COMPRESS_DISABLE_PLUGINS=")


def test_one_module_under_two_names_is_refused(install: Install, tmp_path: Path) -> None:
    install("fancy-pruner", "fancy", CRITERION.format(name="a"))
    points = tmp_path / "fancy_pruner-1.2.dist-info/entry_points.txt"
    points.write_text(points.read_text() + "again = fancy_pruner_fancy\n")
    refused("a second time")


def test_local_files_are_hashed_and_run_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(CRITERION.format(name="mine"))
    one, two = load([path]), load([path])
    assert one.criteria["mine"] is two.criteria["mine"] and one.files == two.files
    assert str(one.owners["criteria", "mine"]) == f"file {path}"
    path.write_text(CRITERION.format(name="mine").replace("1.0", "2.0"))
    three = load([path])
    assert three.make("criteria", "mine").power == 2.0 and three.files != one.files
    assert "mine" not in load().criteria


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import compress\n\n\nx = 1 / 0\n", ":4: ZeroDivisionError: division by zero"),
        ("def f(:\n", ":1: SyntaxError"),
        ("x = 1\n", "implements no hook"),
        (CRITERION.format(name="l2"), "two plugins register a criterion called 'l2'"),
        (CRITERION.format(name="m").replace("return", "return 1 / 0 #"), "ZeroDivisionError"),
    ],
)
def test_a_wrong_local_file_is_an_error(tmp_path: Path, source: str, said: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(source)
    with pytest.raises(CompressError) as caught:
        load([path])
    assert said in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_local_files_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(CompressError, match=r"nope\.py: No such file"):
        load([tmp_path / "nope.py"])
    (tmp_path / "data.json").write_text("{}")
    with pytest.raises(CompressError, match="expected a Python file"):
        load([tmp_path / "data.json"])


def test_making_an_object_says_every_mistake_at_once() -> None:
    registry = compress.plugins.installed()
    with pytest.raises(CompressError) as caught:
        registry.make("stages", {"uses": "train", "epoch": 3, "lr": -1})
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "unknown option 'epoch' of train; did you mean 'epochs'?", "'lr' of train",
    ]  # fmt: skip
    with pytest.raises(CompressError, match="no criterion is called 'bn-gama'; did you mean 'bn-gamma'"):
        registry.make("criteria", "bn-gama")
    with pytest.raises(CompressError, match="expected a name or a mapping with `uses: name`"):
        registry.make("criteria", {"power": 1})


def test_observers_hear_what_happens_with_the_arguments_they_ask_for(tmp_path: Path) -> None:
    path = tmp_path / "ears.py"
    path.write_text(
        "from compress import hookimpl\nheard = []\n"
        "@hookimpl\ndef compress_stage_started(stage):\n    heard.append(stage)\n"
        "@hookimpl\ndef compress_epoch_finished(run, epoch, metrics):\n    heard.append((run, epoch, metrics))\n"
    )
    registry = load([path])
    registry.hook.compress_stage_started(run=tmp_path, stage="sparse")
    registry.hook.compress_epoch_finished(run=tmp_path, stage="sparse", epoch=1, metrics={"loss": 2.0})
    (ears,) = (module for name, module in sys.modules.items() if name.startswith("compress_file_ears"))
    assert ears.heard == ["sparse", (tmp_path, 1, {"loss": 2.0})]
