"""Torch-Pruning's importance classes as criteria: the scores are those that it gives on its own graph."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
import torch
import torch_pruning
from compress_plugins.torch_pruning_bridge import CLASSES
from torch import Tensor, nn

import compress
from compress import Calibration, CompressError
from compress.plugins import installed
from compress.pruning.scoring import look, score


class Network(nn.Module):
    """Convolutions in a row, a residual pair, a depthwise one, and a linear layer that reads 4 pixels a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6))
        self.c = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.d = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.fc = nn.Sequential(nn.Linear(8 * 4, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.fc(self.d(self.c(x + self.b(x))).flatten(1))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = Network().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
    return model, [torch.randn(1, 3, 4, 4) for _ in range(3)]


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()


def prepare(importance, model, batches):
    """What Torch-Pruning's documentation and examples do before they call each class."""
    if isinstance(importance, torch_pruning.importance.ActivationImportance):
        with importance.compute_importance(model), torch.no_grad():
            for batch in batches:
                model(batch)
    elif isinstance(importance, torch_pruning.importance.OBDCImportance):
        importance.modules = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        for module in importance.modules:
            module.register_forward_pre_hook(importance._save_input)
            module.register_backward_hook(importance._save_grad_output)
        for batch in batches:
            model.zero_grad()
            loss(model, batch).backward()
            importance.step()
        importance._rm_hooks(model)
    else:
        for batch in batches:
            if hasattr(importance, "accumulate_grad"):
                model.zero_grad()
            loss(model, batch).backward()
            if hasattr(importance, "accumulate_grad"):
                importance.accumulate_grad(model)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("short", sorted(set(CLASSES) - {"RandomImportance"}))
def test_scores_are_torch_prunings_own(network, short):
    model, batches = network
    criterion = installed().make("criteria", f"torch-pruning.{short}")
    graph = compress.trace(model, batches[0])
    data = Calibration(batches, loss) if CLASSES[short] else None
    ours = score(graph, criterion, dict(model.named_parameters()), model, look(criterion, model, data))

    theirs = Network().eval()
    theirs.load_state_dict(model.state_dict())
    names = {module: name for name, module in theirs.named_modules()}
    importance = getattr(torch_pruning.importance, short)()
    if CLASSES[short]:
        prepare(importance, theirs, batches)
    peer = torch_pruning.DependencyGraph().build_dependency(theirs, batches[0])
    compared = 0
    for root in (theirs.a[0], theirs.c[0], theirs.fc[0]):
        linear = isinstance(root, nn.Linear)
        cut = torch_pruning.prune_linear_out_channels if linear else torch_pruning.prune_conv_out_channels
        channels = root.out_features if linear else root.out_channels
        expected = importance(peer.get_pruning_group(root, cut, list(range(channels))))
        weight = f"{names[root]}.weight"
        group, member = next((g, m) for g in graph.groups for m in g.members if (m.name, m.dim) == (weight, 0))
        mine = ours[graph.start(group.name) + member.unit[np.argsort(member.index)]]
        if expected is None:
            assert np.isnan(mine).all()
            continue
        np.testing.assert_allclose(mine, expected.detach().numpy()[:channels], rtol=1e-5, atol=1e-7)
        compared += 1
    assert compared >= (2 if short == "BNScaleImportance" else 3)


def test_options_reach_the_class(network):
    model, batches = network
    graph = compress.trace(model, batches[0])
    plain = {
        "uses": "torch-pruning.MagnitudeImportance",
        "options": {"p": 1, "group_reduction": "first", "normalizer": None},
    }
    ours = score(graph, installed().make("criteria", plain), dict(model.named_parameters()), model)
    group = graph["fc.0"]
    start = graph.start(group.name)
    torch.testing.assert_close(
        torch.from_numpy(ours[start : start + 5]).float(), model.fc[0].weight.detach().abs().sum(1)
    )
    wrong = installed().make("criteria", {"uses": "torch-pruning.LAMPImportance", "options": {"power": 2}})
    with pytest.raises(CompressError, match="its options do not fit LAMPImportance"):
        compress.plan(graph, wrong, 0.5)


def test_every_importance_class_has_its_criterion():
    base = torch_pruning.importance.Importance
    there = {n for n, c in vars(torch_pruning.importance).items() if isinstance(c, type) and issubclass(c, base)}
    assert set(CLASSES) == there - {"Importance"}


def test_without_the_package_there_is_one_clear_line(network, monkeypatch):
    model, batches = network
    graph = compress.trace(model, batches[0])
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(CompressError, match="need that package; pip install 'torch-pruning"):
        compress.plan(graph, "torch-pruning.LAMPImportance", 0.5)


def test_what_goes_wrong_inside_is_one_line_that_names_the_group():
    """Its OBDC cannot take layers with a bias: the Fisher matrix has one column more than the weight."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1))
    graph = compress.trace(model, torch.rand(1, 3, 4, 4))
    with warnings.catch_warnings(), pytest.raises(CompressError, match="OBDCImportance' failed on group '0': Runtime"):
        warnings.simplefilter("ignore")
        compress.plan(graph, "torch-pruning.OBDCImportance", 0.5, calibration=[torch.rand(1, 3, 4, 4)], loss=loss)
