"""`fold` against the network it stands for: removed gammas at zero, their betas kept."""

import numpy as np
import pytest
import torch
from torch import nn

import compress
from compress.plugins import installed
from compress.pruning.fold import silence


class Branches(nn.Module):
    """Convolutions behind several activations, a pool, an upsample, a concat, a shortcut and a depthwise layer."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        p = padding

        def block(i: int, o: int, k: int, act: nn.Module, groups: int = 1) -> nn.Sequential:
            pad = p * (k // 2)
            return nn.Sequential(nn.Conv2d(i, o, k, padding=pad, groups=groups, bias=False), nn.BatchNorm2d(o), act)

        self.a = block(3, 12, 3, nn.LeakyReLU(0.1))
        self.b = block(12, 16, 1, nn.SiLU())
        self.c = block(16, 16, 1, nn.Sigmoid())
        self.depthwise = block(16, 16, 1, nn.ReLU(), groups=16)
        self.pool = nn.MaxPool2d(2)
        self.up = nn.Upsample(scale_factor=2)
        self.d = block(28, 10, 3, nn.Hardswish())
        self.head = nn.Conv2d(10, 5, 1)
        self.free = nn.Conv2d(10, 4, 1, bias=False)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        a = self.a(x)
        b = self.b(a)
        s = b + self.c(b)
        s = self.up(self.pool(self.depthwise(s)))
        d = self.d(torch.cat([s, a], 1))
        return self.head(d), self.fc(self.free(d).mean((2, 3)))


def randomise_norms(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.2, 1)
            module.bias.data.normal_()
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)


@pytest.mark.parametrize("criterion", ["l2", "random"])
def test_without_borders_fold_is_exact(criterion):
    torch.manual_seed(0)
    model = Branches(padding=0).double().eval()
    randomise_norms(model)
    x = torch.randn(2, 3, 18, 18, dtype=torch.float64)
    graph = compress.trace(model, x)
    plan = compress.plan(graph, criterion, ratio=0.5)
    folded = compress.apply(model, graph, plan, compensate="fold").model
    plain = compress.apply(model, graph, plan).model
    quiet = silence(model, graph, plan)
    with torch.no_grad():
        for want, have, without in zip(quiet(x), folded.eval()(x), plain.eval()(x), strict=True):
            assert torch.allclose(want, have, atol=1e-9)
            assert not torch.allclose(want, without, atol=1e-2)  # the fold had something to do


def test_with_borders_the_interior_is_exact():
    torch.manual_seed(0)
    model = Branches(padding=1).double().eval()
    randomise_norms(model)
    x = torch.randn(1, 3, 24, 24, dtype=torch.float64)
    graph = compress.trace(model, x)
    plan = compress.plan(graph, "l2", ratio=0.5)
    folded = compress.apply(model, graph, plan, compensate="fold").model
    quiet = silence(model, graph, plan)
    with torch.no_grad():
        want, have = quiet(x)[0], folded.eval()(x)[0]
    assert torch.allclose(want[..., 6:-6, 6:-6], have[..., 6:-6, 6:-6], atol=1e-9)
    assert not torch.allclose(want, have, atol=1e-6)


def test_training_mode_forgets_the_constant():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 1, bias=False),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 2, 1),
    ).double()
    randomise_norms(model)
    x = torch.randn(4, 3, 9, 9, dtype=torch.float64)
    graph = compress.trace(model, x)
    plan = compress.plan(graph, "l2", ratio=0.5, ignore=("3",))
    folded = compress.apply(model, graph, plan, compensate="fold").model
    quiet = silence(model, graph, plan).train()
    with torch.no_grad():
        assert torch.allclose(quiet(x), folded.train()(x), atol=1e-9)


def test_a_gated_channel_is_no_constant():
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
            self.gate, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            return self.out(self.norm(self.conv(x)).relu() * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True))))

    torch.manual_seed(0)
    model = Gated().eval()
    randomise_norms(model)
    graph = compress.trace(model, torch.randn(1, 3, 8, 8))
    plan = compress.plan(graph, "l2", ratio=0.5)
    plain = compress.apply(model, graph, plan).model
    folded = compress.apply(model, graph, plan, compensate="fold").model
    assert torch.equal(plain.out.bias, folded.out.bias)


def exact_cut(model: nn.Module, x: torch.Tensor, criterion: str = "l2", ratio: float = 0.5):
    """The network cut with fold-exact, and what it must equal: the plan's gammas at zero, betas kept."""
    graph = compress.trace(model, x)
    plan = compress.plan(graph, criterion, ratio=ratio)
    return compress.apply(model, graph, plan, compensate="fold-exact"), silence(model, graph, plan), graph, plan


