"""Residual blocks in a plan: which go, what keeps them, what is said where they cannot go - and files of a result."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from compress_plugins.network_slimming import BNGamma
from compress_plugins.onnx_export import OnnxExporter
from compress_plugins.torch_export import TorchExporter
from torch import nn

import compress
from compress import CompressError, Criterion, GroupPolicy, LatencyTable
from compress.measure.latency import Latency
from compress.pruning.artifact import read_edits
from compress.pruning.latency import LayerTimes
from compress.pruning.scoring import score_blocks


class Branch(nn.Module):
    """x + body(x); with a body of its own that may be asked what it is, as some code does."""

    def __init__(self, c: int, asked: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(c, 6, 1), nn.ReLU(), nn.Conv2d(6, c, 1), nn.BatchNorm2d(c))
        self.asked = asked

    def forward(self, x):
        if self.asked and not isinstance(self.body, nn.Sequential):
            return 2 * x
        return torch.relu(x + self.body(x)) if self.asked else x + self.body(x)


class Tokens(nn.Module):
    """Attention that returns a pair, and what is added before a norm: no module is the whole of it."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(c, 2, batch_first=True)
        self.norm = nn.LayerNorm(c)

    def forward(self, x):
        mixed, _ = self.attention(x, x, x, need_weights=False)
        return self.norm(x + mixed)


class Net(nn.Module):
    def __init__(self, *asked: bool, c: int = 8, tokens: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, c, 3)
        self.blocks = nn.Sequential(*(Branch(c, each) for each in asked))
        self.tokens = Tokens(c) if tokens else nn.Identity()
        self.head = nn.Linear(c, 4)

    def forward(self, x):
        x = self.blocks(self.stem(x)).flatten(2).mT
        return self.head(self.tokens(x).mean(1))


X = torch.rand(1, 3, 6, 6)


class ByName(Criterion):
    """Blocks' scores as given."""

    name = "by-name"
    scores: dict[str, float]

    def score(self, part):
        return part.tensor.movedim(part.dim, 0).flatten(1).sum(1)

    def score_block(self, block, parts):
        return float(self.scores[block.name])


def traced(*asked: bool, **options):
    torch.manual_seed(0)
    model = Net(*asked, **options).eval()
    for k, block in enumerate(model.blocks):
        nn.init.uniform_(block.body[3].weight, 0.1 * (k + 1), 0.1 * (k + 1) + 0.05)
    return model, compress.trace(model, X)


def test_the_lowest_go_and_the_score_is_the_mean_gamma():
    model, graph = traced(False, False, False)
    scores = score_blocks(graph, BNGamma(), dict(model.named_parameters()), model)
    expected = [float(block.body[3].weight.detach().double().abs().mean()) for block in model.blocks]
    assert scores == pytest.approx(expected)
    plan = compress.plan(graph, "bn-gamma", blocks=2)
    assert plan.blocks == ("blocks.0", "blocks.1") and not plan.removed
    assert "and 2 blocks" in str(plan) and plan.settings["blocks"] == 2


def test_a_block_within_a_block_goes_with_it_and_counts_once():
    class Nested(nn.Module):
        def __init__(self, c: int) -> None:
            super().__init__()
            self.inner, self.last = Branch(c), nn.Conv2d(c, c, 1)

        def forward(self, x):
            return x + self.last(self.inner(x))

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Nested(8), Branch(8), nn.Conv2d(8, 2, 1)).eval()
    graph = compress.trace(model, X)
    assert [block.name for block in graph.blocks] == ["1.inner", "1", "2"]
    given = ByName(scores={"1.inner": 0, "1": 1, "2": 2})
    assert compress.plan(graph, given, blocks=1).blocks == ("1.inner",)
    assert compress.plan(graph, given, blocks=2).blocks == ("1", "2")
    pruned = compress.apply(model, graph, compress.plan(graph, given, blocks=2))
    assert set(pruned.plan.blocks) == {"1", "2"} and set(pruned.edits.replaced) == {"1", "2"}
    assert sum(p.numel() for p in pruned.model.parameters()) == pruned.after.params
    with pytest.raises(CompressError, match="blocks=3: 2 residual branches may go, of 3 found"):
        compress.plan(graph, "random", blocks=3)


def test_a_latency_table_takes_off_what_the_blocks_layers_take():
    _model, graph = traced(False, False)
    names = ["stem.weight", "blocks.0.body.0.weight", "blocks.1.body.2.weight"]
    one = np.ones((1, 1))
    layers = tuple(LayerTimes(n, np.array([1]), np.array([1]), one * 2**k) for k, n in enumerate(names))
    table = LatencyTable(layers, Latency(9.0, 9.0, 9.0, "cpu", 1, 1, 10), 4.0, 0.5)
    read, plan = table.meter(graph), compress.plan(graph, "bn-gamma", blocks=1)
    elements = [8 * 16, 6 * 16, 8 * 16, 6 * 16, 8 * 16, 4]  # of what each layer puts out
    share = 1 - sum(elements[1:3]) / sum(elements)
    assert plan.blocks == ("blocks.0",) and read(graph.alive()) == 0.5 * 7 + 4.0
    assert read(graph.alive(plan)) == pytest.approx(0.5 * 5 + 4.0 * share)


