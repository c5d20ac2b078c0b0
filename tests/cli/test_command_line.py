"""The command line as a user meets it: what it prints where, its exit codes, its help, and how fast it starts."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import compress.plugins
from compress.cli import main
from compress.cli.app import build

TOY = Path(__file__).parents[1] / "training" / "toy.py"
RECIPE = """\
version: 1
name: toy
plugins: [toy.py]
model: {uses: toy-net}
data: {uses: toy-stripes, train: 32, val: 8}
policy: {uses: toy-policy}
stages:
  - {id: dense, uses: train, epochs: 1}
  - {id: cut, uses: prune, ratio: 0.5}
  - {id: measured, uses: evaluate, seconds: 0.1}
  - {id: report, uses: report}
"""
COMMANDS = (
    "run", "check", "plan", "inspect", "eval", "detect", "bench", "export", "report", "compare", "plugins"
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in that holds `toy.yaml` and its plugin file."""
    shutil.copy(TOY, tmp_path / "toy.py")
    (tmp_path / "toy.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_and_what_can_be_done_with_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "toy.yaml", "seed=3", "--out", "out"]) == 0
    printed = capsys.readouterr()
    assert "Pruned" in printed.out and "compress eval out" in printed.err
    report = json.loads((folder / "out/report.json").read_text())
    assert report["seed"] == 3 and "seed: 3" in (folder / "out/recipe.yaml").read_text()

    assert main(["eval", "out", "--stage", "cut", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    same = ("role", "params", "macs", "bytes", "metrics", "subsets")
    assert {key: row[key] for key in same} == {key: report["rows"][1][key] for key in same}

    assert main(["eval", "out", "--stage", "dence"]) == 2
    assert "no earlier stage 'dence' leaves a network; did you mean 'dense'" in capsys.readouterr().err
    assert main(["run", "toy.yaml", "--out", "out"]) == 2
    assert "out: already there" in capsys.readouterr().err
    assert main(["run", "--resume", "out"]) == 0
    assert "dense: done already" in capsys.readouterr().err


def test_a_recipes_model_can_be_measured_as_it_is_given(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "toy.yaml", "--json"]) == 0
    before = json.loads(capsys.readouterr().out)[0]["before"]
    assert main(["eval", "toy.yaml", "data.val=12", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert {key: row[key] for key in before} == before and 0 <= row["metrics"]["accuracy"] <= 1
    assert main(["eval", "toy.yaml"]) == 0
    assert f"{before['params']:,}" in capsys.readouterr().out


def test_the_shipped_recipe_goes_all_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `compress run yolov3_hand` does without a GPU and without images, but with few and small images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small = ["model.width=0.1", "stages.export.formats=[darknet]", "stages.evaluate.seconds=0.5", "expect=null"]
    epochs = [f"stages.{stage}.epochs=1" for stage in ("baseline", "sparse", "finetuned")]
    drawn = [f"fallback_data.{setting}" for setting in ("train=16", "val=8", "image_size=96")]
    assert main(["run", "yolov3_hand", "--profile", "quick", "--out", "one", *small, *epochs, *drawn]) == 0
    report = json.loads(Path("one/report.json").read_text())
    assert [row["role"] for row in report["rows"]] == ["baseline", "sparse", "pruned", "finetuned"]
    assert report["verification"]["passed"] and report["data"]["synthetic"] and report["profile"] == "quick"
    params = [row["params"] for row in report["rows"]]
    assert params[0] == params[1] > 2 * params[2] == 2 * params[3]
    assert all((Path("one") / file).is_file() for file in ("report.html", "export/darknet/model.weights"))
    assert main(["check", "one/recipe.yaml"]) == 0  # the run's own recipe is a recipe


def test_missed_expectations_end_with_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "toy.yaml", "expect={params: {max: 10}, macs_removed: {min: 0}}", "--out", "out"]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.fullmatch(r"expect: params is \d+, expected at most 10", last)


def test_plan_and_inspect_agree_with_the_cut(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "toy.yaml", "--json"]) == 0
    (planned,) = json.loads(capsys.readouterr().out)
    assert main(["inspect", "toy.yaml", "--json"]) == 0
    graph = json.loads(capsys.readouterr().out)
    assert {key: graph[key] for key in ("params", "macs")} == planned["before"]
    frozen = {group["name"] for group in graph["groups"] if group["frozen"]}
    assert {g["name"]: g["frozen"]["by"] for g in graph["groups"] if g["frozen"]}["stem.0"] == "policy"
    for group in planned["groups"]:
        assert group["after"] == (group["before"] if group["group"] in frozen else group["before"] // 2)

    assert main(["run", "toy.yaml", "--out", "out"]) == 0
    rows = json.loads((folder / "out/report.json").read_text())["rows"]
    assert {key: rows[-1][key] for key in ("params", "macs")} == planned["after"]

    capsys.readouterr()
    assert main(["plan", "toy.yaml"]) == 0
    printed = capsys.readouterr().out
    assert f"{planned['before']['params']:,} -> " in " ".join(printed.split()) and "the policy keeps stem" in printed
    assert main(["inspect", "toy.yaml"]) == 0
    assert "the policy keeps stem [policy]" in capsys.readouterr().out


def test_a_block_goes_from_the_recipe_to_the_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = RECIPE.replace("ratio: 0.5}", "ratio: 0.25, blocks: 1}\n  - {id: tuned, uses: finetune, epochs: 1}")
    (folder / "toy.yaml").write_text(text)
    assert main(["inspect", "toy.yaml", "--json"]) == 0
    (block,) = json.loads(capsys.readouterr().out)["blocks"]
    assert block["name"] == "outer" and block["groups"] == [] and block["frozen"] is None
    assert main(["plan", "toy.yaml", "--json"]) == 0
    (planned,) = json.loads(capsys.readouterr().out)
    assert planned["blocks"] == [{key: block[key.replace("block", "name")] for key in ("block", "params", "macs")}]
    assert main(["plan", "toy.yaml"]) == 0
    assert f"outer {block['params']:,}" in " ".join(capsys.readouterr().out.split())

    assert main(["run", "toy.yaml", "--out", "out"]) == 0
    report = json.loads((folder / "out/report.json").read_text())
    assert report["blocks"] == planned["blocks"]
    assert [{key: row[key] for key in ("params", "macs")} for row in report["rows"][1:]] == [planned["after"]] * 2
    after = {row["layer"]: row["after"] for row in report["channels"]}
    assert after["outer.0"] == 0 < after["inner.0"]
    assert "Residual blocks taken out" in (folder / "out/report.html").read_text()


def test_check_shows_the_recipe_and_trains_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "toy.yaml", "stages.cut.ratio=0.25"]) == 0
    printed = capsys.readouterr()
    assert "cut          prune  ratio=0.25" in printed.out and "toy.yaml: in order" in printed.err
    assert f"ran the code of {folder / 'toy.py'}" in printed.err
    assert sorted(path.name for path in folder.iterdir() if path.suffix) == ["toy.py", "toy.yaml"]
    assert main(["check", "toy.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"][1]["scope"] == "local"


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["check", "toy.yaml", "seed=x", "stages.cut.rato=1"], ["'seed=x': 'seed': expec", "'stages.cut.rato=1': unk"]),
        (["check", "toy.yaml", "stages.cut.ignore=[hed*]"], ["ignore: 'hed*' matches no group; did you mean 'head'?"]),
        (["run", "toy.yaml", "stages.cut.ratio=null", "stages.cut.keep_params=3"], ["keep_params"]),
        (["run", "toy.yml"], ["recipe toy.yml: no such file"]),
        (["run"], ["compress run: give a RECIPE, or --resume RUN"]),
        (["run", "toy.yaml", "--resume", "x"], ["compress run --resume RUN takes nothing else"]),
        (["run", "--resume", "nowhere"], ["nowhere: not the folder of a run"]),
        (["run", "toy.yaml", "--oot", "x"], ["compress run: No such option: --oot"]),
        (["run", "toy.yaml", "--profile"], ["compress: Option '--profile' requires an argument"]),
        (["eval", "toy.yaml", "--stage", "x"], ["compress eval toy.yaml: --stage is for the folder of a run"]),
        (["rum"], ["compress: there is no command 'rum'; did you mean 'run'?"]),
        (["plugins", "bn-gama"], ["nothing is called 'bn-gama'; did you mean 'bn-gamma'?"]),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_ends_with_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], lines: list[str]
) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    found = [line for line in printed.err.splitlines() if not line.startswith(("data: ", "plugins: ran", "warning: "))]
    assert printed.out == "" and len(found) == len(lines), printed.err
    assert all(expected in line for expected, line in zip(lines, found, strict=True))
    assert not (folder / "runs").exists()