@pytest.mark.parametrize("criterion", ["l2", "random"])
@pytest.mark.parametrize("padding", [0, 1])
def test_fold_exact_is_exact_at_borders_too(criterion, padding):
    torch.manual_seed(0)
    model = Branches(padding).double().eval()
    randomise_norms(model)
    x = torch.randn(2, 3, 24, 24, dtype=torch.float64)
    pruned, quiet, graph, plan = exact_cut(model, x, criterion)
    with torch.no_grad():
        for want, have in zip(quiet(x), pruned.model.eval()(x), strict=True):
            assert torch.allclose(want, have, atol=1e-9)
    kept = pruned.plan.settings.get("constants", {})
    assert bool(kept) == bool(padding)  # only where it pays
    for name, units in kept.items():
        assert set(units) <= set(plan.removed[name]) and not set(units) & set(pruned.plan.removed[name])
    assert pruned.after.macs == graph.cost(pruned.plan).macs >= graph.cost(plan).macs
    assert pruned.verification.passed


class Padded(nn.Module):
    """A residual stream, a concat, a depthwise layer and pools, all padded; one layer with a bias and no norm."""

    def __init__(self, act: type[nn.Module]) -> None:
        super().__init__()

        def block(i: int, o: int, groups: int = 1) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, groups=groups, bias=False), nn.BatchNorm2d(o), act())

        self.stem, self.wide, self.back = block(3, 8), block(8, 12), block(12, 8)
        self.depthwise, self.side = block(8, 8, groups=8), block(8, 6)
        self.bare = nn.Conv2d(14, 10, 3, padding=2, dilation=2)
        self.head = nn.Sequential(nn.Conv2d(10, 8, 3, padding="same"), nn.Flatten(), nn.Linear(8 * 36, 4))

    def forward(self, x):
        x = self.stem(x)
        x = x + self.back(self.wide(x))
        x = nn.functional.max_pool2d(self.depthwise(x), 3, 2, 1)
        return self.head(self.bare(torch.cat([x, self.side(x)], 1)).sigmoid())


@pytest.mark.parametrize(("act", "ratio"), [(nn.ReLU, 0.6), (nn.SiLU, 0.3), (nn.SiLU, 0.6), (nn.Tanh, 0.6)])
def test_fold_exact_in_residual_streams_concats_and_layers_without_norm(act, ratio):
    torch.manual_seed(0)
    model = Padded(act).double().eval()
    randomise_norms(model)
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    pruned, quiet, graph, plan = exact_cut(model, x, ratio=ratio)
    plain, folded = (compress.apply(model, graph, plan, compensate=how).model for how in (None, "fold"))
    with torch.no_grad():
        want = quiet(x)
        exact, near, far = ((net.eval()(x) - want).abs().max() for net in (pruned.model, folded, plain))
    assert exact < 1e-9 < near < far
    assert 1 <= sum(map(len, pruned.plan.settings["constants"].values())) <= 5  # no more than there are tensors


def test_fold_exact_once_more_is_still_exact():
    torch.manual_seed(0)
    model = Padded(nn.SiLU).double().eval()
    randomise_norms(model)
    x = torch.randn(1, 3, 12, 12, dtype=torch.float64)
    once, *_ = exact_cut(model, x, ratio=0.3)
    twice, quiet, *_ = exact_cut(once.model.eval(), x, ratio=0.4)
    with torch.no_grad():
        assert torch.allclose(quiet(x), twice.model.eval()(x), atol=1e-9)


def test_fold_exact_comes_back_from_a_file(tmp_path):
    torch.manual_seed(0)
    model = Padded(nn.SiLU).eval()
    randomise_norms(model)
    x = torch.randn(1, 3, 12, 12)
    pruned, *_ = exact_cut(model, x)
    compress.save(pruned, tmp_path)
    again = compress.load(tmp_path, lambda: Padded(nn.SiLU).eval())
    with torch.no_grad():
        assert torch.equal(pruned.model.eval()(x), again.eval()(x))


