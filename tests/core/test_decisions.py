"""Networks that take decisions on the way - top-k, non-maximum suppression - are compared to their end."""

import pytest
import torch
import torchvision
from torch import nn

import compress
from compress.graph.rules import RULES
from compress.pruning.decisions import Decisions, finite_part


class Detector(nn.Module):
    """Boxes and scores, the best of them after suppression, and a second stage on what is left."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.body = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.boxes, self.scores = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 1, 1)
        self.second, self.third, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        y = self.body(self.first(x).relu()).relu()
        corners = self.boxes(y)[0].flatten(1).t()
        corners = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:].abs() + 0.1], 1)
        scores = self.scores(y)[0].flatten()
        best = scores.topk(20).indices
        left = torchvision.ops.nms(corners[best], scores[best], 0.5)
        seen = y[0].flatten(1).t()[best][left]
        return corners[best][left], self.last(self.between(self.second(seen).relu()))

    def between(self, y):
        return self.third(y).relu()


class Careless(Detector):
    """Its second stage rolls channels, for which a test breaks the rule."""

    def between(self, y):
        return self.third(torch.roll(y, 1, dims=1)).relu()


X = torch.rand(1, 3, 12, 12)


def test_a_detector_is_cut_to_its_last_stage():
    graph = compress.trace(Detector(), X)
    assert graph.decides
    pruned = compress.prune(Detector(), X, ratio=0.5)
    assert pruned.verification.passed and not [f for f in pruned.frozen.values() if f.by == "verification"]
    assert pruned.model.body.weight.shape[:2] == (4, 4) and pruned.model.third.weight.shape == (4, 4)


def test_a_wrong_cut_behind_decisions_is_found(monkeypatch):
    torch.manual_seed(0)  # in 2 of the first 60 seeds too few of the four channels are alive to show it
    monkeypatch.setitem(RULES, "roll", lambda call, labels: labels.of(call.args[0]))
    pruned = compress.prune(Careless(), X, ratio=0.5)
    assert pruned.verification.passed
    assert [name for name, why in pruned.frozen.items() if why.by == "verification"] == ["second"]


def test_rounding_that_turns_a_decision_is_no_difference():
    class Close(nn.Module):
        """Sorts scores that differ in the last bits only."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.body, self.last = nn.Linear(6, 64), nn.Linear(64, 64), nn.Linear(64, 3)

        def forward(self, x):
            y = self.body(self.first(x).relu()).relu()
            order = (1 + 1e-6 * y.sum(-1)).argsort(-1)
            return self.last(y)[torch.arange(len(x))[:, None], order]

    pruned = compress.prune(Close(), torch.rand(2, 200, 6), ratio=0.5)
    assert pruned.verification.passed and pruned.model.body.weight.shape == (32, 32)
    assert not [name for name, why in pruned.frozen.items() if why.by == "verification"]


def test_a_run_follows_another_only_where_shapes_agree():
    first, second = Decisions(), torch.tensor([3.0, 1.0, 2.0])
    with first:
        chosen = second.topk(2).indices
    for given, expected in ((second.flip(0), chosen), (torch.rand(4), None)):
        following = Decisions(follow=first)
        with following:
            found = given.topk(2).indices
        if expected is None:
            assert not following.pairs and torch.equal(found, given.topk(2).indices)
        else:
            assert torch.equal(found, expected) and torch.equal(following.pairs[0][1], given)


@pytest.mark.parametrize("other", [1.0, float("inf"), float("nan")])
def test_only_what_is_infinite_alike_is_left_out(other):
    want, have = finite_part(torch.tensor([-float("inf"), 2.0]), torch.tensor([other, 2.0]))
    assert not torch.isfinite(want[0]) and torch.equal(want[1:], have[1:])
    want, have = finite_part(*[torch.tensor([other, 2.0])] * 2)
    assert torch.isfinite(want).all() and torch.equal(want, have)


class Late(nn.Module):
    """A second stage that what is traced never reaches: no score is high enough."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.score = nn.Conv2d(3, 8, 1), nn.Linear(8, 1)
        self.head = nn.Sequential(nn.Conv2d(8, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 1))

    def forward(self, x):
        y = self.first(x).relu()
        return y.sum((1, 2, 3)), self.head(y[self.score(y.mean((2, 3)))[:, 0] > 1e6])


def test_a_norm_that_has_seen_nothing_is_cut_with_what_makes_its_channels():
    """PyTorch multiplies an empty tensor by weight[0]: taken for what it is, that would leave the norm whole."""
    pruned = compress.prune(Late(), torch.rand(4, 3, 5, 5), ratio=0.5)
    assert pruned.model.head[1].num_features == pruned.model.head[0].out_channels == 3
    assert pruned.model.head[1].running_mean.shape == pruned.model.head[1].weight.shape == (3,)
    assert pruned.model.head(torch.rand(2, 4, 5, 5)).shape == (2, 2, 5, 5)
