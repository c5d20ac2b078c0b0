"""`fold` against the network it stands for: removed gammas at zero, their betas kept."""

import pytest
import torch
from torch import nn

import compress
from compress.pruning.compensation import silence


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
