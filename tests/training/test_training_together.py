"""Two processes that train one network: they agree with each other, and with one process that does the work of both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import together
import torch
from safetensors.torch import load_file

from compress.errors import CompressError
from compress.stages import run
from compress.training.journal import NAME as METRICS
from compress.training.journal import read
from compress.training.loop import train
from compress.training.optim import Settings, learning_rate

HERE = Path(__file__).parent


def torchrun(*arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Two gloo processes on this machine, one thread each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the two processes left."""
    folder = tmp_path_factory.mktemp("together")
    done = torchrun(str(HERE / "together.py"), str(folder))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_two_processes_took_part(trained):
    assert [np.load(trained / f"done-{rank}.npy").tolist() for rank in range(2)] == [[2], [2]]


@pytest.mark.parametrize("name", ["calm", "average", "norms", "taught", "idle"])
def test_parameters_are_the_same_in_both_processes(trained, name):
    first, second = (load_file(trained / f"{name}-{rank}.safetensors") for rank in range(2))
    own = [n for n in first if "running" not in n and "batches" not in n]  # norm statistics are each process's own
    assert len(own) > 8
    assert not [n for n in own if first[n].numpy().tobytes() != second[n].numpy().tobytes()]


def test_one_process_over_the_same_parts_ends_the_same(trained, tmp_path):
    """Norms in eval mode. One process takes the parts of both one after the other: accumulate 2."""
    for name in ("calm", "average", "taught"):
        make = together.taught if name == "taught" else together.job
        alone = train(make(tmp_path, name, accumulate=2, ema=0.5 if name == "average" else None)).state_dict()
        for key, tensor in load_file(trained / f"{name}-0.safetensors").items():
            torch.testing.assert_close(tensor, alone[key], rtol=1e-4, atol=1e-6)
        lines = [line for line in read(trained / name) if line["kind"] == "epoch"]
        expected = [line for line in read(tmp_path / name) if line["kind"] == "epoch"]
        assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in expected], rel=1e-4)


def test_ctrl_c_in_one_process_stops_both_and_the_end_is_the_same(trained):
    assert [(trained / f"interrupted-{rank}.txt").read_text() for rank in range(2)] == ["True", "True"]
    whole, resumed = (load_file(trained / f"{name}-0.safetensors") for name in ("norms", "resumed"))
    assert not [n for n in whole if whole[n].numpy().tobytes() != resumed[n].numpy().tobytes()]
    assert (trained / "norms" / METRICS).read_bytes() == (trained / "stopped" / "norms" / METRICS).read_bytes()


def test_only_the_first_process_writes(trained):
    for name in ("calm", "average", "norms", "taught", "idle"):
        assert len(list((trained / name).glob("events.*"))) == 1
        assert [line["epoch"] for line in read(trained / name) if line["kind"] == "epoch"] == [1, 2]
        assert (trained / name / METRICS).read_text().count('"kind": "step"') == 1


def test_gamma_follows_its_closed_form_in_both_processes(trained):
    """Without a gradient: 1 - sum over steps of lr_t * 0.2 / (1 - 0.5), once a step in each."""
    steps = [line for line in read(trained / "idle") if line["kind"] == "epoch"]
    assert len(steps) == 2
    settings = Settings(epochs=2, batch_size=8, lr=0.05, momentum=0.5)
    expected = 1 - sum(learning_rate(settings, t, 5) * 0.2 / 0.5 for t in range(10))
    for rank in range(2):
        gammas = {n: t for n, t in load_file(trained / f"idle-{rank}.safetensors").items() if n.endswith("1.weight")}
        assert len(gammas) == 3
        for gamma in gammas.values():
            torch.testing.assert_close(gamma, torch.full_like(gamma, expected), atol=1e-5, rtol=0)


def test_a_poisoned_batch_of_one_process_stops_both(trained):
    said = [(trained / f"error-{rank}.txt").read_text() for rank in range(2)]
    assert all(s.startswith("TrainingError: poisoned: training diverged at step") for s in said)
    assert len({s.partition(" step ")[2].partition(":")[0] for s in said}) == 1
    assert any("stripes-007" in s for s in said)


RECIPE = f"""
version: 1
name: toy
plugins: [{HERE / "toy.py"}]
device: cpu
threads: 1
model: {{uses: toy-net}}
data: {{uses: toy-stripes, train: 40, val: 16}}
stages:
  - {{id: baseline, uses: train, epochs: 2, lr: 0.05, batch_size: 8, validate_every: 1, keep: best, ema: 0.5}}
  - {{id: sparse, uses: sparsify, start: fresh, regularizer: network-slimming, strength: 0.1, epochs: 2, batch_size: 8}}
  - {{id: pruned, uses: prune, criterion: bn-gamma, scope: global, ratio: 0.4}}
  - {{id: finetuned, uses: finetune, epochs: 1, lr: 0.02, batch_size: 8}}
  - {{id: evaluate, uses: evaluate, seconds: 0.05}}
  - {{id: report, uses: report}}
"""


def test_a_recipe_under_torchrun(tmp_path):
    """The whole way by two processes: one run folder, said once; one process may not go on with it."""
    (tmp_path / "toy.yaml").write_text(RECIPE)
    folder = tmp_path / "run"
    done = torchrun("-m", "compress", "run", str(tmp_path / "toy.yaml"), "--out", str(folder))
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "report.json").read_text())
    assert [row["role"] for row in report["rows"]] == ["baseline", "sparse", "pruned", "finetuned"]
    said = (folder / "log.txt").read_text().splitlines()
    assert sum(line.endswith("baseline: train, stage 1 of 6") for line in said) == 1
    assert done.stdout.count("Fine-tuned") == 1 and done.stderr.count("baseline: done in") == 1
    for stage, epochs in (("baseline", 2), ("sparse", 2), ("finetuned", 1)):
        lines = [line for line in read(folder / stage) if line["kind"] == "epoch"]
        assert [line["epoch"] for line in lines] == list(range(1, epochs + 1))
        assert not list((folder / stage).glob("*.part")) and not (folder / stage / "best.safetensors").exists()
    with pytest.raises(CompressError, match=r"begun by 2 processes, not 1, .*--nproc-per-node 2 -m compress run"):
        run.resume(folder)
