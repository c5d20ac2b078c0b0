"""A recipe that measures what each group costs, prunes by that, and learns from the dense network again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from compress.cli import main
from compress.errors import CompressError
from compress.plugins import installed
from compress.pruning.analysis import read
from compress.recipes import load
from compress.stages import run
from compress.stages.network import read as read_network
from compress.stages.prune import Prune
from compress.stages.rehearsal import rehearse
from compress.stages.sensitivity import NUMBERS, PICTURE, Sensitivity
from compress.stages.stage import Context
from compress.stages.training import Finetune, Train
from compress.training.journal import read as journal
from compress.training.progress import Progress

TOY = Path(__file__).parents[1] / "training" / "toy.py"
RECIPE = f"""
version: 1
name: toy
plugins: [{TOY}]
threads: 1
device: cpu
model: {{uses: toy-net}}
data: {{uses: toy-stripes, train: 40, val: 16}}
policy: {{uses: toy-policy, keep: stem}}
stages:
  - {{id: baseline, uses: train, epochs: 4, lr: 0.05, batch_size: 8}}
  - {{id: measured, uses: sensitivity, ratios: [0.25, 0.5, 0.75], images: 13}}
  - {{id: pruned, uses: prune, criterion: l1, sensitivity: measured, max_drop: 0.2}}
  - {{id: finetuned, uses: finetune, epochs: 2, lr: 0.02, batch_size: 8, teacher: baseline,
     distill: [{{uses: logits, temperature: 2}}, {{uses: features, points: [inner, outer], weight: 0.5}}]}}
  - {{id: evaluate, uses: evaluate, seconds: 0.05}}
  - {{id: report, uses: report}}
