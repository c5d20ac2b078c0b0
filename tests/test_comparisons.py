"""The scripts behind docs/comparisons.md: the page says what was measured, and a stopped measurement goes on."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from compress_models.darknet import DarknetArchitecture, format_cfg, save_weights

from compress.plugins import installed

ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "docs" / "measured"
"""The rows that the page's tables were made of."""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A script of benchmarks/ as a module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


def run(module: Any, monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
    return module.main()


@pytest.mark.parametrize("kind", ["criteria", "compensations"])
def test_the_page_has_the_tables_of_what_was_measured(kind: str, script: Any) -> None:
    rows = json.loads((MEASURED / f"{kind}.json").read_text(encoding="utf-8"))
    tables = script("tables")
    made = {"criteria": tables.criteria_tables, "compensations": tables.compensation_tables}[kind](rows)
    assert made.rstrip() in (ROOT / "docs" / "comparisons.md").read_text(encoding="utf-8")


def test_means_and_reasons(script: Any) -> None:
    rows = [
        {"recipe": "r", "seed": seed, "criterion": "whole", "settings": ["a.b=1", "c=2"], "macs": 10, "params": 5}
        | {"before": 0.9, "after": 0.95}
        for seed in (0, 1)
    ]
    asked = {"recipe": "r", "scope": "local", "keep": 0.5}
    rows += [{**asked, "seed": s, "criterion": "l1", "left": 0.5, "before": 0.1, "after": 0.5 + s} for s in (0, 1)]
    rows += [{**asked, "seed": s, "criterion": "mute", "failed": "says nothing"} for s in (0, 1)]
    said = script("tables").criteria_tables(rows)
    assert "| l1 | 0.100 (0.100-0.100) | 1.000 (0.500-1.500) |\n| mute | fails |" in said
    assert "- mute (seed 0, 1): says nothing" in said and "0.950 (0.950-0.950) after the fine-tuning" in said
    assert "Settings: `a.b=1 c=2`" in said


@pytest.mark.slow
def test_criteria_are_measured_once(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn: pip install scikit-learn")
    criteria = script("criteria")
    chosen = {"l1": {"uses": "l1"}, "hessian": {"uses": "hessian"}, "mute": {"uses": "torch-pruning.OBDCImportance"}}
    monkeypatch.setattr(criteria, "criteria", lambda scope, seed: chosen)
    quick = ["stages.baseline.epochs=1", "stages.sparse.epochs=1", "stages.finetuned.epochs=1"]
    question = ["--results", tmp_path, "measure", "digits", *quick, "--seeds", 0, "--scope", "local", "--keep", 0.4]
    assert run(criteria, monkeypatch, *question) == 0
    file = tmp_path / "criteria.json"
    rows = {row["criterion"]: row for row in json.loads(file.read_text())}
    assert set(rows) == {"whole", *chosen}
    for name in ("l1", "hessian"):
        assert rows[name]["left"] <= 0.4 and rows[name]["after"] > rows[name]["before"] - 0.2
    first = file.read_bytes()
    assert run(criteria, monkeypatch, *question) == 0
    assert run(criteria, monkeypatch, *question[:-6], "threads=1", *question[-6:]) == 2
    assert "digits was measured with other settings (stages.baseline.epochs=1" in capsys.readouterr().err
    assert file.read_bytes() == first


@pytest.mark.slow
def test_compensations_are_measured_once(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sys.path.insert(0, str(ROOT / "tests" / "detection"))
    from folders import write_folder

    compensations = script("compensations")
    torch.manual_seed(0)
    model = DarknetArchitecture(cfg="yolov3-tiny-hand", width=0.25).build(1, (64, 64))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.2, 1.5)  # Torch-Pruning takes all of equal scores or none
    (tmp_path / "net.cfg").write_text(format_cfg([model.net, *model.sections]))
    save_weights(model, tmp_path / "net.weights")
    data = write_folder(tmp_path / "data", n=4)
    question = ["--results", tmp_path, "measure", tmp_path / "net.cfg", "--data", data, "--keep", 0.5]
    assert run(compensations, monkeypatch, *question, "--criteria", "bn-gamma") == 0
    file = tmp_path / "compensations.json"
    rows = json.loads(file.read_text())
    made = [row["compensation"] for row in rows]
    assert made[:2] == ["whole", "none"] and made[-2:] == ["Torch-Pruning, no normaliser", "removed"]
    assert all(0.4 < row["left"] <= 0.5 for row in rows[1:-1]) and set(installed().compensations) < set(made)
    assert rows[-1]["channels"] > rows[-1]["silent"] == 0
    first = file.read_bytes()
    assert run(compensations, monkeypatch, *question, "--criteria", "bn-gamma") == 0
    assert file.read_bytes() == first
    missing = ["--results", tmp_path, "measure", tmp_path / "net.cfg", "--data", tmp_path / "nowhere"]
    assert run(compensations, monkeypatch, *missing) == 2
    assert "nowhere: no such file or folder; --data is where" in capsys.readouterr().err