def test_plugins_lists_everything_that_is_registered(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "--json"]) == 0
    entries = {(entry["kind"], entry["name"]): entry for entry in json.loads(capsys.readouterr().out)}
    registry = compress.plugins.installed()
    assert len(entries) == len(registry.owners) > 15
    prune = {option["name"]: option for option in entries["stage", "prune"]["options"]}
    said = {"name": "scope", "type": "'local' or 'global' or 'isomorphic'", "required": False, "default": "local"}
    assert said.items() <= prune["scope"].items()
    assert main(["plugins"]) == 0
    listing = capsys.readouterr().out.splitlines()
    assert len(listing) == len(entries) + 1
    assert main(["plugins", "prune"]) == 0
    page = capsys.readouterr().out
    assert all(re.search(rf"^{name} ", page, re.MULTILINE) for name in prune)


def test_every_plugin_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "--json"]) == 0
    for entry in json.loads(capsys.readouterr().out):
        first = entry["doc"].partition("\n")[0]
        assert first.endswith("."), f"the first line of the docstring of {entry['kind']} {entry['name']}: {first!r}"


@pytest.mark.parametrize("command", ("", *COMMANDS))
def test_help_ends_with_an_example_and_the_next_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"] if command else ["--help"]) == 0
    *_, example, then = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    pattern = r"compress (\w+)( |$)"
    for label, line in (("Example:", example), ("Next:", then)):
        found = re.search(pattern, line)
        assert line.startswith(label) and found and found.group(1) in COMMANDS, line
    if command:
        assert f"compress {command}" in example