"""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measured")
    (folder / "toy.yaml").write_text(RECIPE)
    return run.start(load(folder / "toy.yaml"), folder / "run").folder


def facts(folder: Path, stage: str) -> dict[str, Any]:
    return json.loads((folder / stage / "stage.json").read_text())["facts"]


def test_the_ratios_are_what_was_measured_to_be_harmless(finished: Path) -> None:
    found = read(finished / "measured" / NUMBERS)
    assert found.metric == "accuracy" and found.ratios == (0.25, 0.5, 0.75)
    assert found.left_out["stem.0"] == "the policy keeps stem"
    assert found.settings["images"] == 13 and found.settings["split"] == "train" and found.settings["of"] == 40
    assert all(round(v * 13) == pytest.approx(v * 13) for row in found.values.values() for v in (found.base, *row))
    ratios = found.tolerated(0.2)
    widths = {row["layer"]: row for row in facts(finished, "pruned")["channels"]}
    for (first, *_), _ in found.values.items():
        layer = widths[first]
        assert layer["before"] - layer["after"] == round(ratios[first] * layer["before"])
    assert any(row["before"] > row["after"] for row in widths.values())
    assert widths["stem.0"]["before"] == widths["stem.0"]["after"]


def test_how_far_each_layer_has_moved_is_on_the_page(finished: Path) -> None:
    moved = {row["layer"]: row["deviation"] for row in facts(finished, "pruned")["channels"]}
    assert moved["stem.0"] == 0 and sum(value > 0 for value in moved.values()) >= 2
    page = " ".join((finished / "report.html").read_text().split())
    assert all(f"{100 * value:.1f} %</td></tr>" in page for value in moved.values())
    assert "layers' outputs have moved by" in (finished / "log.txt").read_text()


def test_the_picture_is_on_the_page(finished: Path) -> None:
    svg = (finished / "measured" / PICTURE).read_text()
    assert svg.startswith("<?xml") and "</svg>" in svg
    page = (finished / "report.html").read_text()
    assert "From stage <q>measured</q>" in page and "Sensitivity, from stage measured" in page
    n = len(read(finished / "measured" / NUMBERS).values)
    said = f"measured: {n} groups x 3 ratios, accuracy of 13 of 40 train images"
    assert n >= 1 and said in (finished / "log.txt").read_text()


def test_the_network_learned_from_the_baseline(finished: Path) -> None:
    (first, last) = [line for line in journal(finished / "finetuned") if line["kind"] == "epoch"]
    assert last["distill_features"] < first["distill_features"] and last["distill_logits"] > 0
    for line in (first, last):
        parts = line["entropy"] + line["distill_logits"] + 0.5 * line["distill_features"]
        assert line["loss"] == pytest.approx(parts, rel=1e-5)


def test_a_stopped_measurement_goes_on(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = tmp_path / "run"
    shutil.copytree(finished, again)
    for stage in ("measured", "pruned", "finetuned", "evaluate", "report"):
        shutil.rmtree(again / stage) if stage != "measured" else (again / stage / "stage.json").unlink()
    kept = json.loads((again / "measured" / NUMBERS).read_text())
    kept["rows"], removed = kept["rows"][:0], kept["rows"]
    (again / "measured" / NUMBERS).write_text(json.dumps(kept))
    run.resume(again)
    assert json.loads((again / "measured" / NUMBERS).read_text())["rows"] == removed
    assert (again / "measured" / PICTURE).read_bytes() == (finished / "measured" / PICTURE).read_bytes()
    for stage in ("pruned", "finetuned"):
        mine, theirs = (load_file(folder / stage / "weights.safetensors") for folder in (again, finished))
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_rehearsal_plans_nothing_that_is_measured_and_tries_the_lessons_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "toy.yaml").write_text(RECIPE)
    recipe = load(tmp_path / "toy.yaml")
    assert rehearse(recipe, recipe.dataset.open()).cuts == ()
    assert main(["plan", str(tmp_path / "toy.yaml")]) == 2
    assert "what 'pruned' removes is measured by the run, so there is nothing to show" in capsys.readouterr().err
    for old, new, said in (
        ("points: [inner, outer]", "points: [inner, outr]", r"has no module 'outr'; did you mean 'outer'\?"),
        ("uses: logits, temperature: 2", "uses: detector", "the student, Net, has no `heads`"),
    ):
        (tmp_path / "toy.yaml").write_text(RECIPE.replace(old, new))
        recipe = load(tmp_path / "toy.yaml")
        with pytest.raises(CompressError, match=said):
            rehearse(recipe, recipe.dataset.open())


def test_the_teacher_of_a_stage_is_read_with_its_own_cut(finished: Path) -> None:
    """A later fine-tuning from the pruned network: features are narrowed by nothing, since both have the same."""
    recipe = load(finished / "recipe.yaml")
    earlier = recipe.stages[:4]
    quiet = Progress(stream=open(os.devnull, "w"))  # noqa: SIM115
    context = Context("later", finished, earlier, recipe, recipe.dataset.open(), "cpu", quiet)
    later = Finetune(teacher="pruned", distill={"uses": "features", "points": ["inner", "outer"]})
    distiller = later.distilling(context, read_network(context, "finetuned"))
    assert distiller is not None
    images = torch.rand(2, 3, 16, 16)
    with distiller.watch() as lesson:
        distiller.student.eval()(images)
    narrow, told = lesson.calls[0][2].features, distiller.ask((images,), {}).features
    assert all(mine.shape == theirs.shape for p in narrow for mine, theirs in zip(narrow[p], told[p], strict=True))
    expected = distiller.teacher.inner(distiller.teacher.stem(images))
    assert torch.equal(told["inner"][0], expected) and not torch.equal(narrow["inner"][0], expected)


FEATURES = {"uses": "features", "points": ["inner"]}
EARLIER = (("baseline", Train()), ("measured", Sensitivity()), ("sparse", Train(start="fresh")))
CUT = (*EARLIER, ("pruned", Prune(ratio=0.5)), ("again", Finetune()))


@pytest.mark.parametrize(
    ("stage", "option", "said"),
    [
        (Finetune(teacher="base"), "teacher", "no earlier stage 'base' leaves a network; did you mean 'baseline'?"),
        (Finetune(teacher="measured"), "teacher", "no earlier stage 'measured' leaves a network"),
        (Finetune(distill=FEATURES), "distill", "name an earlier stage as `teacher`"),
        (Finetune(teacher="baseline", distill=FEATURES, compile=True), "compile", "leave one of them out"),
        (Prune(start="baseline", sensitivity="measurd", max_drop=0.1), "sensitivity", "did you mean 'measured'?"),
        (Prune(start="baseline", sensitivity="measured", scope="global"), "uses", "nothing says how much goes"),
        (Prune(start="baseline", sensitivity="measured", ratio=0.5), "sensitivity", "give max_drop, or scope: global"),
        (Prune(keep_macs=0.5, max_drop=0.1), "max_drop", "sensitivity has to name the stage"),
        (Prune(ratio=0.5, sensitivity="measured", max_drop=0.1, start="baseline"), "max_drop", "are given; give"),
        (Prune(sensitivity="measured", max_drop=0.1), "sensitivity", "the network of 'baseline', and this one cuts"),
        (Prune(start="baseline", sensitivity="measured", max_drop=0.1, heads="inside"), "heads", "with heads: whole"),
        (Sensitivity(ratios=(0.5, 0.2)), "ratios", "expected ascending fractions"),
        (Sensitivity(start="nowhere"), "start", "no earlier stage 'nowhere'"),
    ],
    ids=range(13),
)  # fmt: skip
def test_mistakes_say_what_to_do(stage: Any, option: str, said: str) -> None:
    found = list(stage.mistakes(EARLIER, installed()))
    assert [place for place, message in found if said in message] == [option], found
    assert all("\n" not in message for _, message in found)


def test_channels_are_compared_with_those_of_an_ancestor_alone() -> None:
    for teacher, start, fine in (
        ("sparse", "again", True), ("pruned", "again", True), ("again", "again", True),
        ("baseline", "again", False), ("again", "pruned", False), ("sparse", "baseline", False),
    ):  # fmt: skip
        found = list(Finetune(teacher=teacher, start=start, distill=["logits", FEATURES]).mistakes(CUT, installed()))
        assert (found == []) is fine, (teacher, start, found)
        assert fine or [place for place, said in found if f"those of '{teacher}' are others" in said] == ["teacher"]
        assert not list(Finetune(teacher=teacher, start=start).mistakes(CUT, installed()))


@pytest.mark.parametrize(
    "stage",
    [
        Finetune(teacher="sparse", distill=["logits", FEATURES]),
        Finetune(teacher="baseline", compile=True),
        Prune(start="baseline", sensitivity="measured", max_drop=0.0, ratios={"head*": 0.1}),
        Prune(start="baseline", sensitivity="measured", scope="global", keep_macs=0.5, keep={"latency": 0.5}),
    ],
    ids=["several", "compiled", "tolerated", "budgets"],
)
def test_options_that_go_together_are_no_mistake(stage: Any) -> None:
    assert not list(stage.mistakes(EARLIER, installed()))