class Small(nn.Module):
    """Two convolutions with BatchNorm and a linear layer; what goes changes the statistics of what stays."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(12, 10, 3, padding=1, bias=False), nn.BatchNorm2d(10), nn.ReLU())
        self.fc = nn.Linear(10, 4)

    def forward(self, x):
        return self.fc(self.b(self.a(x)).mean((2, 3)))


@pytest.fixture
def small():
    torch.manual_seed(0)
    model = Small().double().eval()
    randomise_norms(model)
    batches = [torch.randn(8, 3, 7, 7, dtype=torch.float64) for _ in range(3)]
    graph = compress.trace(model, batches[0])
    return model, graph, compress.plan(graph, "random", ratio=0.5), batches


def outputs_of(model, path, batches):
    """(samples x positions, O) what a layer gives on all batches, by a hook."""
    kept = []
    hook = model.get_submodule(path).register_forward_hook(lambda m, i, o: kept.append(o.movedim(1, -1).flatten(0, -2)))
    with torch.no_grad():
        for batch in batches:
            model(batch)
    hook.remove()
    return torch.cat(kept)


def test_bias_correct_gives_every_layer_its_mean_back(small):
    model, graph, plan, batches = small
    pruned = compress.apply(model, graph, plan, compensate="bias-correct", calibration=batches)
    plain = compress.apply(model, graph, plan).model
    for path in ("b.1", "fc"):  # behind the norm, where the shift has come to bear
        keep = pruned.edits.select.get(f"{path}.weight", {}).get(0, slice(None))
        want, have, without = (outputs_of(net.eval(), path, batches).mean(0) for net in (model, pruned.model, plain))
        torch.testing.assert_close(have, want[keep], rtol=0, atol=2e-2)
        assert (have - want[keep]).abs().max() < 0.1 * (without - want[keep]).abs().max()


def test_bias_correct_is_exact_on_one_batch(small):
    model, graph, plan, batches = small
    pruned = compress.apply(model, graph, plan, compensate="bias-correct", calibration=batches[:1])
    want, have = (outputs_of(net.eval(), "fc", batches[:1]).mean(0) for net in (model, pruned.model))
    torch.testing.assert_close(have, want, rtol=0, atol=1e-9)


def test_reconstruct_is_the_least_squares_fit(small):
    """Of the linear layer, whose inputs a hook can show: torch.linalg.lstsq of the old outputs on what is left."""
    model, graph, _, batches = small
    plan = compress.plan(graph, "random", ratio=0.5, ignore=("a.0",))  # so that fc alone loses inputs that matter
    how = installed().make("compensations", {"uses": "reconstruct", "ridge": 0.0})
    pruned = compress.apply(model, graph, plan, compensate=how, calibration=batches)
    seen = []
    hook = model.fc.register_forward_pre_hook(lambda m, x: seen.append(x[0].detach()))
    want = outputs_of(model, "fc", batches)
    hook.remove()
    kept = torch.cat(seen)[:, pruned.edits.select["fc.weight"][1]]
    fit = torch.linalg.lstsq(torch.cat((kept, torch.ones(len(kept), 1, dtype=kept.dtype)), 1), want).solution
    torch.testing.assert_close(pruned.model.fc.weight.T.detach(), fit[:-1])
    torch.testing.assert_close(pruned.model.fc.bias.detach(), fit[-1])
    ridged = installed().make("compensations", {"uses": "reconstruct", "ridge": 1e9})
    still = compress.apply(model, graph, plan, compensate=ridged, calibration=batches).model
    plain = compress.apply(model, graph, plan).model
    torch.testing.assert_close(still.fc.weight, plain.fc.weight)


def test_reconstruct_fits_convolutions_with_their_borders(small):
    model, graph, plan, batches = small
    errors = {}
    for how in (None, "reconstruct"):
        net = compress.apply(model, graph, plan, compensate=how, calibration=batches if how else None).model.eval()
        keep = compress.apply(model, graph, plan).edits.select["b.1.weight"][0]
        errors[how] = (outputs_of(net, "b.1", batches) - outputs_of(model, "b.1", batches)[:, keep]).square().mean()
    assert errors["reconstruct"] < 0.6 * errors[None]


def test_bn_recalibrate_is_what_torch_does(small):
    model, graph, plan, batches = small
    model.a[1].momentum = 0.3
    pruned = compress.apply(model, graph, plan, compensate="bn-recalibrate", calibration=batches)
    reference = compress.apply(model, graph, plan).model
    torch.optim.swa_utils.update_bn(batches, reference)
    assert pruned.model.a[1].momentum == 0.3 and not pruned.model.training
    for name, tensor in reference.state_dict().items():
        torch.testing.assert_close(pruned.model.state_dict()[name], tensor)


def test_compensations_that_look_at_data_say_so(small):
    model, graph, plan, _ = small
    with pytest.raises(compress.CompressError, match="'reconstruct' looks at data; pass calibration=batches"):
        compress.apply(model, graph, plan, compensate="reconstruct")


@pytest.mark.parametrize("seed", range(5))
def test_a_second_exact_fold_keeps_what_the_first_kept(seed):
    """Oracle: the whole network, in which every second channel is a constant; borders are padded."""
    torch.manual_seed(seed)

    def layer(i, o):
        return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.LeakyReLU(0.1))

    model = nn.Sequential(layer(3, 16), layer(16, 24), layer(24, 16), nn.Conv2d(16, 4, 1)).double().eval()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        for tensor in (norm.bias, norm.running_mean):
            nn.init.normal_(tensor)
        for tensor in (norm.weight, norm.running_var):
            nn.init.uniform_(tensor, 0.5, 1.5)
        with torch.no_grad():
            norm.weight[::2] = 0
    images = torch.rand(2, 3, 12, 12, dtype=torch.float64)
    graph = compress.trace(model, images)
    once = compress.apply(model, graph, compress.plan(graph, "bn-gamma", 0.5, "global"), compensate="fold-exact")
    kept = once.plan.settings["constants"]
    again = compress.trace(once.model, images)
    silent = {}  # what the first pruning kept for its constant alone
    for name in kept:
        gamma = once.model.get_parameter(f"{name.removesuffix('.0')}.1.weight")
        silent[name] = np.flatnonzero((gamma == 0).numpy())
    assert silent and all(len(units) == 1 for units in silent.values())
    twice = compress.apply(once.model, again, compress.Plan(silent), compensate="fold-exact")
    expected = model(images)
    for network in (once.model, twice.model):
        assert (network(images) - expected).abs().max() < 1e-9 * expected.abs().max()
