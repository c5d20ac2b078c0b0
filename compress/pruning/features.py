"""A running network in, what comes into each of its convolutions and linear layers out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..graph.walk import named_tensors

CONVOLUTIONS: dict[str, Callable[..., Tensor]] = {"conv1d": F.conv1d, "conv2d": F.conv2d, "conv3d": F.conv3d}
_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


@dataclass(frozen=True)
class Layer:
    """One call of a convolution or linear layer.

    name: its weight's. call: `linear`, `conv1d`, `conv2d` or `conv3d`. weight: (O, C / groups, *kernel) or (O, C).
    inputs: what comes in, (..., C) for `linear`, (B, C, *space) for the others. options: stride, padding, dilation,
    groups of a convolution, as it was called.
    """

    name: str
    call: str
    weight: Tensor
    inputs: Tensor
    options: dict[str, Any]

    @property
    def groups(self) -> int:
        return self.options.get("groups", 1)

    def channels(self) -> Tensor:
        """The inputs by channel, (C, everything else)."""
        x, spatial = self.inputs, self.weight.dim() - 2
        return x.movedim(x.dim() - 1 - spatial, 0).flatten(1)

    def patches(self) -> Tensor | None:
        """The inputs as the weight's rows meet them, (positions, C x kernel); None where there are several groups.

        `outputs = patches @ weight.flatten(1).T`, bias aside; zero padding is part of the patches.
        """
        if self.groups != 1:
            return None
        if self.call == "linear":
            return self.inputs.flatten(0, -2)
        kernel = self.weight.shape[2:]
        stride, dilation = (self._each(self.options.get(name, 1)) for name in ("stride", "dilation"))
        batched = self.inputs if self.inputs.dim() == self.weight.dim() else self.inputs[None]
        x = F.pad(batched, self._border(dilation))
        for axis, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True), start=2):
            x = x.unfold(axis, d * (k - 1) + 1, s)[..., ::d]  # windows of this axis come last
        x = x.movedim(1, 1 + len(kernel))  # (B, C, *out, *kernel) -> (B, *out, C, *kernel)
        return x.flatten(0, len(kernel)).flatten(1)

    def _each(self, value: Any) -> tuple[int, ...]:
        """An option of a convolution, for each of its axes."""
        return (value,) * len(self.weight.shape[2:]) if isinstance(value, int) else tuple(value)

    def _border(self, dilation: tuple[int, ...]) -> list[int]:
        """Zeros before and after each axis, last axis first, as F.pad takes them."""
        padding = self.options.get("padding", 0)
        if padding == "same":
            totals = [d * (k - 1) for k, d in zip(self.weight.shape[2:], dilation, strict=True)]
            pairs = [(total // 2, total - total // 2) for total in totals]
        else:
            pairs = [(p, p) for p in self._each(0 if padding == "valid" else padding)]
        return [n for pair in reversed(pairs) for n in pair]


class Watch(TorchFunctionMode):
    """While it is active, `seen` is told of every call of a convolution or linear layer whose weight is a parameter.

    seen: (layer, its output). Functional calls count as much as modules.
    """

    def __init__(self, model: nn.Module, seen: Callable[[Layer, Tensor], None]) -> None:
        super().__init__()
        self.names = {id(tensor): name for name, tensor in named_tensors(model).items()}
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        call = getattr(func, "__name__", "")
        if call in CONVOLUTIONS or call == "linear":
            with torch._C.DisableTorchFunction():
                given = {**dict(zip(_NAMES, args, strict=False)), **(kwargs or {})}
                name = self.names.get(id(given["weight"]))
                if name is not None:
                    options = {k: v for k, v in given.items() if k in _NAMES[3:]}
                    self.seen(Layer(name, call, given["weight"], given["input"], options), result)
        return result
