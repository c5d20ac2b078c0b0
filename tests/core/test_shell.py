"""A model's tensors by name, against PyTorch's own iterators, over networks that share tensors and modules."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from compress.graph.walk import named_tensors


class Knot(nn.Module):
    """Children, parameters and buffers; None and what other modules already have among them."""

    def __init__(self, parts: list[nn.Module], shared: nn.Parameter, buffer: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("first", buffer)
        self.parts = nn.ModuleList(parts)
        self.shared = shared
        self.register_parameter("missing", None)
        self.register_buffer("none", None)
        self.again = parts[-1] if parts else None


def knots(depth: int) -> st.SearchStrategy[nn.Module]:
    shared, buffer = nn.Parameter(torch.zeros(3)), torch.ones(2)
    norm = nn.BatchNorm1d(2)
    leaves = st.sampled_from([norm, nn.Linear(2, 2, bias=False), nn.Identity()])
    inner = leaves if depth == 0 else st.one_of(leaves, knots(depth - 1))
    return st.builds(
        Knot,
        st.lists(inner, max_size=3),
        st.sampled_from([shared, nn.Parameter(torch.zeros(3))]),
        st.sampled_from([buffer, torch.ones(2)]),
    )


@given(model=knots(2))
def test_names_are_those_of_pytorch_in_its_order(model):
    expected = [*model.named_parameters(), *model.named_buffers()]
    found = list(named_tensors(model).items())
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert all(mine is theirs for (_, mine), (_, theirs) in zip(found, expected, strict=True))