def test_a_criterion_of_ones_own_ranks_blocks():
    class Last(Criterion):
        name = "last"

        def score(self, part):
            return part.tensor.movedim(part.dim, 0).flatten(1).sum(1)

        def score_block(self, block, parts):
            assert {part.name.split(".")[0] for part in parts} == {"blocks"}
            return -float(block.name[-1]) if block.name != "blocks.2" else None

    _, graph = traced(False, False, False)
    plan = compress.plan(graph, Last(), blocks=1)
    assert plan.blocks == ("blocks.1",) and "says nothing" in plan.frozen["blocks.2"]
    with pytest.raises(CompressError, match=r"blocks=3: 2 residual branches may go, of 3 found; blocks.2 \(criterion"):
        compress.plan(graph, Last(), blocks=3)


def test_what_keeps_blocks():
    class Keep(GroupPolicy):
        name = "keep-last"

        def freeze(self, graph, model):
            return {"blocks.1": "it is dear"}

    _, graph = traced(False, False, False)
    plan = compress.plan(graph, "l2", blocks=1, ignore=["blocks.0"], policy=Keep())
    assert plan.blocks == ("blocks.2",)
    assert plan.frozen["blocks.0"] == "ignore 'blocks.0'" and plan.frozen["blocks.1"] == "it is dear"
    inner = next(name for name in graph.block("blocks.0").groups)
    plan = compress.plan(graph, "bn-gamma", blocks=1, ignore=[inner])
    assert plan.blocks == ("blocks.1",) and f"{inner} stays" in plan.frozen["blocks.0"]


@pytest.mark.parametrize("blocks", [-1, 1.5, True, "rank"])
def test_mistakes_in_blocks(blocks):
    _, graph = traced(False)
    with pytest.raises(CompressError, match="blocks: expected how many go, or 'ranked', found"):
        compress.plan(graph, "l2", blocks=blocks)


def test_the_graph_says_which_branches_there_are_and_what_goes_with_them():
    model, graph = traced(False, tokens=True)
    said = graph.explain()
    size = sum(p.numel() for p in model.blocks[0].parameters())
    assert "residual branches" in said and f"{size:,} parameters" in said
    assert graph.cost_of_block("blocks.0").params == size
    with pytest.raises(CompressError, match=r"no block 'blocks.1'; did you mean 'blocks.0'"):
        graph.block("blocks.1")


def test_a_block_that_the_code_asks_about_stays_and_is_named():
    model, graph = traced(False, True, False)
    plan = compress.plan(graph, "bn-gamma", 0.5, blocks=3)
    assert len(plan.blocks) == 3
    pruned = compress.apply(model, graph, plan)
    assert pruned.plan.blocks == ("blocks.0", "blocks.2") and pruned.verification.passed
    (name,) = set(plan.blocks) - set(pruned.plan.blocks)
    assert pruned.frozen[name].by == "verification" and "branch at zero" in pruned.frozen[name].reason
    assert pruned.after == graph.cost(pruned.plan)
    assert sum(p.numel() for p in pruned.model.parameters()) == pruned.after.params


def test_saved_without_blocks_it_comes_back(tmp_path):
    model, graph = traced(False, False, tokens=True)
    pruned = compress.apply(model, graph, compress.plan(graph, "l2", 0.25, blocks=3))
    assert len(pruned.plan.blocks) == 3
    compress.save(pruned, tmp_path)
    loaded = compress.load(tmp_path, lambda: Net(False, False, tokens=True).eval())
    assert torch.equal(loaded(X), pruned.model(X))
    assert read_edits(tmp_path).replaced == dict(pruned.edits.replaced)
    stored = json.loads((tmp_path / "plan.json").read_text())
    (path,) = {p for p in stored["edits"]["replaced"] if p.startswith("blocks.0")}
    stored["edits"]["replaced"]["blocks.9"] = stored["edits"]["replaced"].pop(path)
    (tmp_path / "plan.json").write_text(json.dumps(stored))
    with pytest.raises(CompressError, match=r"build_model\(\) gave no module 'blocks.9'"):
        compress.load(tmp_path, lambda: Net(False, False, tokens=True).eval())


@pytest.mark.parametrize("exporter", [TorchExporter(), pytest.param(OnnxExporter(), marks=pytest.mark.slow)])
def test_it_exports_without_blocks(exporter, tmp_path):
    model, graph = traced(False, tokens=True)
    pruned = compress.apply(model, graph, compress.plan(graph, "l2", blocks=2))
    assert len(pruned.plan.blocks) == 2
    exporter.export(pruned.model, X, tmp_path)  # reads it back and compares
    assert list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["fold", "fold-exact"])
def test_compensations_are_those_of_the_network_without_the_block(how):
    torch.manual_seed(0)
    model = Net(False, False).eval()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -1, 1)
    graph = compress.trace(model, X)
    plan = compress.plan(graph, "l2", 0.5, blocks=1, ignore=["blocks.1"])
    assert plan.blocks == ("blocks.0",)
    by_hand = copy.deepcopy(model)
    by_hand.blocks[0] = nn.Identity()
    same = replace(plan, blocks=())
    expected = compress.apply(by_hand, compress.trace(by_hand, X), same, compensate=how)
    pruned = compress.apply(model, graph, plan, compensate=how)
    torch.testing.assert_close(pruned.model(X), expected.model(X))
    assert not torch.equal(pruned.model(X), compress.apply(model, graph, plan).model(X))
