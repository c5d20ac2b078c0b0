"""What is said of a call on meta tensors is what the CPU gives: shape, type and memory format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from compress.graph.meta import ACTIVATIONS, shape_of
from compress.graph.tape import op_name

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
    "hardtanh_": F.hardtanh_,
    "leaky_relu_": lambda x: F.leaky_relu_(x, 0.1),
    "hardswish_": lambda x: F.hardswish(x, inplace=True),
    "silu_": lambda x: F.silu(x, inplace=True),
    "clamp_": lambda x: x.clamp_(0, 1),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "batch_norm": lambda x: F.batch_norm(x, torch.zeros(x.shape[1]), torch.ones(x.shape[1])),
    "group_norm": lambda x: F.group_norm(x, 2),
}


class Compared(TorchDispatchMode):
    """Asks of each call what it would give on meta tensors, and holds it against what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.said = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        with torch._C._DisableTorchDispatch():
            hollow = [arg.detach().to("meta") if isinstance(arg, Tensor) else arg for arg in args]
            said = shape_of(op_name(func), tuple(hollow), kwargs or {})
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
    assert compared.said >= 3
