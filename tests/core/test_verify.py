"""Verification must catch a wrong graph: rules are broken on purpose, and the outcome must still be right."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import compress
from compress.graph.rules import RULES
from compress.graph.rules.elementwise import elementwise
from compress.pruning.masked import mask
from compress.pruning.verify import TOLERANCE


class Rolled(nn.Module):
    """Channels are rolled by one between two convolutions: what elementwise propagation gets wrong without a word."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (
            nn.Conv2d(3, 8, 3),
            nn.Conv2d(8, 8, 3),
            nn.Conv2d(8, 8, 3),
            nn.Conv2d(8, 4, 3),
        )

    def forward(self, x):
        return self.d(self.c(torch.roll(self.b(self.a(x).relu()).relu(), 1, dims=1)).relu())


def wrong(call, labels):
    """Says that rolled channels keep their places."""
    return labels.of(call.args[0])


def test_a_wrong_rule_is_found_blamed_and_frozen(monkeypatch):
    model = Rolled()
    x = torch.randn(1, 3, 16, 16)
    monkeypatch.setitem(RULES, "roll", wrong)
    pruned = compress.prune(model, x, ratio=0.5)
    assert pruned.verification.passed
    assert [name for name, why in pruned.frozen.items() if why.by == "verification"] == ["b"]
    assert pruned.model.a.out_channels == 4 and pruned.model.b.out_channels == 8 and pruned.model.c.out_channels == 4


def test_zero_weights_do_not_hide_a_wrong_cut(monkeypatch):
    model = Rolled()
    nn.init.zeros_(model.c.weight)  # as zero-initialised residuals do: on the real weights every cut looks right
    monkeypatch.setitem(RULES, "roll", wrong)
    pruned = compress.prune(model, torch.randn(1, 3, 16, 16), ratio=0.5)
    assert pruned.frozen["b"].by == "verification"


class Chaotic(nn.Module):
    """Makes a difference in the last digit of its input one in the sixth or so of its answer."""

    def __init__(self, rolled: bool) -> None:
        super().__init__()
        self.layers, self.rolled = nn.ModuleList(nn.Linear(8, 8) for _ in range(6)), rolled

    def forward(self, x):
        for number, layer in enumerate(self.layers):
            x = torch.sin(60 * layer(torch.roll(x, 1, dims=1) if self.rolled and number == 3 else x))
        return x


def test_rounding_that_a_network_makes_much_of_is_no_wrong_cut(monkeypatch):
    torch.manual_seed(0)
    x = torch.rand(4, 8)
    pruned = compress.prune(Chaotic(rolled=False), x, ratio=0.5)
    assert not [name for name, why in pruned.frozen.items() if why.by == "verification"]
    assert 1e-9 < pruned.verification.randomised_rel < 1e-3  # what float64 alone would have called wrong
    monkeypatch.setitem(RULES, "roll", wrong)
    pruned = compress.prune(Chaotic(rolled=True), x, ratio=0.5)
    assert "layers.2" in [name for name, why in pruned.frozen.items() if why.by == "verification"]


def test_an_unknown_op_freezes_what_it_touches_and_is_named(monkeypatch):
    monkeypatch.delitem(RULES, "roll")
    model = Rolled()
    graph = compress.trace(model, torch.randn(1, 3, 16, 16))
    assert graph.unknown == {"roll": [""]}
    assert graph["b"].frozen.by == "rule" and "roll" in graph["b"].frozen.reason
    assert "roll" in graph.explain()


def test_a_cut_that_crashes_is_blamed_on_the_op_that_fails(monkeypatch):
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            y = self.a(x)
            return self.c(self.b(y + torch.arange(8.0).view(1, 8, 1, 1)).relu())

    def careless(call, labels):
        return [next((labels.of(v) for v in call.args if hasattr(v, "shape") and labels.of(v)), ())]

    monkeypatch.setitem(RULES, "add", careless)
    model = Fixed()
    pruned = compress.prune(model, torch.randn(1, 3, 4, 4), ratio=0.5)
    assert pruned.frozen["a"].by == "verification" and pruned.model.b.out_channels == 4
    monkeypatch.setitem(RULES, "add", elementwise)
    assert compress.trace(model, torch.randn(1, 3, 4, 4))["a"].frozen.by == "rule"


