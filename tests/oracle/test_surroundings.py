"""What networks are given and what surrounds them: inputs, outputs, modes, types, hooks, compilation."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from layers import Apply
from oracle import compare, kept, number_every_element, snapshot
from torch import Tensor, nn

import compress


class Small(nn.Module):
    """Two convolutions and a residual block; `answer` makes what it returns of the last value."""

    def __init__(self, answer=lambda y: y) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.body, self.last = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.answer = answer

    def forward(self, image: Tensor, scale: Tensor | None = None):
        y = self.norm(self.first(image)).relu()
        y = y + self.body(y) if scale is None else y + scale * self.body(y)
        return self.answer(self.last(y))


@dataclass
class Answer:
    scores: Tensor
    boxes: tuple[Tensor, Tensor]


def cut(model: nn.Module, inputs, **options) -> compress.Pruned:
    before = snapshot(model)
    pruned = compress.prune(model, inputs, ratio=0.5, **options)
    assert snapshot(model) == before
    assert pruned.verification.passed and kept(model, pruned.model) < 0.5
    assert not [name for name, frozen in pruned.frozen.items() if frozen.by == "verification"]
    return pruned


IMAGE = torch.rand(2, 3, 8, 8, dtype=torch.float64)


@pytest.mark.parametrize(
    "answer",
    [
        lambda y: (y, y.mean((2, 3))),
        lambda y: {"scores": y, "more": [y.mean((2, 3)), None]},
        lambda y: Answer(y, (y + 1, y.sigmoid())),
    ],
    ids=["tuple", "dict", "dataclass"],
)
def test_outputs_of_many_kinds(answer):
    model = number_every_element(Small(answer).eval())
    small = cut(model, IMAGE).model
    assert type(small(IMAGE)) is type(model(IMAGE))
    model.answer = small.answer = lambda y: y
    compare(model, small, IMAGE)


@pytest.mark.parametrize(
    "inputs",
    [{"image": IMAGE, "scale": torch.tensor(2.0)}, {"scale": None, "image": IMAGE}, (IMAGE, torch.rand(8, 8).double())],
    ids=["keywords", "none", "positional"],
)
def test_inputs_of_many_kinds(inputs):
    model = number_every_element(Small().eval())
    compare(model, cut(model, inputs).model, inputs)


def test_modes_and_frozen_parameters_are_kept():
    model = number_every_element(Small()).train()
    model.norm.eval()
    model.first.requires_grad_(False)
    small = cut(model, IMAGE).model
    assert small.training and not small.norm.training
    assert [p.requires_grad for p in small.parameters()] == [p.requires_grad for p in model.parameters()]
    compare(model, small, IMAGE, train=True)
    small(IMAGE).sum().backward()
    assert small.last.weight.grad is not None and small.first.weight.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    torch.manual_seed(0)
    model = Small().eval().to(dtype)
    small = cut(model, torch.rand(2, 3, 8, 8, dtype=dtype)).model
    assert {p.dtype for p in small.parameters()} == {dtype}
    assert small(torch.rand(2, 3, 8, 8, dtype=dtype)).dtype == dtype


def test_forward_hooks_stay_and_see_the_cut_network():
    model, seen = number_every_element(Small().eval()), []
    model.body.register_forward_hook(lambda module, given, out: seen.append(out.shape[1]))
    model.last.register_forward_pre_hook(lambda module, given: (given[0] * 2,))
    small = cut(model, IMAGE).model
    seen.clear()
    compare(model, small, IMAGE)
    assert seen == [8, 4]


def test_a_compiled_network_is_cut_as_what_was_compiled():
    model = number_every_element(Small().eval())
    compiled = torch.compile(model, backend="eager")
    small = compress.prune(compiled, IMAGE, ratio=0.5).model
    compare(model, getattr(small, "_orig_mod", small), IMAGE)
    assert torch.allclose(small(IMAGE), getattr(small, "_orig_mod", small)(IMAGE))
    assert kept(model, small) < 0.5


def test_a_compiled_part_is_cut_with_the_rest():
    model = number_every_element(Small().eval())
    model.body = torch.compile(model.body, backend="eager")
    small = compress.prune(model, IMAGE, ratio=0.5).model
    assert small.body.weight.shape[:2] == (4, 4)
    model.body, small.body = model.body._orig_mod, small.body._orig_mod
    compare(model, small, IMAGE)


def test_what_a_forward_caches_stays_out_of_the_given_network():
    def forward(m, x):
        m.seen = m.conv(x)
        return m.last(m.seen.relu())

    model = Apply(forward, conv=nn.Conv2d(3, 8, 1), last=nn.Conv2d(8, 2, 1)).double().eval()
    small = compress.prune(model, IMAGE, ratio=0.5).model
    assert not hasattr(model, "seen") and small.last.in_channels == 4
