"""Scores of units - against sums written out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hand_made import HandMadeGraph, make_graph
from torch import nn

from compress import Calibration, CompressError, Criterion, Group, Member, Part
from compress.pruning.magnitude import L1, L2, Random
from compress.pruning.scoring import look, score


def place(name, dim, index, unit=None, role="other", buffer=False):
    index = np.asarray(index)
    return Member(name, dim, index, np.arange(len(index)) if unit is None else np.asarray(unit), role, buffer)


@pytest.fixture
def shared():
    """Two groups whose outputs are concatenated (3 + 2), read by a conv and, flattened over 4 pixels, by a linear."""
    a = Group(
        "a",
        3,
        (
            place("a.weight", 0, range(3), role="out"),
            place("a.bias", 0, range(3), role="bias"),
            place("mean", 0, range(3), role="norm", buffer=True),
            place("next.weight", 1, range(3), role="in"),
            place("flat.weight", 1, range(12), np.repeat(np.arange(3), 4), role="in"),
        ),
    )
    b = Group(
        "b",
        2,
        (
            place("b.weight", 0, [1, 0], role="out"),
            place("next.weight", 1, [3, 4], role="in"),
            place("flat.weight", 1, range(12, 20), np.repeat(np.arange(2), 4), role="in"),
        ),
    )
    generator = torch.Generator().manual_seed(0)
    shapes = {"a.weight": (3, 2, 3, 3), "a.bias": (3,), "b.weight": (2, 2, 1, 1), "next.weight": (6, 5, 3, 3)}
    shapes |= {"flat.weight": (7, 20), "mean": (3,)}
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items() if name != "mean"}
    return HandMadeGraph((a, b), shapes), weights


@pytest.mark.parametrize(("criterion", "size"), [(L1(), torch.abs), (L2(), torch.square)])
def test_every_place_counts_once_and_every_occurrence(shared, criterion, size):
    graph, weights = shared
    w = {name: size(tensor.double()) for name, tensor in weights.items()}
    expected = [
        *(
            w["a.weight"][i].sum()
            + w["a.bias"][i]
            + w["next.weight"][:, i].sum()
            + w["flat.weight"][:, 4 * i : 4 * i + 4].sum()
            for i in range(3)
        ),
        *(
            w["b.weight"][1 - i].sum()
            + w["next.weight"][:, 3 + i].sum()
            + w["flat.weight"][:, 12 + 4 * i : 16 + 4 * i].sum()
            for i in range(2)
        ),
    ]
    found = score(graph, criterion, weights)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, torch.stack(expected).numpy(), rtol=1e-6)


class Watching(Criterion):
    """Remembers what it was shown."""

    name = "watching"

    def score(self, part: Part):
        self.__dict__.setdefault("seen", []).append((part.name, part.dim, part.role, tuple(part.tensor.shape)))
        w = part.tensor.movedim(part.dim, 0)
        return w.abs().flatten(1).sum(1)  # as the documentation has it; must work on vectors as well


class Reads(dict):
    """Weights that count how often each is asked for."""

    def __init__(self, weights):
        super().__init__(weights)
        self.asked = []

    def __getitem__(self, name):
        self.asked.append(name)
        return super().__getitem__(name)


def test_each_place_is_shown_once_without_buffers_and_each_tensor_loaded_once(shared):
    graph, weights = shared
    reads, criterion = Reads(weights), Watching()
    score(graph, criterion, reads)
    assert sorted(criterion.seen) == [
        ("a.bias", 0, "bias", (3, 1)),
        ("a.weight", 0, "out", (3, 2, 3, 3)),
        ("b.weight", 0, "out", (2, 2, 1, 1)),
        ("flat.weight", 1, "in", (7, 20)),
        ("next.weight", 1, "in", (6, 5, 3, 3)),
    ]
    assert sorted(reads.asked) == sorted(weights)


class ByGroup(Criterion):
    """Whole groups, but only those of three units."""

    name = "by-group"

    def score_group(self, group, parts):
        return sum(p.tensor.sum() for p in parts if p.role == "out") + torch.arange(3.0) if group.size == 3 else None


def test_whole_groups_may_be_scored_and_the_rest_left_unsaid(shared):
    graph, weights = shared
    found = score(graph, ByGroup(), weights)
    np.testing.assert_allclose(found[:3], float(weights["a.weight"].sum()) + np.arange(3), rtol=1e-5)
    assert np.isnan(found[3:]).all()
    assert np.isnan(score(graph, L2(), weights, skip={"a"})).tolist() == [True] * 3 + [False] * 2


def test_random_depends_on_seed_and_name_only(shared):
    graph, weights = shared
    one, two, other = (score(graph, Random(seed=seed), weights) for seed in (1, 1, 2))
    assert np.array_equal(one, two) and not np.array_equal(one, other)
    alone = HandMadeGraph(graph.groups[1:], graph.shapes)
    assert np.array_equal(score(alone, Random(seed=1), weights), one[3:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8, torch.bool])
def test_any_dtype_scores(dtype):
    graph, _ = make_graph({"a": 300})
    values = (torch.randn(300, 2) * 100).clamp(-127, 127).to(dtype)
    expected = values.double().abs().sum(1)
    np.testing.assert_allclose(score(graph, L1(), {"a.weight": values}), expected.numpy(), rtol=1e-6)


def test_sums_of_half_precision_do_not_overflow():
    graph, _ = make_graph({"a": 2})
    graph = replace(graph, shapes={"a.weight": (2, 100_000)})
    big = torch.full((2, 100_000), 60_000.0, dtype=torch.float16)
    assert np.isfinite(score(graph, L2(), {"a.weight": big})).all()


class Wrong(Criterion):
    """Answers whatever it was given."""

    name = "wrong"
    answer: object

    def score(self, part):
        return self.answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (torch.ones(3), r"'wrong': expected scores of shape \(4,\) for 'a.weight' dimension 0, found shape \(3,\)"),
        (torch.ones(2, 2), r"found shape \(2, 2\)"),
        (1.0, "found float"),
        (torch.tensor([1, 2, torch.nan, 3]), "the score of 'a.weight' dimension 0 is nan; are the weights finite"),
        (torch.tensor([1, 2, torch.inf, 3]), "is inf"),
    ],
)
def test_wrong_answers_name_the_parameter(answer, message):
    graph, weights = make_graph({"a": 4})
    with pytest.raises(CompressError, match=message):
        score(graph, Wrong(answer=answer), weights)


def test_weights_must_be_the_traced_ones_in_shape_and_have_values():
    graph, _ = make_graph({"a": 4})
    with pytest.raises(CompressError, match=r"'a.weight' is \(5, 2\), the traced model's is \(4, 2\)"):
        score(graph, L1(), {"a.weight": torch.ones(5, 2)})
    with pytest.raises(CompressError, match=r"'a.weight' is on the meta device.*pass weights="):
        score(graph, L1(), {"a.weight": torch.ones(4, 2, device="meta")})


class Sloped(Criterion):
    """Any criterion that needs gradients."""

    name = "sloped"
    needs_gradients = True


def test_gradients_are_the_mean_over_batches_and_leave_the_model_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double().train()
    model[0].bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batches = [torch.randn(5, 3).double() for _ in range(3)]
    found = look(Sloped(), model, Calibration(batches, lambda m, x: m(x).square().mean())).gradients
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters()) and model.training and not model[0].bias.requires_grad
    model.eval()
    for p in model.parameters():
        p.requires_grad_(True)
    sum(model(x).square().mean() for x in batches).div(3).backward()
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name], p.grad)
    with pytest.raises(CompressError, match="no batches"):
        look(Sloped(), model, Calibration([], lambda m, x: m(x).sum()))
    with pytest.raises(CompressError, match="pass calibration="):
        look(Sloped(), model, None)
    with pytest.raises(CompressError, match="calibration batch 1: expected one finite number"):
        look(Sloped(), model, Calibration(batches, lambda m, x: m(x)))
