"""The small parts of stages: where a stage starts, what is expected of a report, what a lock holds."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.errors import CompressError, ExpectationError
from compress.stages import expect, lock
from compress.stages.evaluation import Evaluate
from compress.stages.export import Export
from compress.stages.prune import Prune, widths
from compress.stages.report import Report, channels_of
from compress.stages.run import reproducible
from compress.stages.stage import find_start
from compress.stages.training import Finetune, Sparsify, Train

TRAIN, PRUNE, EVALUATE = Train(), Prune(ratio=0.5), Evaluate()
EARLIER = (("a", TRAIN), ("b", PRUNE), ("c", EVALUATE))


def row(role: str, accuracy: float, params: int, ms: float, ego: float = 0.5) -> dict[str, Any]:
    return {
        "stage": role,
        "role": role,
        "params": params,
        "macs": 10 * params,
        "bytes": 4 * params,
        "latency_ms": {"median": ms},
        "metrics": {"map50": accuracy},
        "subsets": {"ego": {"map50": ego}},
    }


REPORT = {
    "rows": [
        row("baseline", 0.80, 1000, 10.0),
        row("sparse", 0.85, 1000, 11.0, ego=0.6),
        row("pruned", 0.40, 250, 5.0),
        row("finetuned", 0.83, 250, 4.0, ego=0.55),
    ]
}


def test_start_finds_the_network_it_names():
    assert find_start("previous", EARLIER) == "b" and find_start("a", EARLIER) == "a"
    assert find_start("fresh", EARLIER) is None and find_start("previous", ()) is None
    with pytest.raises(CompressError, match="no earlier stage 'c' leaves a network; one of: a, b, fresh, previous"):
        find_start("c", EARLIER)


def test_mistakes_that_types_cannot_say():
    def said(stage, earlier=EARLIER):
        return [option for option, _ in stage.mistakes(earlier, None)]

    assert said(Train(start="bb")) == ["start"] and said(Finetune(start="b")) == []
    assert said(Sparsify(regularizer="x", start="c")) == ["start"]
    assert said(Prune()) == ["uses"] and said(Prune(ratio=0.5, keep_macs=0.5)) == ["keep_macs"]
    assert said(Prune(keep_params=0.3)) == []
    assert said(Report()) == [] and said(Report(), EARLIER[:2]) == ["uses"]
    assert said(Export(formats=[])) == ["formats"] and said(Export(formats=["onnx"], start="zz")) == ["start"]


def test_numbers_of_a_report():
    found = expect.numbers(REPORT)
    assert found["map50"] == 0.83 and found["map50_drop"] == pytest.approx(0.02)
    assert found["ego.map50_drop"] == pytest.approx(0.05) and found["finetuned_ego.map50"] == 0.55
    assert found["params"] == 250 and found["params_removed"] == found["macs_removed"] == 0.75
    assert found["speedup"] == 2.5 and found["latency_ms"] == 4.0 and found["baseline_map50"] == 0.80
    before_tuning = {"rows": REPORT["rows"][:3]}
    assert expect.numbers(before_tuning)["map50_drop"] == pytest.approx(0.45)


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_expectations_hold_exactly_within_their_bounds(least, most):
    drop = expect.numbers(REPORT)["map50_drop"]
    if least <= drop <= most:
        expect.hold(REPORT, {"map50_drop": {"min": least, "max": most}})
    else:
        with pytest.raises(ExpectationError, match=r"map50_drop is 0\.02, expected at"):
            expect.hold(REPORT, {"map50_drop": {"min": least, "max": most}})


def test_every_missed_expectation_is_named_and_unknown_ones_are_mistakes():
    with pytest.raises(ExpectationError) as missed:
        expect.hold(REPORT, {"params": {"max": 100}, "speedup": {"min": 3}, "map50": {"min": 0.5}})
    assert str(missed.value).splitlines() == [
        "expect: params is 250, expected at most 100",
        "expect: speedup is 2.5, expected at least 3",
    ]
    with pytest.raises(CompressError, match="the report has no 'map50_dropp'; did you mean 'map50_drop'"):
        expect.hold(REPORT, {"map50_dropp": {"max": 0}})


def test_channels_over_several_cuts():
    cuts = [
        {"channels": [{"layer": "x", "before": 8, "after": 6}, {"layer": "y", "before": 4, "after": 4}]},
        {
            "channels": [
                {"layer": "x", "before": 6, "after": 3, "deviation": 0.5},
                {"layer": "y", "before": 4, "after": 2, "deviation": None},
            ]
        },
    ]
    assert channels_of(cuts) == [
        {"layer": "x", "before": 8, "after": 3, "deviation": 0.5},
        {"layer": "y", "before": 4, "after": 2, "deviation": None},
    ]


def test_widths_are_what_the_layers_give():
    layers = torch.nn.ModuleDict(
        {
            "conv": torch.nn.Conv2d(3, 8, 1),
            "up": torch.nn.ConvTranspose2d(8, 6, 2, groups=2),
            "grouped": torch.nn.Conv2d(6, 12, 1, groups=3),
            "norm": torch.nn.BatchNorm2d(12),
            "linear": torch.nn.Linear(12, 5),
        }
    )
    assert dict(widths(layers)) == {"conv": 8, "up": 6, "grouped": 12, "linear": 5}


def test_a_lock_holds_the_data_and_the_plugins_and_names_the_rest():
    was = {
        "data": {"fingerprint": "f"},
        "plugins": {"x.py": "1"},
        "versions": {"torch": "2.8", "numpy": "2"},
        "hardware": {"cores": 2},
    }
    assert lock.hold(was, was) == []
    lines = lock.hold(was, {**was, "versions": {"torch": "2.9", "numpy": "2"}, "hardware": {"cores": 4}})
    assert [line.split(":")[0] for line in lines] == ["versions torch", "hardware cores"]
    with pytest.raises(CompressError, match=r"plugin file x\.py changed"):
        lock.hold(was, {**was, "plugins": {"x.py": "2"}})
    with pytest.raises(CompressError, match="the data changed"):
        lock.hold(was, {**was, "data": {"fingerprint": "g"}})


def test_reproducible_leaves_torch_as_it_was():
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError), reproducible(1):
        assert torch.get_num_threads() == 1 and torch.are_deterministic_algorithms_enabled()
        raise RuntimeError
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


def test_a_terminal_gets_a_bar_with_the_time_left():
    code = (
        "import time\nfrom compress.training.progress import Progress\np = Progress()\n"
        "with p.bar('sparse', 30) as advance:\n"
        "    for k in range(30):\n        time.sleep(0.02); advance(1, f'loss {k}')\n"
        "p.say('done')\n"
    )
    master, slave = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    child = subprocess.Popen([sys.executable, "-c", code], stderr=slave, stdout=slave, env=env)
    os.close(slave)
    shown = b""
    while chunk := _read(master):
        shown += chunk
    assert child.wait() == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert re.search(r"sparse .*/30 .*0:0\d.*loss \d+", plain) and plain.rstrip().endswith("done")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux says so when the other end of a terminal is gone
        return b""