def test_norms_over_channels_run_on_the_survivors():
    class Norms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.g = nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16)
            self.b, self.n = nn.Conv2d(16, 12, 3), nn.LayerNorm(12)
            self.h = nn.Linear(12, 5)

        def forward(self, x):
            y = self.b(self.g(self.a(x)).relu()).mean((2, 3))
            y = y - y.mean(1, keepdim=True)
            return self.h(self.n(y))

    model = Norms()
    pruned = compress.prune(model, torch.randn(2, 3, 9, 9), ratio=0.5)
    assert pruned.verification.passed
    assert not [name for name, why in pruned.frozen.items() if why.by == "verification"]
    assert pruned.model.g.num_groups == 2 and pruned.model.a.out_channels == 8
    assert pruned.model.n.normalized_shape == (6,)


def test_the_given_model_is_untouched():
    model = Rolled().train()
    before = copy.deepcopy(model.state_dict())
    compress.prune(model, torch.randn(1, 3, 16, 16), ratio=0.5)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert type(model.a.in_channels) is int


class WritesIntoItsParameters(nn.Module):
    """Each forward makes parameters smaller, in place and past autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.scale, self.gain = nn.Parameter(torch.rand(8, 1, 1)), nn.Parameter(torch.rand(1))

    def forward(self, x):
        for parameter in self.parameters():
            parameter.data.mul_(0.9)
        return self.b((self.a(x) * self.scale).relu()) * self.gain


def test_a_parameter_may_be_one_number():
    class Scaled(Rolled):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, x):
            return super().forward(x * self.scale)

    pruned = compress.prune(Scaled(), torch.randn(1, 3, 16, 16), ratio=0.5)
    assert pruned.verification.passed and pruned.model.scale.shape == ()


def test_a_forward_that_writes_into_parameters_changes_neither_the_model_nor_the_result():
    model = WritesIntoItsParameters()
    before = copy.deepcopy(model.state_dict())
    pruned = compress.prune(model, torch.rand(1, 3, 16, 16), ratio=0.5)
    assert pruned.verification.passed and "a" not in pruned.frozen
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    kept = pruned.edits.select["a.weight"][0]
    assert torch.equal(pruned.model.a.weight, model.a.weight[kept])
    assert torch.equal(pruned.model.gain, model.gain)


def test_a_forward_may_drop_a_buffer():
    class Dropping(Rolled):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("once", torch.ones(1))

        def forward(self, x):
            self.once = None
            return super().forward(x)

    model = Dropping()
    pruned = compress.prune(model, torch.randn(1, 3, 16, 16), ratio=0.5)
    assert pruned.verification.passed and model.once is not None and pruned.model.once is not None


def test_non_finite_weights_are_refused():
    model = Rolled()
    model.a.weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(compress.CompressError, match="finite"):
        compress.prune(model, torch.randn(1, 3, 16, 16), criterion="random", ratio=0.5)


def test_a_graph_of_another_model_is_refused():
    graph = compress.trace(Rolled(), torch.randn(1, 3, 16, 16))
    other = nn.Sequential(nn.Conv2d(3, 8, 3))
    with pytest.raises(compress.CompressError, match="trace the model again"):
        compress.apply(other, graph, compress.Plan({"b": np.array([0])}))


def test_mask_zeroes_what_a_cut_removes():
    model = Rolled()
    pruned = compress.prune(model, torch.randn(1, 3, 16, 16), ratio=0.5)
    masked = mask(model, pruned.edits)
    for name, parameter in pruned.model.named_parameters():
        original = masked.get_parameter(name).flatten()
        assert torch.equal(original[original != 0].sort().values, parameter.flatten().sort().values)


def test_parameters_that_the_forward_never_uses_are_named():
    model = Rolled()
    model.other = nn.Sequential(nn.Conv2d(8, 4, 1, bias=False))
    graph = compress.trace(model, torch.randn(1, 3, 16, 16))
    assert graph.unused == ("other.0.weight",)
    assert "never used by the forward in eval mode (32 parameters" in graph.explain()
    assert compress.prune(model, torch.randn(1, 3, 16, 16), ratio=0.5).model.other[0].weight.shape == (4, 8, 1, 1)


def test_float64_decides_where_the_code_writes_float32_out(monkeypatch):
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.body, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 3, 1)

        def forward(self, x):
            y = self.body(self.first(x).relu()).relu().float()
            grid = torch.linspace(-1, 1, 7, dtype=torch.float32).expand(len(x), 5, 7)
            return self.last(nn.functional.grid_sample(y, torch.stack([grid, grid], -1), align_corners=True))

    monkeypatch.setitem(TOLERANCE, torch.float32, -1.0)  # as if float32 always left doubt
    pruned = compress.prune(Written(), torch.rand(1, 3, 8, 8), ratio=0.5)
    assert pruned.verification.passed and pruned.verification.dtype == "float64"
    assert not [name for name, why in pruned.frozen.items() if why.by == "verification"]
    assert pruned.model.body.weight.shape[:2] == (8, 8)
