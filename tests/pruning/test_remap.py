"""States remapped against states selected by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.optim.swa_utils import AveragedModel

from compress import CompressError
from compress.pruning.apply import prune
from compress.pruning.magnitude import L2
from compress.pruning.remap import compose, remap
from compress.pruning.surgery import Edits, cut


def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(96, 4)
    ).eval()


EXAMPLE = torch.rand(2, 3, 8, 8)


@pytest.fixture(scope="module")
def cut_model():
    model = build()
    return model, prune(model, EXAMPLE, L2(), ratio=0.5)


def by_hand(pruned, name, tensor):
    for dim, index in pruned.edits.select.get(name, {}).items():
        tensor = tensor.index_select(dim, torch.from_numpy(index))
    return tensor


def train(model, optimizer):
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.rand(4, 3, 8, 8)).square().mean().backward()
        optimizer.step()


OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.01, centered=True, momentum=0.5),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("named", [True, False])
def test_optimizer_state_keeps_the_survivors_and_trains_on(cut_model, kind, named):
    model, pruned = build(), cut_model[1]
    optimizer = OPTIMIZERS[kind](model.named_parameters() if named else model.parameters())
    train(model, optimizer)
    before = optimizer.state_dict()
    after = pruned.remap(before)
    names = [name for name, _ in model.named_parameters()]
    for number, name in enumerate(names):
        for key, value in before["state"][number].items():
            found = after["state"][number][key]
            expected = by_hand(pruned, name, value) if value.ndim else value
            assert torch.equal(found, expected)
    assert after["param_groups"] == before["param_groups"]
    smaller = cut(model, pruned.edits)
    again = OPTIMIZERS[kind](smaller.named_parameters() if named else smaller.parameters())
    again.load_state_dict(after)
    train(smaller, again)


def test_groups_of_parameters_need_names(cut_model):
    model, pruned = build(), cut_model[1]
    weights = [p for n, p in model.named_parameters() if n.endswith("weight")]
    rest = [p for n, p in model.named_parameters() if not n.endswith("weight")]
    optimizer = optim.SGD([{"params": weights}, {"params": rest, "weight_decay": 0.1}], lr=0.1, momentum=0.9)
    train(model, optimizer)
    with pytest.raises(CompressError, match="8 parameters in 2 groups"):
        pruned.remap(optimizer.state_dict())
    names = [n for n, _ in model.named_parameters()]
    order = [n for n in names if n.endswith("weight")] + [n for n in names if not n.endswith("weight")]
    after = pruned.remap(optimizer.state_dict(), names=order)
    for number, name in enumerate(order):
        momentum = optimizer.state_dict()["state"][number]["momentum_buffer"]
        assert torch.equal(after["state"][number]["momentum_buffer"], by_hand(pruned, name, momentum))
    with pytest.raises(CompressError, match=r"the original.s .*bias. is|the original.s .*weight. is"):
        pruned.remap(optimizer.state_dict(), names=order[::-1])
    with pytest.raises(CompressError, match="8 parameters in 2 groups, 7 names"):
        pruned.remap(optimizer.state_dict(), names=order[:-1])
    with pytest.raises(CompressError, match=r"'0.weigth' is no parameter of the original; did you mean '0.weight'"):
        pruned.remap(optimizer.state_dict(), names=["0.weigth", *order[1:]])


def test_weights_averages_and_statistics_keep_the_survivors(cut_model):
    model, pruned = cut_model
    average = AveragedModel(model)
    average.update_parameters(build())
    before = average.state_dict()
    after = pruned.remap(before)
    assert set(after) == set(before)
    for name, tensor in before.items():
        assert torch.equal(after[name], by_hand(pruned, name.removeprefix("module."), tensor))
    AveragedModel(pruned.model).load_state_dict(after)
    statistics = {n: torch.rand_like(t) for n, t in model.named_buffers() if "running" in n}
    for name, tensor in pruned.remap(statistics).items():
        assert torch.equal(tensor, by_hand(pruned, name, statistics[name]))


def test_the_state_given_is_not_changed(cut_model):
    model, pruned = cut_model
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    shapes = {name: tensor.shape for name, tensor in state.items()}
    pruned.remap(state)
    assert {name: tensor.shape for name, tensor in state.items()} == shapes


def test_strangers_are_named():
    edits = Edits({"a.weight": {0: np.array([0, 2])}}, {}, {"a.weight": (3, 2), "a.bias": (3,)})
    assert remap(edits, {"a.weight": torch.arange(6).view(3, 2)})["a.weight"].tolist() == [[0, 1], [4, 5]]
    with pytest.raises(CompressError, match=r"'a.wait' is no parameter or buffer of the original"):
        remap(edits, {"a.wait": torch.ones(3, 2)})
    with pytest.raises(CompressError, match=r"'a.weight' is \(4, 2\), the original's 'a.weight' is \(3, 2\)"):
        remap(edits, {"a.weight": torch.ones(4, 2)})
    shared = torch.arange(6).view(3, 2)
    assert remap(edits, {"a.weight": shared, "b.weight": shared})["b.weight"].tolist() == [[0, 1], [4, 5]]


def test_two_cuts_make_one():
    model = build()
    first = prune(model, EXAMPLE, L2(), ratio=0.4)
    second = prune(first.model, EXAMPLE, L2(), ratio=0.5)
    at_once = cut(model, compose(first.edits, second.edits))
    assert all(
        torch.equal(a, b)
        for a, b in zip(at_once.state_dict().values(), second.model.state_dict().values(), strict=True)
    )
    assert torch.equal(at_once(EXAMPLE), second.model(EXAMPLE))
    untouched = compose(Edits({}), first.edits)
    assert untouched.shapes == first.edits.shapes and set(untouched.select) == set(first.edits.select)
