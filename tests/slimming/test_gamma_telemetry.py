"""Gamma telemetry: the numbers are numpy's, a run that was killed and resumed leaves the same, TensorBoard reads it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from compress_plugins.network_slimming import GammaTelemetry, NetworkSlimming
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn, optim

from compress import CompressError
from compress.graph.trace import trace

STEPS, EPOCH = 60, 25


def gammas(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {"layers.0.norm.weight": torch.randn(5, generator=generator), "z": torch.randn(40, generator=generator)}


def run(telemetry: GammaTelemetry, start: int, stop: int) -> None:
    for step in range(start + 1, stop + 1):
        telemetry.record(step, (step - 1) // EPOCH + 1, step % EPOCH == 0, partial(gammas, step))


def test_numbers_are_those_of_numpy(tmp_path: Path) -> None:
    telemetry = GammaTelemetry(tmp_path)
    run(telemetry, 0, STEPS)
    lines = [json.loads(line) for line in (tmp_path / "gamma.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 25, 30, 40, 50, 60]
    assert [line["epoch"] for line in lines] == [1, 1, 1, 2, 2, 2, 3]
    for line in lines:
        scales = {name: g.abs().numpy() for name, g in gammas(line["step"]).items()}
        every = np.concatenate(list(scales.values()))
        np.testing.assert_allclose(line["quantiles"], np.quantile(every, [0.05, 0.25, 0.5, 0.75, 0.95]), atol=1e-5)
        np.testing.assert_allclose(line["first"], scales["layers.0.norm.weight"], atol=1e-5)
        assert ("distribution" in line) == (line["step"] % EPOCH == 0)
        if "distribution" in line:
            np.testing.assert_allclose(line["distribution"], np.quantile(every, np.linspace(0, 1, 101)), atol=1e-5)
            assert line["layers"] == {name: pytest.approx(g.mean(), abs=1e-5) for name, g in scales.items()}


@pytest.mark.parametrize("saved", [0, 15, 30])
def test_a_killed_and_resumed_run_leaves_the_same(tmp_path: Path, saved: int) -> None:
    """Killed at step 47, in the middle of a line, and resumed from a checkpoint of an earlier step."""
    whole, broken = GammaTelemetry(tmp_path / "whole"), GammaTelemetry(tmp_path / "broken")
    run(whole, 0, STEPS)
    run(broken, 0, 47)
    broken.close()
    with (tmp_path / "broken/gamma.jsonl").open("a") as file:
        file.write('{"step": 47, "epo')
    resumed = GammaTelemetry(tmp_path / "broken", saved)
    run(resumed, saved, STEPS)
    assert (tmp_path / "broken/gamma.jsonl").read_text() == (tmp_path / "whole/gamma.jsonl").read_text()
    for one, other in zip(whole.finish(tmp_path / "a"), resumed.finish(tmp_path / "b"), strict=True):
        assert one.read_bytes() == other.read_bytes()

    events = EventAccumulator(str(tmp_path / "whole"), size_guidance={"histograms": 0}).Reload()
    medians = {e.step: e.value for e in events.Scalars("gamma/quantile 0.50")}
    assert list(medians) == [10, 20, 25, 30, 40, 50, 60]
    assert medians[40] == pytest.approx(np.median(torch.cat(list(gammas(40).values())).abs()), abs=1e-5)
    assert [e.step for e in events.Histograms("gamma/all layers")] == [25, 50]
    assert len(events.Histograms("gamma/first layer")) == 7


def test_pictures_are_small_and_well_formed(tmp_path: Path) -> None:
    telemetry = GammaTelemetry(tmp_path)
    for step in range(10, 2001, 10):  # long enough to be thinned
        telemetry.record(step, step // 40, step % 40 == 0, lambda: {"x": torch.rand(300)})
    files = telemetry.finish(tmp_path / "pictures")
    assert [f.name for f in files] == ["gamma-quantiles.svg", "gamma-first-layer.svg", "gamma-by-epoch.svg"]
    for file in files:
        assert ElementTree.parse(file).getroot().tag.endswith("svg")
        assert file.stat().st_size < 150_000


def test_the_regularizer_records_what_it_shrinks(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))
    graph = trace(model, torch.zeros(1, 1, 4, 4))
    optimizer = optim.SGD(model.parameters(), 0.1)
    attached = NetworkSlimming(strength=0.1).attach(graph, model, optimizer, {})
    with pytest.raises(CompressError, match="observe"):
        attached.pictures(tmp_path)
    attached.observe(tmp_path / "gamma", 0)
    for step in range(1, 21):
        optimizer.zero_grad()
        model(torch.zeros(1, 1, 4, 4)).sum().mul(0).backward()
        optimizer.step()
        attached.record(step, 1, step == 20)
    assert len(attached.pictures(tmp_path / "pictures")) == 3
    attached.detach()
    lines = [json.loads(line) for line in (tmp_path / "gamma/gamma.jsonl").read_text().splitlines()]
    assert [line["first"] for line in lines] == [[pytest.approx(0.9)] * 4, [pytest.approx(0.8)] * 4]
