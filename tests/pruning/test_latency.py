"""Latency budgets and measured rounding on a device whose times are written down, and once on this one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import compress
from compress import CompressError
from compress.measure.latency import Latency
from compress.pruning import latency
from compress.pruning.latency import _Alone, best_multiple, cut_to_latency


class Net(nn.Module):
    """Three convolutions, one of them depthwise, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.c, self.fc = nn.Conv2d(32, 48, 1), nn.Linear(48, 5)

    def forward(self, x):
        return self.fc(self.c(self.b(self.a(x).relu()).relu()).relu().mean((2, 3)))


class Device:
    """Stands for measure_latency: each channel pair of each layer takes a microsecond; elements and odd widths too."""

    def __init__(self, drag: float = 1.0, multiple: int = 1) -> None:
        self.drag, self.multiple = drag, multiple

    def layer(self, weight: torch.Tensor) -> float:
        outs, ins = weight.shape[:2]
        return 0.001 * -(-outs // self.multiple) * self.multiple * ins * weight[0, 0].numel()

    def __call__(self, models, example, threads=None, seconds=10.0, channels_last=True):
        found = {}
        for name, model in models.items():
            if isinstance(model, _Alone):
                ms = self.layer(model.weight)
            else:
                layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
                ms = self.drag * sum(self.layer(m.weight) for m in layers) + 0.002 * sum(len(m.weight) for m in layers)
            found[name] = Latency(ms, ms, ms, "paper", 1, len(example), 10)
        return found


@pytest.fixture
def traced():
    torch.manual_seed(0)
    model, x = Net().eval(), torch.rand(1, 3, 8, 8)
    return model, compress.trace(model, x)


def test_the_table_tells_what_the_cut_network_takes(traced, monkeypatch):
    device = Device()
    monkeypatch.setattr(latency, "measure_latency", device)
    model, graph = traced
    table = compress.measure_layers(model, graph)
    plan = compress.plan(graph, "l1", keep={"latency": 0.5}, latency=table)
    cut = compress.apply(model, graph, plan).model
    whole, after = (device({"x": net}, graph.example_inputs)["x"].median for net in (model, cut))
    told = plan.settings["latency_ms"]
    assert told["dense"] == pytest.approx(whole)
    assert told["predicted"] == pytest.approx(after, rel=0.05) and after <= 0.52 * whole
    absolute = compress.plan(graph, "l1", keep={"latency": 2.0, "macs": 0.9}, latency=table)
    assert absolute.settings["latency_ms"]["predicted"] <= 2.0
    with pytest.raises(
        CompressError, match=r"keep_latency=0.0001 cannot be met: at least .* stay; ask for keep_latency="
    ):
        compress.plan(graph, "l1", keep={"latency": 0.0001}, latency=table)
    with pytest.raises(CompressError, match="keep latency: pass latency="):
        compress.plan(graph, "l1", keep={"latency": 0.5})


def test_a_table_that_is_wrong_about_the_whole_is_put_right_by_measuring(traced, monkeypatch):
    """The network as a whole drags: a part of its time does not shrink, which layers alone do not show."""
    model, graph = traced

    class Drags(Device):
        def __call__(self, models, *args, **kwargs):
            fixed = {name: 0.0 if isinstance(m, _Alone) else 0.5 for name, m in models.items()}
            return {
                name: Latency(each.median + fixed[name], 0, 0, "paper", 1, 1, 10)
                for name, each in super().__call__(models, *args, **kwargs).items()
            }

    device = Drags()
    monkeypatch.setattr(latency, "measure_latency", device)
    asked = []

    def cut(budgets, table):
        asked.append(budgets["latency"])
        return compress.apply(model, graph, compress.plan(graph, "l1", keep=budgets, latency=table))

    pruned, line = cut_to_latency(cut, {"latency": 0.7}, model, graph)
    times = device({"whole": model, "cut": pruned.model}, graph.example_inputs)
    assert 0.63 <= times["cut"].median / times["whole"].median <= 0.77
    assert "asked 70%" in line and asked[0] == 0.7
    with pytest.raises(CompressError, match=r"cannot be met|did not come within 10%"):
        cut_to_latency(cut, {"latency": 0.05}, model, graph)


@pytest.mark.parametrize("multiple", [1, 8, 16])
def test_rounding_is_the_multiple_that_the_device_computes_in(traced, monkeypatch, multiple):
    """Where widths cost as much as the next multiple of m, m is free, and nothing smaller is as good a bargain."""
    model, graph = traced
    monkeypatch.setattr(latency, "measure_latency", Device(multiple=multiple))
    found = best_multiple(model, graph)
    plan = compress.plan(graph, "l1", 0.4, round_to="auto")
    assert plan.settings["round_to"] == found
    assert found == 1  # rounding up costs nothing there, and gains nothing: the smallest that is as good


def test_rounding_pays_where_odd_widths_are_slow(traced, monkeypatch):
    class Slow(Device):
        def layer(self, weight):
            return super().layer(weight) * (1.0 if weight.shape[0] % 8 == 0 else 3.0)

    monkeypatch.setattr(latency, "measure_latency", Slow())
    model, graph = traced
    assert best_multiple(model, graph) == 8
    plan = compress.plan(graph, "l1", 0.4, round_to="auto")
    assert all((graph[name].size - len(units)) % 8 == 0 for name, units in plan.removed.items())


def test_on_this_device(traced):
    model, graph = traced
    table = compress.measure_layers(model, graph, threads=1, seconds=0.0)
    assert len(table.layers) == 4 and all((np.diff(t.ms, axis=0) >= 0).all() and (t.ms > 0).all() for t in table.layers)
    assert table.meter(graph)(graph.alive()) == pytest.approx(table.whole.median)
    plan = compress.plan(graph, "l1", 0.5)
    assert table.meter(graph)(graph.alive(plan)) <= table.whole.median
    assert best_multiple(model, graph, threads=1) in latency.MULTIPLES
    with pytest.raises(CompressError, match="only where the example input is one tensor"):
        compress.measure_layers(model, compress.trace(model, (torch.rand(1, 3, 8, 8),)))
