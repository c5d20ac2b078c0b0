"""Windows, look-ups and products as attention is made of them: cut equals masked, nothing frozen by verification."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from layers import Apply
from oracle import compare, kept, number_every_element, snapshot
from torch import Tensor, nn

import compress
from compress.graph.copies import copy_model

IMAGE = (2, 3, 8, 8)


def _windows(m: nn.Module, x: Tensor) -> Tensor:
    y = m.first(x)  # (N, 8, 8, 8)
    columns = F.unfold(y, 3, padding=1)  # -> (N, 8 * 9, 64)
    return m.last(F.fold(m.mix(columns), (8, 8), 3, padding=1))


def _sliding(m: nn.Module, x: Tensor) -> Tensor:
    return m.last(m.first(x).unfold(2, 3, 1).mean(-1))


def _tokens_convolved(m: nn.Module, x: Tensor) -> Tensor:
    y = m.first(x).flatten(2)  # -> (N, C, tokens)
    return m.last(m.mix(y.transpose(1, 2)).transpose(1, 2).unflatten(2, (8, 8)))


def _looked_up(m: nn.Module, x: Tensor) -> Tensor:
    y = m.first(x).flatten(2)  # -> (N, C, tokens)
    order = y.new_zeros((), dtype=torch.long).expand(y.shape[0], y.shape[1], 64)
    return m.last(y.gather(2, order).unflatten(2, (8, 8)))


def _attention_over_channels(m: nn.Module, x: Tensor) -> Tensor:
    y = m.first(x)
    v = y.view(x.shape[0], m.heads, -1, 64)  # -> (N, heads, width, tokens)
    weights = m.scores(x).flatten(2).mean(2)  # -> (N, heads)
    mixed = v @ torch.eye(64, dtype=x.dtype) * weights[:, :, None, None]
    return m.last(mixed.reshape(y.shape) + y)


def _norm_over_an_attribute(m: nn.Module, x: Tensor) -> Tensor:
    y = m.first(x).movedim(1, -1)
    return m.last(F.layer_norm(y, m.shape, m.weight, m.bias).movedim(-1, 1))


def build(name: str) -> nn.Module:
    first, last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
    if name == "windows":
        return Apply(_windows, first=first, last=last, mix=nn.Conv1d(72, 72, 1, groups=72))
    if name == "sliding":
        return Apply(_sliding, first=first, last=last)
    if name == "tokens_convolved":
        return Apply(_tokens_convolved, first=first, last=last, mix=nn.Conv1d(64, 64, 1))
    if name == "looked_up":
        return Apply(_looked_up, first=first, last=last)
    if name == "attention_over_channels":
        model = Apply(_attention_over_channels, first=first, last=last, scores=nn.Conv2d(3, 4, 1))
        model.heads = 4
        return model
    model = Apply(_norm_over_an_attribute, first=first, last=last)
    model.shape, model.weight, model.bias = (8,), nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))
    return model


@pytest.mark.parametrize(
    "name",
    ["windows", "sliding", "tokens_convolved", "looked_up", "attention_over_channels", "norm_over_an_attribute"],
)
def test_half_goes_and_what_is_left_is_right(name: str):
    model = number_every_element(build(name).eval())
    before, image = snapshot(model), torch.rand(IMAGE, dtype=torch.float64)
    pruned = compress.prune(model, image, ratio=0.5)
    assert snapshot(model) == before
    assert pruned.model.first.out_channels == 4
    assert not [why for why in pruned.frozen.values() if why.by == "verification"]
    assert kept(model, pruned.model) < 1
    if name != "norm_over_an_attribute":  # the oracle knows norms by their modules
        compare(model, pruned.model, image)


class Variances(nn.Module):
    """Divides by the root of a table: random numbers in it would be no answer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.register_buffer("table", torch.rand(8, 8) + 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) / self.table.sqrt())


def test_tables_of_constants_stay_what_they_are():
    pruned = compress.prune(Variances().eval(), torch.rand(IMAGE), ratio=0.5)
    assert pruned.verification is not None and pruned.verification.passed
    assert pruned.model.first.out_channels == 4


class Cached(nn.Module):
    """Modules, tensors and containers that refer to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.names, self.pair, self.cache = {"a": self.a}, [self.a.weight], {}
        self.b = self.a
        self.hooked = nn.MultiheadAttention(4, 2)
        self.a.register_forward_hook(lambda module, given, made: made)


def test_a_copy_is_what_deepcopy_makes():
    model = Cached()
    ours, theirs = copy_model(model, {}), copy.deepcopy(model)
    for new in (ours, theirs):
        assert new.a is new.b is new.names["a"] is not model.a
        assert new.pair[0] is new.a.weight is not model.a.weight
        assert new.cache == {} and new.cache is not model.cache
        assert len(new.a._forward_hooks) == 1
    assert [name for name, _ in ours.named_modules()] == [name for name, _ in theirs.named_modules()]
    assert vars(ours.hooked).keys() == vars(theirs.hooked).keys()
    assert all(torch.equal(x, y) for x, y in zip(ours.parameters(), theirs.parameters(), strict=True))


class Own(nn.Linear):
    def __deepcopy__(self, memo: object) -> Own:
        return Own(self.in_features, self.out_features + 1)


def test_a_module_that_copies_itself_does():
    assert copy_model(nn.Sequential(Own(2, 3)), {})[0].out_features == 4
