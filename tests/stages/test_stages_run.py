"""Whole runs of a small recipe: what they leave, what they say, and that being killed changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import compress
from compress.errors import CompressError, ExpectationError
from compress.files import claimed
from compress.recipes import load
from compress.report import validate
from compress.stages import run
from compress.stages.network import build
from compress.stages.stage import Context
from compress.training.journal import NAME as METRICS
from compress.training.progress import Progress

HERE = Path(__file__).parent
RECIPE = f"""
version: 1
name: toy
plugins: [{HERE.parent / "training" / "toy.py"}, {HERE / "watcher.py"}]
threads: 1
device: cpu
model: {{uses: toy-net}}
data: {{uses: toy-stripes, train: 40, val: 16, slow: 0.0005}}
policy: {{uses: toy-policy, keep: stem}}
stages:
  - {{id: baseline, uses: train, epochs: 4, lr: 0.05, batch_size: 8, checkpoint_seconds: 0.02}}
  - {{id: sparse, uses: sparsify, start: fresh, regularizer: network-slimming, strength: 0.1, epochs: 3, lr: 0.05,
     batch_size: 8, validate_every: 2, checkpoint_seconds: 0.02}}
  - {{id: pruned, uses: prune, criterion: bn-gamma, scope: global, ratio: 0.5, compensate: fold}}
  - {{id: finetuned, uses: finetune, epochs: 2, lr: 0.02, batch_size: 8, optimizer: adamw,
     checkpoint_seconds: 0.02}}
  - {{id: evaluate, uses: evaluate, seconds: 0.05}}
  - {{id: export, uses: export, formats: [names]}}
  - {{id: report, uses: report}}
expect: {{params_removed: {{min: 0.1}}, accuracy_drop: {{max: 1.0}}}}
"""
NETWORKS = ("baseline", "sparse", "pruned", "finetuned")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write(folder: Path, text: str = RECIPE) -> Path:
    path = folder / "toy.yaml"
    path.write_text(text)
    return path


def without(*ids: str) -> str:
    """The recipe without some of its stages."""
    lines, keep = [], True
    for line in RECIPE.splitlines():
        if line.startswith("  - {id: "):
            keep = line.split()[2].rstrip(",") not in ids
        elif not line.startswith("     "):
            keep = True
        if keep:
            lines.append(line)
    return "\n".join(lines)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run that nobody stopped."""
    folder = tmp_path_factory.mktemp("finished")
    before = torch.get_num_threads()
    done = run.start(load(write(folder)), folder / "run")
    assert torch.get_num_threads() == before
    return done.folder


def report_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


def test_the_report_says_what_is_there(finished):
    report = report_of(finished)
    validate(report)
    assert (finished / "report.html").stat().st_size > 1000
    assert [row["role"] for row in report["rows"]] == list(NETWORKS)
    assert report["data"] == {
        "name": "stripes", "synthetic": True, "train": 40, "val": 16, "fingerprint": "stripes-40-16"
    }  # fmt: skip
    for row in report["rows"]:
        weights = finished / row["stage"] / "weights.safetensors"
        assert row["bytes"] == weights.stat().st_size
        stored = load_file(weights)
        running = ("running_mean", "running_var", "num_batches_tracked")
        assert row["params"] == sum(t.numel() for name, t in stored.items() if not name.endswith(running))
        assert set(row["subsets"]) == {"even", "odd"} and row["latency_ms"]["threads"] == 1
    dense, cut = report["rows"][0], report["rows"][2]
    stem, inner, outer, head = 3 * 8 * 9 * 256, 8 * 12 * 9 * 64, 12 * 12 * 9 * 64, 12 * 4
    assert dense["macs"] == stem + inner + outer + head
    assert report["verification"]["passed"] and report["verification"]["rel"] < report["verification"]["tolerance"]
    assert {"group": "stem.0", "reason": "the policy keeps stem", "by": "policy"} in report["frozen"]
    widths = {row["layer"]: (row["before"], row["after"]) for row in report["channels"]}
    assert widths["stem.0"] == (8, 8) and widths["head"] == (4, 4)
    (before, after), (_, also) = widths["inner.0"], widths["outer.0"]
    assert before == 12 and after == also < 12
    assert cut["macs"] == stem + 8 * after * 9 * 64 + after * after * 9 * 64 + after * 4


def test_the_model_folder_loads_by_itself(finished):
    from compress.recipes import load

    recipe = load(finished / "recipe.yaml")
    model = compress.load(finished / "model", lambda: recipe.architecture.build(4, (16, 16)))
    stored = load_file(finished / "finetuned" / "weights.safetensors")
    assert all(torch.equal(tensor, stored[name]) for name, tensor in model.state_dict().items())
    assert sum(p.numel() for p in model.parameters()) == report_of(finished)["rows"][3]["params"]