@pytest.mark.parametrize("command", ("", "check", "oxford-hand"))
def test_help_of_data_ends_the_same_way(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", command, "--help"] if command else ["data", "--help"]) == 0
    *_, example, then = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert example.startswith("Example:") and f"compress data {command}" in example
    assert then.startswith("Next:") and "compress check" in then


def test_the_project_has_these_commands() -> None:
    assert tuple(build().commands) == COMMANDS


def run(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, **more)


def test_help_and_version_wait_for_no_heavy_import(tmp_path: Path) -> None:
    heavy = {"torch", "numpy", "scipy", "yaml", "torchvision", "pluggy"}
    code = f"import sys; from compress.cli import main; print(main(sys.argv[1:]), *{heavy!r} & sys.modules.keys())"
    for arguments in (["--help"], ["run", "--help"], ["--version"], ["run", "--nope"]):
        done = run("-c", code, *arguments, cwd=tmp_path)
        assert done.stdout.splitlines()[-1] == ("2" if "--nope" in arguments else "0"), done.stderr


def test_python_dash_m_is_the_command(tmp_path: Path) -> None:
    done = run("-m", "compress", "--version", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("torch-compress ")


def test_ctrl_c_prints_the_command_that_goes_on(folder: Path) -> None:
    slow = ["run", "toy.yaml", "data.slow=0.02", "stages.dense.epochs=50", "--out", "out"]
    process = subprocess.Popen([sys.executable, "-m", "compress", *slow], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (folder / "out/dense/metrics.jsonl").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.strip().splitlines()[-1].endswith("compress run --resume out")
    assert "Traceback" not in said
