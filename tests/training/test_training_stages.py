"""What the training stages add to the loop: mistakes that options make together, and what pruning would leave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.plugins import installed
from compress.recipes import load
from compress.stages import run
from compress.stages.stage import Stage
from compress.stages.training import Finetune, Sparsify, Train
from compress.training.journal import read
from compress.training.shrinkage import Shrinkage, complaint

TOY = Path(__file__).with_name("toy.py")


@pytest.mark.parametrize(
    ("stage", "option", "said"),
    [
        (Train(batch_size=16, accumulate=3), "accumulate", "16 does not make 3 equal parts"),
        (Train(patience=2), "patience", "give validate_every as well"),
        (Finetune(keep="best"), "keep", "give validate_every as well"),
        (Sparsify(regularizer="network-slimming", ema=0.9), "ema", "no exact zeros to prune by"),
        (Sparsify(regularizer="group-lasso", strength="auto"), "strength", "expected a number"),
        (
            Sparsify(regularizer={"uses": "network-slimming", "schedule": "ramp"}, strength="auto"),
            "strength",
            "leave out schedule: ramp",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_options_that_do_not_go_together_are_one_line(stage: Stage, option: str, said: str) -> None:
    earlier = (("first", Train()),)
    ((named, message),) = stage.mistakes(earlier, installed())
    assert named == option and said in message and "\n" not in message


@pytest.mark.parametrize(
    "stage",
    [
        Train(batch_size=16, accumulate=4, validate_every=1, patience=2, keep="best", ema=0.9),
        Sparsify(regularizer="network-slimming", strength="auto", validate_every=1, keep="best"),
        Sparsify(regularizer="growing", strength=0.5),
    ],
    ids=["train", "auto", "growing"],
)
def test_options_that_go_together_are_no_mistake(stage: Stage) -> None:
    assert not list(stage.mistakes((("first", Train()),), installed()))


RECIPE = f"""
version: 1
name: toy
plugins: [{TOY}]
device: cpu
threads: 1
model: {{uses: toy-net}}
data: {{uses: toy-stripes, train: 40, val: 16}}
policy: {{uses: toy-policy, keep: stem}}
stages:
  - {{id: sparse, uses: sparsify, epochs: 2, lr: 0.05, batch_size: 8, strength: auto,
     regularizer: {{uses: network-slimming, share: 0.5, by: 0.8}}}}
  - {{id: lasso, uses: sparsify, start: fresh, regularizer: group-lasso, strength: 0.2, epochs: 1, batch_size: 8}}
  - {{id: grown, uses: sparsify, start: fresh, regularizer: growing, strength: 0.9, epochs: 1, batch_size: 8}}
  - {{id: pruned, uses: prune, start: sparse, criterion: bn-gamma, scope: global, ratio: 0.5}}
"""


@given(share=st.floats(0, 0.5), gone=st.floats(0, 0.2), epochs=st.integers(1, 50), part=st.floats(0, 1))
def test_a_penalty_is_blamed_for_its_pace_once_it_has_risen(share, gone, epochs, part):
    done = min(1 + int(part * epochs), epochs)
    start = Shrinkage(share, 1.0, 10)
    line = complaint(start, Shrinkage(share, 1.0 - gone, 10), epochs, done)
    assert (line is None) is (1.0 - (1.0 - gone) > 0.1 * done / epochs) or gone * epochs == pytest.approx(0.1 * done)
    assert line is None or "raise `strength`" in line
    assert complaint(start, Shrinkage(share + 0.01, 1.0, 10), epochs, done) is None


def test_what_pruning_would_leave_is_said_while_the_gammas_shrink(tmp_path: Path) -> None:
    """The last forecast is what the prune stage makes of that network; stages that it does not start from have none."""
    (tmp_path / "toy.yaml").write_text(RECIPE)
    folder = run.start(load(tmp_path / "toy.yaml"), tmp_path / "run").folder
    facts: dict[str, Any] = json.loads((folder / "pruned/stage.json").read_text())["facts"]
    epochs = [line for line in read(folder / "sparse") if line["kind"] == "epoch"]
    assert epochs[-1]["pruned_params"] == facts["after"]["params"] < facts["before"]["params"]
    assert epochs[-1]["pruned_macs"] == facts["after"]["macs"]
    assert epochs[-1]["gamma_small"] >= 0.5  # strength auto kept its word
    for other in ("lasso", "grown"):
        (last,) = [line for line in read(folder / other) if line["kind"] == "epoch"]
        assert "pruned_params" not in last and last["gamma_median"] < 1
    gammas = (folder / "sparse/gamma/gamma.jsonl").read_text().splitlines()
    strengths = [json.loads(line)["strength"] for line in gammas]
    assert strengths and all(s >= 0 for s in strengths)
