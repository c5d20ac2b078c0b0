"""A model in, its shell out: the same structure with stand-ins for its tensors and integers with an origin."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CompressError
from .copies import copy_model
from .ints import Attribute, TracedInt
from .walk import named_modules, named_tensors


def make_shell(model: nn.Module, device: str | None) -> tuple[nn.Module, dict[int, str], list[Tensor]]:
    """A copy of the model's structure whose tensors are stand-ins.

    device: "meta", or None for tensors on their own device (parameters share memory, buffers are copies).
    Returns the shell in eval mode, id of each stand-in -> its name, and the stand-ins (to be kept alive).
    """
    memo: dict[int, Any] = {}
    names: dict[int, str] = {}
    keep: list[Tensor] = []

    def stand_in(tensor: Tensor) -> Tensor:
        data = tensor.detach()
        data = torch.empty_like(data, device="meta") if device == "meta" else data
        keep.append(nn.Parameter(data, requires_grad=False) if isinstance(tensor, nn.Parameter) else data.clone())
        return keep[-1]

    for name, tensor in named_tensors(model).items():
        memo[id(tensor)] = stand_in(tensor)
        names[id(keep[-1])] = name
    try:
        shell = copy_model(model, memo, stand_in, evaluate=True)
    except Exception as error:
        raise CompressError(f"{type(model).__name__} cannot be deep-copied, which tracing needs: {error}") from error
    return shell, names, keep


def trace_integers(shell: nn.Module) -> dict[Attribute, int]:
    """Put a TracedInt in place of every integer attribute of the shell's modules, also in lists, tuples, dicts."""
    found: dict[Attribute, int] = {}

    def traced(value: Any, attribute: Attribute) -> Any:
        if type(value) is int:
            found[attribute] = value
            return TracedInt(value, attribute)
        if attribute.key is None and type(value) in (list, tuple):
            return type(value)(
                traced(item, Attribute(attribute.module, attribute.name, i)) for i, item in enumerate(value)
            )
        if attribute.key is None and type(value) is dict:
            return {key: traced(item, Attribute(attribute.module, attribute.name, key)) for key, item in value.items()}
        return value

    for path, module in named_modules(shell).items():
        for name, value in list(vars(module).items()):
            if type(value) in (int, list, tuple, dict) and not name.startswith("_"):
                module.__dict__[name] = traced(value, Attribute(path, name))
    return found
