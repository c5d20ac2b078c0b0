"""What is proven on random weights holds on the real ones where each of them is taken over as it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import compress
from compress.graph.walk import named_parameters, named_tensors
from compress.pruning.exact import takes_over
from compress.pruning.surgery import cut, edits
from compress.pruning.verify import verify


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Convolutions, plain and depthwise, norms with statistics, a linear layer, and an integer buffer."""
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.ReLU()),
        *(nn.Conv2d(16, 12, 1), nn.BatchNorm2d(12), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)),
    )
    for tensor in named_tensors(model).values():
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.1, 0.5)
    return model.to(dtype).eval()


def traced(model: nn.Module):
    dtype = next(model.parameters()).dtype
    graph = compress.trace(model, torch.rand(1, 3, 16, 16, dtype=dtype))
    plan = compress.plan(graph, ratio=0.4)
    return graph, plan, edits(graph, plan, model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_any_one_element_that_is_another_is_seen(dtype: torch.dtype, form: torch.memory_format) -> None:
    torch.manual_seed(0)
    model = network(dtype).to(memory_format=form)
    *_, made = traced(model)
    new = cut(model, made)
    assert takes_over(model, new, made)
    for name, tensor in named_tensors(new).items():
        flat = torch.randint(tensor.numel(), ()).item()
        for value in (float("nan"), float("inf"), 0.75) if tensor.is_floating_point() else (7,):
            other = cut(model, made)
            at = torch.unravel_index(torch.tensor(flat), tensor.shape)
            named_tensors(other)[name].detach()[at] = value
            assert not takes_over(model, other, made), (name, value)


def test_weights_that_are_not_finite_are_not_taken_for_proven() -> None:
    model = network()
    *_, made = traced(model)
    with torch.no_grad():
        model[0].weight[:] = float("inf")
    assert not takes_over(model, cut(model, made), made)


def test_a_network_of_another_type_or_with_other_tensors_is_not() -> None:
    model = network()
    *_, made = traced(model)
    assert not takes_over(model, cut(model, made).double(), made)
    lacking = cut(model, made)
    lacking[9].bias = None
    assert not takes_over(model, lacking, made)


@pytest.mark.parametrize("name", sorted(named_parameters(network())))
def test_a_weight_that_is_not_the_original_s_is_found_on_the_real_weights(name: str) -> None:
    """The random comparison draws its own and cannot see it."""
    torch.manual_seed(1)
    model = network()
    graph, plan, made = traced(model)
    new = cut(model, made)
    with torch.no_grad():
        named_parameters(new)[name].mul_(1.5)
    verification, blame = verify(model, new, graph, plan, made)
    assert verification.randomised_rel < 1e-6 < verification.rel and not verification.passed and blame is not None
    verification, blame = verify(model, cut(model, made), graph, plan, made)
    assert verification.passed and blame is None and verification.rel == 0
