"""Every criterion against its formula, written out with loops over units; options that all criteria have."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hand_made import Given, make_graph
from torch import Tensor, nn

import compress
from compress import Calibration, CompressError, Criterion
from compress.plugins import installed
from compress.pruning.scoring import look, score


class Network(nn.Module):
    """A residual pair, a grouped and a dilated convolution, an average pool, and a linear layer that reads pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(6, 6, 3, padding=2, dilation=2), nn.Tanh())
        self.c = nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2)
        self.fc = nn.Sequential(nn.Linear(8 * 9, 5), nn.SiLU(), nn.Linear(5, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.fc(torch.sigmoid(self.c(x + self.b(x))).flatten(1))


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    model = Network().double().eval()
    for name, tensor in model.named_parameters():
        if "1." in name or name.endswith("bias"):
            nn.init.normal_(tensor)
    batches = [torch.randn(n, 3, 6, 6, dtype=torch.float64) for n in (2, 3)]
    return model, compress.trace(model, batches[0]), batches


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return (model(batch).square() + model(batch).sin()).mean()


def found(case, criterion: Criterion) -> np.ndarray:
    model, graph, batches = case
    data = Calibration(batches, loss) if criterion.needs_batches or criterion.needs_gradients else None
    weights = dict(model.named_parameters())
    return score(graph, criterion, weights, model, look(criterion, model, data))


def places(graph):
    """(global unit, [(parameter, dimension, role, indices)]) of every unit."""
    for group in graph.groups:
        for unit in range(group.size):
            here = [(m.name, m.dim, m.role, m.index[m.unit == unit]) for m in group.members if not m.buffer]
            yield graph.start(group.name) + unit, here


def by_loops(case, row: Callable[..., float | None]) -> np.ndarray:
    """Sums over the places of what `row` says of each occurrence; NaN where it says nothing at all."""
    _, graph, _ = case
    total = np.full(graph.n_units, np.nan)
    for unit, here in places(graph):
        said = [row(name, dim, role, int(i)) for name, dim, role, indices in here for i in indices]
        said = [value for value in said if value is not None]
        if said:
            total[unit] = math.fsum(said)
    return total


def derivatives(case, sample: Tensor) -> dict[str, Tensor]:
    model, _, _ = case
    names = [name for name, _ in model.named_parameters()]
    return dict(zip(names, torch.autograd.grad(loss(model, sample), list(model.parameters())), strict=True))


def inputs(case) -> dict[str, list[Tensor]]:
    """Weight's name -> what its module was given, by hooks."""
    model, _, batches = case
    kept: dict[str, list[Tensor]] = {}
    hooks = [
        module.register_forward_pre_hook(lambda m, x, n=name: kept.setdefault(f"{n}.weight", []).append(x[0]))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for hook in hooks:
        hook.remove()
    return kept


def met(case, seen: dict[str, list[Tensor]], place: str, i: int) -> Tensor:
    """Everything that index i of a weight's second dimension is multiplied with, in whichever group."""
    per, channels = case[0].get_parameter(place).shape[1], seen[place][0].shape[1]
    return torch.cat([x.movedim(1, 0)[c].flatten() for x in seen[place] for c in range(i, channels, per)])


def weight(case, name: str, dim: int, i: int) -> Tensor:
    return case[0].get_parameter(name).detach().select(dim, i).flatten()


def test_fpgm(case):
    def row(name, dim, role, i):
        if role not in ("out", "in"):
            return None
        n = case[0].get_parameter(name).shape[dim]
        mine = weight(case, name, dim, i)
        return sum(math.dist(mine.tolist(), weight(case, name, dim, j).tolist()) for j in range(n))

    expected = by_loops(case, row)
    np.testing.assert_allclose(found(case, installed().make("criteria", "fpgm")), expected, rtol=1e-9)


@pytest.mark.parametrize("joint", [True, False])
def test_taylor(case, joint):
    model, _, batches = case
    mean = {name: sum(derivatives(case, batch)[name] for batch in batches) / 2 for name, _ in model.named_parameters()}

    def row(name, dim, role, i):
        products = (weight(case, name, dim, i) * mean[name].select(dim, i).flatten()).tolist()
        return sum(products) ** 2 if joint else sum(p**2 for p in products)

    made = installed().make("criteria", {"uses": "taylor", "joint": joint})
    np.testing.assert_allclose(found(case, made), by_loops(case, row), rtol=1e-9)


@pytest.mark.parametrize(("name", "joint"), [("fisher", False), ("obd-c", True)])
def test_fisher(case, name, joint):
    model, graph, batches = case
    samples = [batch[i : i + 1] for batch in batches for i in range(len(batch))]
    each = [derivatives(case, sample) for sample in samples]

    def row(name, dim, role, i):
        total = 0.0
        for gradient in each:
            products = (weight(case, name, dim, i) * gradient[name].select(dim, i).flatten()).tolist()
            total += sum(products) ** 2 if joint else sum(p**2 for p in products)
        return total / len(each) / 2

    one_by_one = model, graph, samples
    np.testing.assert_allclose(found(one_by_one, installed().make("criteria", name)), by_loops(case, row), rtol=1e-9)


def test_hessian_estimates_the_diagonal_and_is_exact_where_the_hessian_is_diagonal():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 6, bias=False), nn.Linear(6, 1)).double()
    curvature = torch.rand(6, dtype=torch.float64) + 1

    def diagonal_loss(model, batch):
        return (curvature * model[0].weight.flatten() ** 2).sum() / 2 + model[1].weight.sum() * 0

    graph = compress.trace(model, torch.rand(2, 1, dtype=torch.float64))
    made = installed().make("criteria", "hessian")
    calibration = Calibration([torch.rand(2, 1, dtype=torch.float64)], diagonal_loss)
    scores = score(graph, made, dict(model.named_parameters()), model, look(made, model, calibration))
    w = model[0].weight.detach().flatten()
    np.testing.assert_allclose(scores, (curvature * w**2 / 2).numpy(), rtol=1e-9)


def test_hessian_comes_close_to_the_whole_matrix(case):
    model, _, batches = case
    made = installed().make("criteria", {"uses": "hessian", "probes": 150})
    name, target = "fc.2.weight", dict(model.named_parameters())
    full = torch.autograd.functional.hessian(
        lambda w: (
            torch.func.functional_call(model, {**target, name: w}, (batches[0],)).square().mean()
            + torch.func.functional_call(model, {**target, name: w}, (batches[0],)).sin().mean()
        ),
        target[name].detach(),
    )
    exact = full.flatten(0, 1).flatten(1).diagonal()
    observed = look(made, model, Calibration(batches[:1], loss)).observed[name].flatten()
    torch.testing.assert_close(observed, exact, rtol=0.3, atol=0.3 * float(exact.abs().max()))


@pytest.mark.parametrize("name", ["activation-mean", "activation-variance"])
def test_activation_statistics(case, name):
    seen = inputs(case)

    def row(place, dim, role, i):
        if role != "in":
            return None
        values = met(case, seen, place, i).tolist()
        if name == "activation-mean":
            return sum(map(abs, values)) / len(values)
        mean = sum(values) / len(values)
        return sum((v - mean) ** 2 for v in values) / len(values)

    expected = by_loops(case, row)
    scores = found(case, installed().make("criteria", name))
    np.testing.assert_allclose(scores, expected, rtol=1e-9, equal_nan=True)
    assert np.isfinite(scores).any()


def test_wanda(case):
    model, seen = case[0], inputs(case)

    def row(place, dim, role, i):
        if place not in seen or not place.endswith("weight"):
            return None
        w = model.get_parameter(place).detach()
        total = 0.0
        for o in range(w.shape[0]):
            for c in range(w.shape[1]):
                if (o, c)[dim] == i:
                    total += float(w[o, c].abs().sum()) * math.sqrt(float(met(case, seen, place, c).square().mean()))
        return total

    scores = found(case, installed().make("criteria", "wanda"))
    np.testing.assert_allclose(scores, by_loops(case, row), rtol=1e-9)


def unfolded(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """(positions, C * kernel) the patches that a convolution sees."""
    return nn.functional.unfold(x, conv.kernel_size, conv.dilation, conv.padding).movedim(1, 2).flatten(0, 1)


def test_reconstruction_is_the_error_of_the_best_refit(case):
    """With next to no ridge: the mean squared error of ordinary least squares without the channel."""
    model, _, batches = case
    many = [torch.randn(40, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (1, 2)]
    case = model, compress.trace(model, batches[0]), many
    seen = inputs(case)

    def row(place, dim, role, i):
        module = model.get_submodule(place.removesuffix(".weight")) if place.endswith("weight") else None
        if role != "in" or getattr(module, "groups", 1) != 1:
            return None
        w = model.get_parameter(place).detach()
        if isinstance(module, nn.Conv2d):
            x = torch.cat([unfolded(module, x) for x in seen[place]])  # (positions, C * 9)
        else:
            x = torch.cat(seen[place])
        k = x.shape[1] // w.shape[1]
        left = [j for j in range(x.shape[1]) if j // k != i]
        wanted = x @ w.flatten(1).T
        fitted = torch.linalg.lstsq(x[:, left], wanted).solution
        return float((x[:, left] @ fitted - wanted).square().sum() / len(x))

    scores = found(case, installed().make("criteria", {"uses": "reconstruction", "ridge": 1e-9}))
    np.testing.assert_allclose(scores, by_loops(case, row), rtol=1e-4, atol=1e-6, equal_nan=True)
    assert np.isfinite(scores).any()


def test_reconstruction_of_a_layer_that_sees_only_zeros():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.Linear(5, 2))
    nn.init.constant_(model[0].weight, -1)  # of inputs above zero the ReLU leaves nothing
    nn.init.zeros_(model[0].bias)
    graph, batches = compress.trace(model, torch.rand(2, 3)), [torch.rand(6, 3)]
    plan = compress.plan(graph, criterion="reconstruction", ratio=0.5, calibration=batches)
    assert len(plan.removed["0"]) == 2
    assert compress.apply(model, graph, plan).verification.passed


AGGREGATED = {
    "sum": math.fsum,
    "mean": lambda said: math.fsum(said) / len(said),
    "max": max,
    "first": lambda said: said[0],
}


@pytest.mark.parametrize("how", sorted(AGGREGATED))
def test_aggregation(case, how):
    _, graph, _ = case
    expected = np.empty(graph.n_units)
    for unit, here in places(graph):
        ordered = sorted(here, key=lambda place: place[2] != "out")
        said = [sum(float(weight(case, n, d, int(i)).abs().sum()) for i in indices) for n, d, _, indices in ordered]
        expected[unit] = AGGREGATED[how](said)
    scores = found(case, installed().make("criteria", {"uses": "l1", "aggregate": how}))
    np.testing.assert_allclose(scores, expected, rtol=1e-9)


def spread(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))


NORMALIZED = {
    "none": lambda v, s: v,
    "sum": lambda v, s: v / sum(s),
    "mean": lambda v, s: v / (sum(s) / len(s)),
    "max": lambda v, s: v / max(s),
    "size": lambda v, s: v / 2,  # a hand-made unit has two weights
    "standardize": lambda v, s: (v - min(s)) / (max(s) - min(s)),
    "gaussian": lambda v, s: (v - sum(s) / len(s)) / spread(s),
    "lamp": lambda v, s: v / sum(other for other in s if other >= v),
}


@pytest.mark.parametrize("how", sorted(NORMALIZED))
def test_normalisation(how):
    graph, weights = make_graph({"a": 7, "b": 4}, seed=3)
    scores = score(graph, Given(normalize=how), weights)
    for name, start in (("a", 0), ("b", 7)):
        plain = weights[f"{name}.weight"][:, 0].tolist()
        np.testing.assert_allclose(scores[start : start + len(plain)], [NORMALIZED[how](v, plain) for v in plain])


@pytest.mark.parametrize("how", sorted(NORMALIZED))
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_groups_whose_scores_are_all_the_same_stay_finite(how, value):
    graph, weights = make_graph({"a": 5})
    scores = score(graph, Given(normalize=how), {"a.weight": torch.full_like(weights["a.weight"], value)})
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("how", sorted(NORMALIZED))
def test_normalisation_keeps_the_order_within_a_group_whatever_the_sign(how):
    graph, weights = make_graph({"a": 6})
    signed = weights["a.weight"] - 0.8
    plain, scores = (score(graph, Given(normalize=h), {"a.weight": signed}) for h in ("none", how))
    if how != "lamp":  # shares of a sum mean nothing for negative scores
        assert np.array_equal(np.argsort(plain), np.argsort(scores))


def test_lamp_is_l2_with_that_normalisation(case):
    lamp, l2 = (installed().make("criteria", c) for c in ("lamp", {"uses": "l2", "normalize": "lamp"}))
    assert np.array_equal(found(case, lamp), found(case, l2))


def test_a_misspelt_option_names_the_nearest(case):
    with pytest.raises(CompressError, match="normalize: there is no 'gausian'; did you mean 'gaussian'"):
        compress.plan(case[1], installed().criteria["l2"](normalize="gausian"))
    with pytest.raises(CompressError, match="'aggregate' of l2: expected 'sum', 'mean', 'max' or 'first', got \"avg\""):
        installed().make("criteria", {"uses": "l2", "aggregate": "avg"})


def test_a_plan_says_how_much_data_was_used(case):
    _, graph, batches = case
    plan = compress.plan(graph, "taylor", 0.5, calibration=batches, loss=loss)
    assert plan.settings["calibration"] == {"batches": 2, "samples": 5}
    with pytest.raises(CompressError, match="criterion 'fisher' needs batches; pass calibration=batches"):
        compress.plan(graph, "fisher", 0.5)
    with pytest.raises(CompressError, match="calibration has no loss; pass loss="):
        compress.plan(graph, "fisher", 0.5, calibration=batches)
    with pytest.raises(CompressError, match="calibration holds no batches"):
        compress.plan(graph, "wanda", 0.5, calibration=[])


def test_progress_is_shown_where_there_is_a_bar(case):
    class Bars:
        def __init__(self):
            self.done = []

        def bar(self, label, total):
            from contextlib import contextmanager

            @contextmanager
            def shown():
                self.done.append([label, total, 0])

                def advance(n):
                    self.done[-1][2] += n

                yield advance

            return shown()

    _, graph, batches = case
    bars = Bars()
    compress.plan(graph, "wanda", 0.5, calibration=Calibration(batches, bars=bars))
    assert bars.done == [["activations", 2, 2]]
