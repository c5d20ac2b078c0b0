"""Sensitivity against the masked network, what it tolerates, and that a call that was stopped goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import compress
from compress import Sensitivity
from compress.pruning.analysis import _sets, read
from compress.pruning.masked import mask
from compress.pruning.replay import run_masked
from compress.pruning.surgery import edits


class Mixed(nn.Module):
    """(B, 3, 8, 8) -> (B, 4): BatchNorm, a group norm and a layer norm over channels, a shortcut, a gate by halves."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.spread = nn.Conv2d(8, 12, 3, padding=1), nn.GroupNorm(4, 12)
        self.outer = nn.Conv2d(12, 8, 3, padding=1)
        self.gated, self.last = nn.Linear(8, 20), nn.LayerNorm(10)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.outer(self.spread(self.inner(x)).relu())
        a, b = self.gated(x.mean((2, 3))).chunk(2, 1)
        return self.head(self.last(a * b.sigmoid()))


def mixed(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = Mixed()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        model.norm.running_mean.normal_(0, 0.3)
        model.norm.running_var.uniform_(0.5, 2)
    return model.eval()


RATIOS = (0.25, 0.5, 0.75)


@pytest.mark.parametrize("seed", range(3))
def test_each_value_is_that_of_the_masked_network(seed: int) -> None:
    """Oracle: the whole network with the removed units zeroed, what reduces over channels run on the survivors."""
    model, images = mixed(seed), torch.rand(5, 3, 8, 8)
    wanted = torch.randn(5, 4)

    def metric(outputs: Tensor) -> float:
        return -float((outputs.detach() - wanted).square().mean())

    graph = compress.trace(model, images)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = compress.sensitivity(model, graph, lambda net: metric(net(images)), "l2", RATIOS, name="closeness")
    assert found.metric == "closeness" and found.base == pytest.approx(metric(model(images)), rel=1e-6)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    linked = {name for names in found.values for name in names if len(names) > 1}
    measured = {name for names in found.values for name in names}
    assert measured == {g.name for g in graph.groups if not g.frozen} and len(found.values) >= 3
    assert all({n for link in graph[name].links for n, _ in link.slots} <= linked | {name} for name in measured)
    for names, row in found.values.items():
        for ratio, value in zip(RATIOS, row, strict=True):
            removed = {n: u for n, u in compress.plan(graph, "l2", ratio).removed.items() if n in names}
            cut = compress.Plan(removed)
            alive = graph.alive_labels(graph.alive(cut))
            (outputs,) = run_masked(mask(model, edits(graph, cut, model)), images, graph, alive)
            assert value == pytest.approx(metric(outputs), rel=1e-4), (names, ratio)
            assert removed and abs(value - found.base) > 1e-6


class Halves(nn.Module):
    """A layer whose halves go different ways: two groups that keep equally many."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.left, self.right = nn.Linear(6, 16), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.wide(x).chunk(2, 1)
        return self.left(a) + self.right(b)


def test_linked_groups_are_cut_together() -> None:
    torch.manual_seed(0)
    model = Halves()
    graph = compress.trace(model, torch.rand(2, 6))
    together = {name for g in graph.groups for link in g.links for name, _ in link.slots}
    seen = []

    def metric(net: Any) -> float:
        seen.append((net.wide.out_features, net.left.in_features, net.right.in_features))
        return 0.0

    found = compress.sensitivity(model, graph, metric, ratios=(0.5,))
    assert len(together) == 2
    assert [set(names) for names in found.values] == [together] and seen == [(16, 8, 8), (8, 4, 4)]


@pytest.fixture
def small() -> tuple[nn.Module, Any, Any]:
    model, images = mixed(0), torch.rand(2, 3, 8, 8)
    return model, compress.trace(model, images), lambda net: float(net(images).square().mean())


def test_a_stopped_call_goes_on_and_ends_the_same(small: Any, tmp_path: Path) -> None:
    model, graph, metric = small
    whole = compress.sensitivity(model, graph, metric, ratios=RATIOS, file=tmp_path / "whole.json")
    calls = 0

    def failing(net: nn.Module) -> float:
        nonlocal calls
        calls += 1
        if calls == 6:  # the base, three ratios of the first group, and in the middle of the second
            raise KeyboardInterrupt
        return metric(net)

    file = tmp_path / "found.json"
    with pytest.raises(KeyboardInterrupt):
        compress.sensitivity(model, graph, failing, ratios=RATIOS, file=file)
    assert len(read(file).values) == 1
    again = compress.sensitivity(model, graph, failing, ratios=RATIOS, file=file)
    assert again == whole == read(file) and file.read_text() == (tmp_path / "whole.json").read_text()
    measured = len(whole.values) * len(RATIOS)
    assert calls == 6 + 1 + measured - 3  # nothing twice but the base and the group that was begun
    with pytest.raises(compress.CompressError, match=r"another analysis: its ratios is .*; remove it"):
        compress.sensitivity(model, graph, metric, ratios=(0.5,), file=file)
    with pytest.raises(compress.CompressError, match="another analysis: its base is"):
        other = mixed(1)
        graph = compress.trace(other, torch.rand(2, 3, 8, 8))
        compress.sensitivity(other, graph, metric, ratios=RATIOS, file=file)


def test_what_is_tolerated_is_the_last_ratio_before_the_metric_falls_too_far() -> None:
    found = Sensitivity(
        "accuracy", 0.9, (0.2, 0.4, 0.6),
        {("a",): (0.9, 0.89, 0.5), ("b", "c"): (0.7, 0.9, 0.9), ("d",): (0.95, 0.9, 0.88)}, {"e": "an output"},
    )  # fmt: skip
    assert found.tolerated(0.021) == {"a": 0.4, "b": 0.0, "c": 0.0, "d": 0.6, "e": 0.0}
    assert found.tolerated(0.0) == {"a": 0.2, "b": 0.0, "c": 0.0, "d": 0.4, "e": 0.0}
    lines = str(found).splitlines()
    assert lines[0].startswith("accuracy 0.9000") and lines[-1] == "not measured: e: an output"
    assert "  with c" in lines and any(line.split() == ["a", "0.0000", "0.0100", "0.4000"] for line in lines)


def test_its_ratios_are_plans(small: Any) -> None:
    model, graph, metric = small
    found = compress.sensitivity(model, graph, metric, "l1", RATIOS, ignore=("stem",))
    assert found.left_out["stem"] == "ignore 'stem'"
    limit = float(np.median([drop for row in found.drops().values() for drop in row]))
    ratios = found.tolerated(limit)
    chosen = compress.plan(graph, "l1", ratios=ratios)
    for group in graph.groups:
        gone = len(chosen.removed.get(group.name, ()))
        assert gone == round(ratios[group.name] * group.size) and (gone == 0) is (ratios[group.name] == 0)
    assert 0 < sum(ratio > 0 for ratio in ratios.values()) < len(ratios)


@pytest.mark.parametrize("budget", [{"keep_params": 0.6}, {"keep_macs": 0.4}, {"ratio": 0.3}])
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_all_groups_are_cut_until_they_cost_the_same(data: st.DataObject, budget: dict[str, float]) -> None:
    """Oracle: the drop of each unit by hand, from the curve of its group and how many of it went before."""
    model = mixed(0)
    graph = compress.trace(model, torch.rand(2, 3, 8, 8))
    free = [g for g in graph.groups if not g.frozen]
    value = st.floats(-0.2, 1)
    values = {names: tuple(data.draw(st.tuples(*[value] * 3))) for names in _sets(graph, [g.name for g in free])}
    why = {g.name: "an output" for g in graph.groups if g.frozen}
    found = Sensitivity("accuracy", 0.9, RATIOS, values, why)
    chosen = compress.plan(graph, "l1", scope="global", sensitivity=found, **budget)
    going, staying = [0.0], [float("inf")]
    for names, row in found.drops().items():
        curve = [0.0, *(max(0.0, *row[: k + 1]) for k in range(3))]
        curve.append(max(curve[-1], 0.9))
        for name in names:
            size, gone = graph[name].size, len(chosen.removed.get(name, ()))
            drops = np.interp((np.arange(size) + 1) / size, (0, *RATIOS, 1), curve)
            going += drops[:gone].tolist()
            staying += drops[gone : size - 1].tolist()  # one stays whatever it costs
            expected = compress.plan(graph, "l1", ratios={name: gone / size}, ratio=0.01).removed.get(name, [])
            assert set(chosen.removed.get(name, [])) == set(expected)  # the criterion's own order
    assert max(going) <= min(staying) + 1e-8
    left, whole = graph.cost(chosen), graph.cost()
    assert left.params <= budget.get("keep_params", 1) * whole.params
    assert left.macs <= budget.get("keep_macs", 1) * whole.macs
    assert chosen.settings["sensitivity"] == {"metric": "accuracy", "ratios": list(RATIOS)}


def test_what_was_not_measured_stays_and_is_named(small: Any) -> None:
    model, graph, metric = small
    found = compress.sensitivity(model, graph, metric, "l1", RATIOS, ignore=("stem",))
    chosen = compress.plan(graph, "l1", keep_params=0.8, scope="global", sensitivity=found)
    assert chosen.frozen["stem"] == "its sensitivity was not measured: ignore 'stem'" and "stem" not in chosen.removed
    for options, said in (
        ({"ratio": 0.5}, "it needs scope 'global'"),
        ({"ratio": 0.5, "scope": "global", "blocks": "ranked"}, "and no blocks"),
    ):
        with pytest.raises(compress.CompressError, match=said):
            compress.plan(graph, "l1", sensitivity=found, **options)
    other = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    with pytest.raises(compress.CompressError, match="measured on another network, without a group '0'"):
        compress.plan(compress.trace(other, torch.rand(1, 4)), "l1", 0.5, "global", sensitivity=found)


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ((), "expected ascending fractions"),
        ((0.5, 0.3), "expected ascending fractions"),
        ((0.0, 0.3), "expected ascending fractions"),
        ((0.5, 1.0), "expected in"),
        (("half",), "expected a number"),
    ],
)
def test_ratios_that_are_none_are_one_line(small: Any, ratios: Any, said: str) -> None:
    model, graph, metric = small
    with pytest.raises(compress.CompressError) as caught:
        compress.sensitivity(model, graph, metric, ratios=ratios)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_metric_that_is_not_finite_names_the_cut(small: Any) -> None:
    model, graph, metric = small
    widths = [p.shape for p in model.parameters()]

    def broken(net: nn.Module) -> float:
        return metric(net) if [p.shape for p in net.parameters()] == widths else float("nan")

    with pytest.raises(compress.CompressError, match=r"metric of stem cut by 90% is nan; expected a finite number"):
        compress.sensitivity(model, graph, broken)


def test_a_file_that_is_something_else_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"metric": "x"}))
    for name, said in (("x.json", "not a sensitivity analysis"), ("no.json", "No such file")):
        with pytest.raises(compress.CompressError, match=said) as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)