def test_nothing_half_written_is_left(finished):
    assert not [path for path in finished.rglob("*") if path.name.endswith(".part")]
    assert not list(finished.rglob("checkpoint.safetensors"))
    assert {path.name for path in (finished / "sparse" / "pictures").iterdir()}
    assert list((finished / "sparse").glob("events.out.tfevents.*"))
    assert (finished / "export" / "names" / "names.txt").exists()


def test_sparse_starts_where_the_baseline_started(finished):
    recipe = load(finished / "recipe.yaml")
    context = Context("x", finished, (), recipe, recipe.dataset.open(), "cpu", Progress())
    torch.manual_seed(99)
    first, again = build(context), build(context)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert torch.initial_seed() == 99


def test_a_finished_run_is_not_run_again(finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    before = {id: (copy / id / "weights.safetensors").stat().st_mtime_ns for id in NETWORKS}
    assert run.resume(copy).report == report_of(finished)
    assert before == {id: (copy / id / "weights.safetensors").stat().st_mtime_ns for id in NETWORKS}


def test_one_network_measured_again_is_the_reports_row(finished):
    for id in ("sparse", "finetuned"):
        row = run.evaluate(finished, id, seconds=0.05)
        said = next(r for r in report_of(finished)["rows"] if r["stage"] == id)
        assert {**row, "latency_ms": None} == {**said, "latency_ms": None}
    assert run.evaluate(finished, seconds=0.05)["stage"] == "finetuned"
    with pytest.raises(CompressError, match="no earlier stage 'finetund' leaves a network; did you mean 'finetuned'"):
        run.evaluate(finished, "finetund")


def test_observers_hear_everything_in_order(finished):
    module = next(m for name, m in sys.modules.items() if name.startswith("compress_file_watcher"))
    seen = [entry for entry in module.SEEN if entry[0] != "epoch"]
    ids = ["baseline", "sparse", "pruned", "finetuned", "evaluate", "export", "report"]
    told = [entry for id in ids for entry in (("started", id), ("finished", id, True))]
    assert seen[: len(told) + 1] == [*told, ("run", list(NETWORKS))]
    epochs = [entry[1:] for entry in module.SEEN if entry[0] == "epoch"]
    arms = (("baseline", 4), ("sparse", 3), ("finetuned", 2))
    assert epochs[:9] == [(id, epoch, True) for id, count in arms for epoch in range(1, count + 1)]


def same(a: Path, b: Path) -> None:
    """Two runs ended alike: weights, cuts, metrics, telemetry and everything in the report but times."""
    for id in NETWORKS:
        assert (a / id / "weights.safetensors").read_bytes() == (b / id / "weights.safetensors").read_bytes(), id
        assert (a / id / "plan.json").read_bytes() == (b / id / "plan.json").read_bytes(), id
        if id != "pruned":
            assert (a / id / METRICS).read_bytes() == (b / id / METRICS).read_bytes(), id
    gammas = Path("sparse", "gamma", "gamma.jsonl")
    assert (a / gammas).read_bytes() == (b / gammas).read_bytes()
    one, other = report_of(a), report_of(b)
    for report in (one, other):
        del report["date"], report["command"]
        for row in report["rows"]:
            del row["latency_ms"]
    assert one == other


def shoot(tmp_path: Path, seed: int, shots: int) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "shoot_run.py"), str(write(tmp_path)), str(tmp_path), str(seed), str(shots)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=570, env=env)
    assert done.returncode == 0, done.stderr
    same(tmp_path / "whole", tmp_path / "shot")
    return json.loads(done.stdout)


def test_killed_at_random_points_ends_the_same(tmp_path):
    shots = shoot(tmp_path, seed=0, shots=6)
    assert shots["killed"] >= 3, shots
    assert any(shot["done"] and len(shot["done"]) < 7 for shot in shots["found"]), shots
    assert any(shot["inside"] for shot in shots["found"]), shots


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 7))
def test_killed_at_many_random_points_ends_the_same(tmp_path, seed):
    assert shoot(tmp_path, seed, shots=30)["killed"] >= 10


