"""Recipes from text to objects: every mistake with its place, profiles, overrides, paths, and the way back to text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compress import CompressError
from compress.recipes import Recipe, RecipeError, dump, load, profiles
from compress.recipes.find import shipped

TOY = Path(__file__).parents[1] / "training" / "toy.py"
BASE = """\
version: 1
name: toy
plugins: [toy.py]
model: {uses: toy-net}
data: {uses: toy-stripes, train: 8}
policy: {uses: toy-policy}
stages:
  - {id: dense, uses: train, epochs: 2}
  - {id: sparse, uses: sparsify, start: fresh, epochs: 1, regularizer: network-slimming, strength: 1e-3}
  - {id: cut, uses: prune, criterion: l2, ratio: 0.5}
  - {id: measured, uses: evaluate}
  - {id: report, uses: report}
profiles:
  quick: {}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in that holds `toy.yaml` and its plugin file."""
    shutil.copy(TOY, tmp_path / "toy.py")
    (tmp_path / "toy.yaml").write_text(BASE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def changed(folder: Path, old: str, new: str) -> Path:
    assert BASE.count(old) == 1, f"{old!r} has to stand once in the recipe"
    path = folder / "changed.yaml"
    path.write_text(BASE.replace(old, new))
    return path


def same(one: Recipe, other: Recipe) -> bool:
    """Equal in everything but where it was read from and what is said about that."""
    keys = ("name", "profile", "seed", "threads", "device", "expect", "resolved", "plugin_files")
    return all(getattr(one, key) == getattr(other, key) for key in keys)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("model:", "^modl:", "unknown key 'modl'; did you mean 'model'?"),
        ("epochs: 2", "^epoch: 2", "unknown option 'epoch' of train; did you mean 'epochs'?"),
        ("epochs: 2", "epochs: ^2.0", "'epochs' of train: expected a whole number of at least 1, got 2.0"),
        ("epochs: 2", "epochs: ^0", "'epochs' of train: expected greater than or equal to 1, got 0"),
        ("epochs: 2", "epochs: ^yes", "'epochs' of train: expected a whole number of at least 1, got \"yes\""),
        ("epochs: 2}", "epochs: 2, ^epochs: 3}", "key 'epochs' is there twice, first at changed.yaml:8:30"),
        ("uses: prune", "uses: ^prun", "no stage is called 'prun'; did you mean 'prune'?"),
        ("uses: toy-net", "uses: ^toy-nett", "no model is called 'toy-nett'; did you mean 'toy-net'?"),
        ("criterion: l2", "criterion: ^bn-gama", "no criterion is called 'bn-gama'; did you mean 'bn-gamma'?"),
        ("criterion: l2", "criterion: {uses: random, ^sed: 1}", "unknown option 'sed' of random; did you mean 'seed'?"),
        ("criterion: l2", "^scop: global", "unknown option 'scop' of prune; did you mean 'scope'?"),
        ("criterion: l2", "scope: ^globl", "'scope' of prune: expected 'local', 'global' or 'isomorphic', got"),
        ("criterion: l2", "keep_macs: ^0.5", "give ratio, or budgets: keep_macs, keep_params, keep"),
        ("start: fresh", "start: ^desne", "stage 'sparse': no earlier stage 'desne' leaves a network; did you mean"),
        ("id: sparse", "id: ^dense", "two stages have the id 'dense'; the first is at changed.yaml:8:10"),
        ("id: cut", "id: ^model", "'id': expected a word"),
        ("id: cut", "id: ^../x", "'id': expected a word"),
        ("{id: cut, ", "^{", "expected a stage {id: ..., uses: ..., option: value}"),
        ("{id: measured, uses", "^{id: measured, use", "stage 'measured' lacks `uses`"),
        ("version: 1", "version: ^2", "'version': expected 1"),
        ("version: 1\n", "^", "'version': expected 1"),
        ("version: 1\nname: toy\n", "^version: 1\n", "'name' is missing"),
        ("name: toy", "name: ^a/b", "'name': expected a word"),
        ("name: toy", "name: toy\nseed: ^-1", "'seed': expected a whole number, 0 or more"),
        ("name: toy", "name: toy\nthreads: ^0", "'threads': expected a whole number, 1 or more"),
        ("name: toy", "name: toy\ndevice: ^gpu", "'device': expected auto, cpu, cuda"),
        ("name: toy", "name: toy\nexpect: {map50: ^0.5}", "'expect.map50': expected {metric: {max: number}}"),
        ("name: toy", "name: toy\nexpect: {x: {^mx: 1}}", "unknown key 'mx' in 'expect.x'; did you mean 'max'?"),
        ("name: toy", "name: toy\nexpect: {x: ^{min: 2, max: 1}}", "'expect.x': min is above max"),
        ("uses: report", "uses: evaluate}\nexpect: ^{x: {min: 0}", "'expect' is held against the report, but no"),
        ("name: toy", "name: toy\nprofile: ^ful", "no profile is called 'ful'"),
        ("[toy.py]", "[toy.py, ^nope.py]", "nope.py: No such file or directory"),
        ("[toy.py]", "^toy.py", "'plugins': expected a list of Python files"),
        ("  quick: {}", "  quick: {^modle: {}}", "unknown key 'modle' in profile 'quick'; did you mean 'model'?"),
        ("  quick: {}", "  quick: {stages: {^ct: {ratio: 0.1}}}", "no stage has the id 'ct'; did you mean 'cut'?"),
        ("  quick: {}", "  quick: {}\n  other: {data: {^trin: 1}}", "unknown option 'trin' of toy-stripes"),
        ("  quick: {}", "  ^auto: {}", "'profiles': expected {name: {key: value}}, and no profile called 'auto'"),
        ("model: {uses: toy-net}", "model: ^3", "expected {uses: name, option: value, ...}"),
        ("model: {uses: toy-net}", "model: {uses: ^darknet}", "darknet needs the option 'cfg'"),
        ("uses: toy-net", "uses: darknet, cfg: yolov3-hand, weights: ^w", "no such file: "),
    ],
)  # fmt: skip
def test_a_mistake_has_its_line_and_the_nearest_name(folder: Path, old: str, new: str, message: str) -> None:
    """`^` in the new text marks the place that the message has to name."""
    path = changed(folder, old, new)
    line, column = next((n, row.index("^") + 1) for n, row in enumerate(path.read_text().splitlines(), 1) if "^" in row)
    path.write_text(path.read_text().replace("^", ""))
    with pytest.raises(RecipeError) as caught:
        load(path)
    found = [str(mistake) for mistake in caught.value.mistakes if message in mistake.message]
    assert len(found) == 1, f"{message!r} is not in\n{caught.value}"
    assert found[0].startswith(f"changed.yaml:{line}:{column}: ")


def test_one_way_to_say_how_much_goes_replaces_the_other() -> None:
    """A ratio from above makes the budgets below give way, and the other way round; both at once are a mistake."""
    asked = {(): ("keep_params",), ("ratio=0.7",): ("ratio",), ("keep_macs=0.5",): ("keep_macs", "keep_params")}
    for said, expected in asked.items():
        recipe = load("yolov3_hand", [f"stages.pruned.{each}" for each in said], profile="quick")
        prune = dict(recipe.stages)["pruned"]
        assert tuple(n for n in ("ratio", "keep_macs", "keep_params") if getattr(prune, n) is not None) == expected
    with pytest.raises(RecipeError, match="ratio and keep_macs and keep_params are given"):
        load("yolov3_hand", ["stages.pruned.ratio=0.7", "stages.pruned.keep_macs=0.5"], profile="quick")


def test_all_mistakes_come_at_once_in_the_order_of_their_lines(folder: Path) -> None:
    text = BASE.replace("name: toy", "name: ^/").replace("epochs: 2", "epochs: ^two").replace("ratio: 0.5", "ratio: ^5")
    text = text.replace("train: 8", "train: 8, ^tain: 9").replace("quick: {}", "quick: {^sed: 1}")
    marks = [f"r.yaml:{n}:{row.index('^') + 1}" for n, row in enumerate(text.splitlines(), 1) if "^" in row]
    (folder / "r.yaml").write_text(text.replace("^", ""))
    with pytest.raises(RecipeError) as caught:
        load("r.yaml", ["stages.cut.x=1", "nothing", "sed=3"])
    where = [line.split(": ")[0] for line in str(caught.value).splitlines()]
    assert where == [*marks, "'nothing'", "'sed=3'", "'stages.cut.x=1'"] and len(marks) == 5


@given(st.data())
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_recipe_changed_at_random_is_loaded_or_refused_line_by_line(folder: Path, data: st.DataObject) -> None:
    words = [*{*BASE.replace(",", " ").split()}, "null", "[]", "{}", "-1", "1e9", "x: y", "\n", "&a", "'", "\t"]
    text = BASE
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        stop = min(len(text), start + data.draw(st.integers(0, 12)))
        text = text[:start] + data.draw(st.sampled_from(words)) + text[stop:]
    (folder / "r.yaml").write_text(text)
    try:
        load("r.yaml")
    except RecipeError as error:
        assert error.mistakes and all(line.startswith("r.yaml:") for line in str(error).splitlines())


LEAVES: dict[str, st.SearchStrategy[Any]] = {
    "seed": st.integers(0, 9),
    "threads": st.none() | st.integers(1, 4),
    "name": st.sampled_from(["a", "1e3", "yes", "0x1F"]),
    "data.train": st.integers(1, 99),
    "policy.keep": st.text(st.characters(codec="utf-8", exclude_characters="="), max_size=6),
    "stages.dense.lr": st.floats(1e-9, 1),
    "stages.dense.clip": st.none() | st.floats(0.5, 9),
    "stages.sparse.regularizer": st.sampled_from(["network-slimming", {"uses": "network-slimming", "strength": 2}]),
    "stages.cut.criterion": st.sampled_from(["l1", {"uses": "random", "seed": 3}]),
    "stages.cut.ignore": st.lists(st.text(st.characters(codec="utf-8"), max_size=4), max_size=2),
    "expect.macs_removed": st.fixed_dictionaries({"min": st.floats(0, 1)}, optional={"max": st.floats(1, 2)}),
}


@given(st.dictionaries(st.sampled_from(sorted(LEAVES)), st.none()).flatmap(
    lambda keys: st.fixed_dictionaries({key: LEAVES[key] for key in keys})
))  # fmt: skip
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_resolved_recipe_loads_again_as_the_same(folder: Path, values: dict[str, Any]) -> None:
    first = load("toy.yaml", [f"{key}={_written(value)}" for key, value in values.items()])
    elsewhere = folder / "runs" / "one"
    elsewhere.mkdir(parents=True, exist_ok=True)
    (elsewhere / "recipe.yaml").write_text(dump(first.resolved))
    again = load(elsewhere / "recipe.yaml")
    assert same(first, again)
    assert first.resolved["seed"] == values.get("seed", 0)
    assert dict(first.stages)["dense"].lr == values.get("stages.dense.lr", 1e-3)  # type: ignore[attr-defined]


def test_a_resolved_recipe_that_expects_nothing_needs_no_report(folder: Path) -> None:
    text = BASE.replace("  - {id: report, uses: report}\n", "")
    (folder / "silent.yaml").write_text(text)
    first = load("silent.yaml")
    (folder / "recipe.yaml").write_text(dump(first.resolved))
    assert same(first, load(folder / "recipe.yaml"))


def _written(value: Any) -> str:
    """A value on one line, as on the command line."""
    return json.dumps(value) if isinstance(value, dict | list) else dump({"v": value})[2:].strip()


def test_a_value_is_split_at_the_first_equals_sign(folder: Path) -> None:
    assert load("toy.yaml", ["policy.keep=a=b=c"]).policy.keep == "a=b=c"  # type: ignore[union-attr]


def test_a_profile_changes_stages_by_id_and_the_command_line_has_the_last_word(folder: Path) -> None:
    path = changed(folder, "quick: {}", "other: {seed: 5, stages: {dense: {epochs: 9, lr: 0.5}}}\n  quick: {seed: 6}")
    recipe = load(path, ["stages.dense.epochs=7"], "other")
    dense = dict(recipe.stages)["dense"]
    assert (recipe.seed, recipe.profile, dense.epochs, dense.lr) == (5, "other", 7, 0.5)  # type: ignore[attr-defined]
    assert [id for id, _ in recipe.stages] == ["dense", "sparse", "cut", "measured", "report"]


def test_another_plugin_takes_none_of_the_old_ones_options(folder: Path) -> None:
    path = changed(folder, "quick: {}", "quick: {model: {uses: darknet, cfg: yolov3-hand}, policy: null}")
    recipe = load(path, ["data={uses: drawn-hands}"], "quick")
    assert recipe.architecture.name == "darknet" and recipe.dataset.name == "drawn-hands" and recipe.policy is None
    assert recipe.task.name == "yolov3"


def test_a_recipe_extends_another(folder: Path) -> None:
    (folder / "child.yaml").write_text("extends: toy.yaml\nname: child\nstages: {dense: {epochs: 5}}\n")
    (folder / "grandchild.yaml").write_text("extends: child.yaml\nprofiles: {quick: {seed: 3}, more: {seed: 4}}\n")
    recipe = load("grandchild.yaml", profile="more")
    assert (recipe.name, recipe.seed, dict(recipe.stages)["dense"].epochs) == ("child", 4, 5)  # type: ignore[attr-defined]
    (folder / "child.yaml").write_text("extends: grandchild.yaml\n")
    with pytest.raises(RecipeError, match=r"child\.yaml:1:10: 'grandchild\.yaml' extends itself"):
        load("child.yaml")
    (folder / "child.yaml").write_text("extends: tox.yaml\n")
    with pytest.raises(RecipeError, match=r"child\.yaml:1:10: recipe tox\.yaml: no such file"):
        load("child.yaml")


def test_paths_are_relative_to_where_they_are_written(folder: Path) -> None:
    for place in ("project/recipes", "project/data", "project/plain", "data"):
        (folder / place).mkdir(parents=True)
    text = BASE.replace("toy.py", str(TOY)).replace("{uses: toy-stripes, train: 8}", "{uses: yolo, root: data}")
    for place in ("project/recipes", "project/plain"):
        (folder / place / "r.yaml").write_text(text)
    (folder / "project/data/data.yaml").touch()
    assert _root(load("project/recipes/r.yaml")) == folder / "project/data"
    (folder / "data/data.yaml").touch()
    assert _root(load("project/recipes/r.yaml", ["data.root=data"])) == folder / "data"
    with pytest.raises(RecipeError, match=f"r.yaml:5:7: {folder}/project/plain/data: no data.yaml there"):
        load("project/plain/r.yaml")


def _root(recipe: Recipe) -> Path:
    return recipe.dataset.root  # type: ignore[attr-defined]


def test_data_that_is_missing_is_replaced_by_its_fallback_unless_the_user_chose_it(folder: Path) -> None:
    path = changed(folder, "data: {uses: toy-stripes, train: 8}", "data: {uses: yolo, root: nowhere}")
    text = path.read_text().replace("quick: {}", "quick: {fallback_data: {uses: toy-stripes, val: 5}}\n  full: {}")
    path.write_text(text)
    recipe = load(path)
    assert recipe.dataset.val == 5 and recipe.profile == "quick"  # type: ignore[attr-defined]
    assert any(note.startswith("data toy-stripes in place of yolo: ") for note in recipe.notes)
    assert "fallback_data" not in recipe.resolved and recipe.resolved["data"]["uses"] == "toy-stripes"
    for overrides, profile in ((["data.root=other"], None), ([], "full")):
        with pytest.raises(RecipeError, match=r"changed\.yaml:5:7: .*no data\.yaml there"):
            load(path, overrides, profile)


@pytest.mark.parametrize(
    ("gpu", "there", "device", "chosen", "why"),
    [
        ("A100", True, "auto", "full", "this machine has a GPU (A100) and its data"),
        ("A100", False, "auto", "quick", "the full profile's data is missing"),
        ("A100", True, "cpu", "quick", "the device is to be the CPU"),
        (None, True, "auto", "quick", "no GPU (CUDA) here"),
    ],
)
def test_the_profile_follows_the_machine_and_the_data(
    folder: Path, monkeypatch: pytest.MonkeyPatch, gpu: str | None, there: bool, device: str, chosen: str, why: str
) -> None:
    monkeypatch.setattr(profiles, "cuda", lambda: gpu)
    path = changed(folder, "data: {uses: toy-stripes, train: 8}", "data: {uses: yolo, root: there}")
    path.write_text(path.read_text().replace("quick: {}", "quick: {fallback_data: toy-stripes}\n  full: {seed: 3}"))
    if there:
        (folder / "there").mkdir()
        (folder / "there/data.yaml").touch()
    recipe = load(path, [f"device={device}"])
    assert recipe.profile == chosen and recipe.notes[0].startswith(f"profile {chosen}: {why}")


def test_plugin_files_are_said_hashed_and_missed_when_unused(folder: Path) -> None:
    (folder / "mine.py").write_text(
        "from compress import Criterion, hookimpl\n"
        "class Mine(Criterion):\n    name = 'mine'\n"
        "@hookimpl\ndef compress_register_criteria():\n    return [Mine]\n"
    )
    unused = load("toy.yaml", [f"plugins=[{TOY}, mine.py]"])
    assert [path.name for path in unused.plugin_files] == ["toy.py", "mine.py"]
    assert f"warning: criterion 'mine' of {folder / 'mine.py'} is defined and not used" in unused.notes
    used = load("toy.yaml", [f"plugins=[{TOY}, mine.py]", "stages.cut.criterion=mine"])
    assert not any("not used" in note for note in used.notes)
    sha256 = used.plugin_files[folder / "mine.py"]
    assert f"plugins: ran the code of {folder / 'mine.py'} (sha256 {sha256[:12]})" in used.notes


def test_a_policy_that_no_stage_asks_is_said(folder: Path) -> None:
    text = "\n".join(line for line in BASE.splitlines() if "id: sparse" not in line and "id: cut" not in line)
    (folder / "r.yaml").write_text(text)
    assert "warning: policy 'toy-policy' is defined and not used" in load("r.yaml").notes
    assert not any("not used" in note for note in load("toy.yaml").notes)


def test_a_broken_plugin_file_is_a_mistake_with_both_lines(folder: Path) -> None:
    (folder / "broken.py").write_text("import compress\n\nraise RuntimeError('so it goes')\n")
    with pytest.raises(RecipeError) as caught:
        load("toy.yaml", ["plugins=[toy.py, broken.py]"])
    assert f"plugin file {folder / 'broken.py'}:3: RuntimeError: so it goes" in str(caught.value)


def test_cuda_without_a_gpu_is_a_mistake(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match=r"'device=cuda': 'device': torch sees no GPU"):
        load("toy.yaml", ["device=cuda"])


def test_an_unknown_recipe_names_the_nearest_shipped_one(folder: Path) -> None:
    with pytest.raises(CompressError, match=r"recipe yolov3_hnd: no such file, .*did you mean 'yolov3_hand'"):
        load("yolov3_hnd")
    with pytest.raises(CompressError, match="is a folder"):
        load(folder)


PROFILED = sorted(name for name, path in shipped().items() if "\nprofiles:\n" in path.read_text(encoding="utf-8"))


def test_recipes_without_profiles_are_known_to_be_so() -> None:
    """What most of them are held against is in tests/classification."""
    plain = {"digits", "hands_on_cpu", "hands_quarter", "slimming_vgg19", "slimming_resnet164", "slimming_densenet40"}
    assert set(shipped()) - set(PROFILED) == plain


@pytest.mark.parametrize("name", ["hands_on_cpu", "hands_quarter"])
def test_recipes_for_photographs_lack_nothing_else(name: str, folder: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load(name)
    assert len(caught.value.mistakes) == 1 and "no data.yaml there" in str(caught.value)


@pytest.mark.parametrize("name", PROFILED)
def test_shipped_recipes_are_in_order_in_every_profile(name: str, folder: Path) -> None:
    """Away from the checkout, found by name; only their data may be missing."""
    quick = load(name, profile="quick")
    assert quick.profile == "quick" and quick.dataset.available() is None
    with pytest.raises(RecipeError) as caught:
        load(name, profile="full")
    assert len(caught.value.mistakes) == 1 and "no data.yaml there" in str(caught.value)
    assert f"{folder}/data/" in str(caught.value)  # paths of a recipe found by name: where the command was given


def test_shipped_recipes_open_with_the_command_that_runs_them() -> None:
    found = shipped()
    assert "yolov3_hand" in found
    for name, path in found.items():
        opening = path.read_text().split("\n\n")[0]
        assert opening.startswith("#") and f"compress run recipes/{name}.yaml" in opening
