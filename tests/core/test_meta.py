"""What is said of a call on meta tensors is what the CPU gives: shape, type and memory format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from compress.graph.inputs import map_tensors
from compress.graph.meta import ACTIVATIONS, shape_of
from compress.graph.tape import op_name

CONV = {3: F.conv1d, 4: F.conv2d}


def kernel(x: Tensor, rows: int, columns: int = 0, width: int = 0) -> Tensor:
    """A weight (rows, columns, width, [width]) or, without columns, a bias."""
    return torch.ones((rows, columns, *[width] * (x.dim() - 2)) if columns else rows, dtype=x.dtype)


CALLS: dict[str, Callable[[Tensor], Any]] = {
    "hardtanh": F.hardtanh,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "gelu": F.gelu,
    "mish": F.mish,
    "silu": F.silu,
    "softplus": F.softplus,
    "relu": F.relu,
    "relu6": F.relu6,
    "clamp": lambda x: x.clamp(0, 1),
    "clamp_min": lambda x: torch.clamp_min(x, 0),
    "clamp_max": lambda x: torch.clamp_max(x, 0),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "sigmoid_": lambda x: x.sigmoid_(),
    "hardtanh_": F.hardtanh_,
    "leaky_relu_": lambda x: F.leaky_relu_(x, 0.1),
    "hardswish_": lambda x: F.hardswish(x, inplace=True),
    "silu_": lambda x: F.silu(x, inplace=True),
    "clamp_": lambda x: x.clamp_(0, 1),
    "add": lambda x: x + x.flip(0),
    "add_": lambda x: x.add_(x.flip(0)),
    "sub": lambda x: x - x.flip(0),
    "mul": lambda x: x * x.mean(tuple(range(2, x.dim())), keepdim=True),
    "mul_": lambda x: x.mul_(x[:, :1]),
    "div": lambda x: x / x[:1],
    "narrow_first": lambda x: x[:, :1].contiguous() * x,
    "slice_first": lambda x: x[:, :1] * x,
    "outer": lambda x: x[:, :1] * x[:1],
    "number": lambda x: 2 - (x * 3 + 1) / 0.5,
    "number_": lambda x: x.mul_(3).add_(0.5),
    "scaled": lambda x: torch.add(x, x, alpha=2),
    "mean": lambda x: x.mean(1),
    "mean_of_all": lambda x: x.mean((0, -1), keepdim=True) * x.mean((-1, 1)).sum() * x.mean(),
    "softmax": lambda x: x.softmax(-1),
    "safe_softmax": lambda x: torch.ops.aten._safe_softmax(x, 1),
    "cat": lambda x: torch.cat([x, x[:, :1].contiguous(), x], 1),
    "cat_of_slices": lambda x: torch.cat([x[:, :1], x[:, 2:]], 1),
    "cat_with_nothing": lambda x: torch.cat([x, x.new_zeros(0)], 1),
    "linear": lambda x: F.linear(x.flatten(1), torch.ones(5, x[0].numel(), dtype=x.dtype), kernel(x, 5)),
    "convolution": lambda x: CONV[x.dim()](x, kernel(x, 4, 6, 3), kernel(x, 4), 2, 1),
    "grouped": lambda x: CONV[x.dim()](x, kernel(x, 12, 1, 3), None, 1, 2, 2, 6),
    "transposed": lambda x: F.conv_transpose2d(x, kernel(x, 6, 5, 2)) if x.dim() == 4 else x.relu(),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "batch_norm": lambda x: F.batch_norm(x, torch.zeros(x.shape[1]), torch.ones(x.shape[1])),
    "group_norm": lambda x: F.group_norm(x, 2),
}


LEFT_TO_PYTORCH = {
    "transposed": 1, "mul": 4, "mul_": 0, "div": 2, "narrow_first": 2, "slice_first": 0, "outer": 0, "scaled": 0,
    "mean": 2, "mean_of_all": 4, "softmax": 2, "safe_softmax": 2, "cat": 2, "cat_of_slices": 0, "cat_with_nothing": 0,
}  # fmt: skip
"""How many of the three calls are answered at least, where PyTorch is asked for some."""


class Compared(TorchDispatchMode):
    """Asks of each call what it would give on meta tensors, and holds it against what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.said = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        with torch._C._DisableTorchDispatch():
            hollow = map_tensors(args, lambda tensor: tensor.detach().to("meta"))
            said = shape_of(op_name(func), hollow, kwargs or {})
        if said is not None:
            self.said += 1
            mine_all, real_all = (each if isinstance(each, tuple) else (each,) for each in (said, given))
            for mine, real in zip(mine_all, real_all, strict=True):
                assert (mine.shape, mine.dtype) == (real.shape, real.dtype), func
                assert mine.stride() == real.stride() or not real.numel(), func
        return given


def test_every_activation_is_called() -> None:
    assert set(CALLS) >= ACTIVATIONS


HALF = [name for name in CALLS if "norm" not in name]  # norms mix it with statistics in float32


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, torch.float32) for name in CALLS), *((name, torch.bfloat16) for name in HALF)]
)
def test_calls(name: str, dtype: torch.dtype) -> None:
    compared = Compared()
    images = torch.rand(2, 6, 4, 8, dtype=dtype)
    for x in (images, images.contiguous(memory_format=torch.channels_last), images.flatten(2)):
        with torch.no_grad(), compared:
            CALLS[name](x.clone())
    assert compared.said >= LEFT_TO_PYTORCH.get(name, 3)