def test_ctrl_c_says_how_to_go_on_and_the_end_is_the_same(finished, tmp_path, monkeypatch):
    recipe = load(write(tmp_path))
    module = next(m for name, m in sys.modules.items() if name.startswith("compress_file_watcher"))

    class Press(list):
        def append(self, entry):
            if entry[:3] == ("epoch", "sparse", 2):
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(module, "SEEN", Press())
    with pytest.raises(run.Interrupted) as stopped:
        run.start(recipe, tmp_path / "run")
    assert stopped.value.folder == tmp_path / "run"
    assert str(stopped.value).endswith(f"compress run --resume {tmp_path / 'run'}")
    assert (tmp_path / "run" / "sparse" / "checkpoint.safetensors").exists()
    assert not (tmp_path / "run" / "report.json").exists()
    monkeypatch.setattr(module, "SEEN", [])
    run.resume(tmp_path / "run")
    same(finished, tmp_path / "run")


def test_missed_expectations_come_after_the_report(tmp_path):
    text = without("baseline", "sparse", "finetuned", "export").split("expect:")[0].replace("bn-gamma", "salience")
    text += "expect: {params_removed: {min: 0.99}, accuracy_drop: {max: -1}, speedup: {min: 0}}"
    with pytest.raises(ExpectationError) as missed:
        run.start(load(write(tmp_path, text)), tmp_path / "run")
    lines = str(missed.value).splitlines()
    assert len(lines) == 2 and lines[0].startswith("expect: params_removed is 0.") and "at most -1" in lines[1]
    report = report_of(tmp_path / "run")  # a network that is not trained here is the baseline itself
    assert [(row["stage"], row["role"]) for row in report["rows"]] == [("fresh", "baseline"), ("pruned", "pruned")]
    assert report["rows"][1]["params"] < report["rows"][0]["params"]


def test_pruning_twice(tmp_path):
    cut = "  - {id: pruned, uses: prune, criterion: bn-gamma, scope: global, ratio: 0.5, compensate: fold}\n"
    between = "  - {id: between, uses: finetune, epochs: 1, batch_size: 8}\n"
    text = without("sparse", "finetuned", "export").replace(cut, cut + between + cut.replace("pruned", "again", 1))
    text = text.replace("bn-gamma", "l2")
    finished = run.start(load(write(tmp_path, text)), tmp_path / "run")
    widths = {row["layer"]: (row["before"], row["after"]) for row in finished.report["channels"]}
    stored = load_file(tmp_path / "run" / "model" / "weights.safetensors")
    assert widths["inner.0"] == (12, 3) and stored["inner.0.weight"].shape[0] == 3
    assert [(row["stage"], row["role"]) for row in finished.report["rows"]] == [
        ("baseline", "baseline"), ("again", "pruned"), ("between", "finetuned")
    ]  # fmt: skip


def test_a_refused_export_leaves_no_file_and_can_be_tried_again(tmp_path):
    text = without("sparse", "pruned", "finetuned").replace("formats: [names]", "formats: [{uses: names, least: 99}]")
    recipe = load(write(tmp_path, text.split("expect:")[0]))
    with pytest.raises(CompressError, match="names: 11 parameters, expected 99"):
        run.start(recipe, tmp_path / "run")
    assert not list((tmp_path / "run" / "export").iterdir())
    assert (tmp_path / "run" / "evaluate" / "stage.json").exists()


def test_folders_that_are_none(finished, tmp_path):
    recipe = load(write(tmp_path))
    with pytest.raises(CompressError, match=r"already there; `compress run --resume .* goes on"):
        run.start(recipe, finished)
    with pytest.raises(CompressError, match="not the folder of a run"):
        run.resume(tmp_path)


def test_two_processes_do_not_work_on_one_run(finished):
    with claimed(finished / "log.txt") as mine:
        assert mine
        with pytest.raises(CompressError, match="another process is at work on this run"):
            run.resume(finished)
    run.resume(finished)


def test_changed_data_or_plugin_cannot_go_on(finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    lock = json.loads((copy / "lock.json").read_text())
    lock["data"]["fingerprint"] = "other"
    (copy / "lock.json").write_text(json.dumps(lock))
    with pytest.raises(CompressError, match="the data changed since the run began"):
        run.resume(copy)


def test_a_rehearsal_finds_what_cannot_be_cut_before_anything_is_trained(tmp_path):
    text = RECIPE.replace("ratio: 0.5,", "ratio: 0.5, ignore: ['iner*'],")
    with pytest.raises(CompressError, match=r"iner\*"):
        run.start(load(write(tmp_path, text)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_gpu_is_said(tmp_path):
    if torch.cuda.is_available():
        assert run.find_device("auto") == "cuda"
    else:
        with pytest.raises(CompressError, match="torch sees no GPU"):
            run.find_device("cuda")
        assert run.find_device("auto") == "cpu"
