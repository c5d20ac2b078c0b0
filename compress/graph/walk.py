"""A network in, its modules and tensors by name, out; in one walk.

PyTorch's own iterators pass each module up through a generator for every level above it, and walk once for each kind
of tensor, which pruning asks for many times.
"""

from __future__ import annotations

from torch import Tensor, nn


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """What `dict(model.named_modules())` gives: every module once, by its first path, the model's own ("") first."""
    found: dict[str, nn.Module] = {}
    _walk(model, "", set(), found)
    return found


def _walk(module: nn.Module, path: str, seen: set[int], found: dict[str, nn.Module]) -> None:
    seen.add(id(module))
    found[path] = module
    start = f"{path}." if path else ""
    for name, child in module._modules.items():
        if child is not None and id(child) not in seen:
            _walk(child, start + name, seen, found)


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer once, by its first state-dict-like name; parameters first."""
    parameters, buffers = _by_kind(model)
    return parameters | buffers


def named_parameters(model: nn.Module) -> dict[str, Tensor]:
    """What `dict(model.named_parameters())` gives."""
    return _by_kind(model)[0]


def _by_kind(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    parameters: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    seen: set[int] = set()
    for path, module in named_modules(model).items():
        start = f"{path}." if path else ""
        for found, tensors in ((parameters, module._parameters), (buffers, module._buffers)):
            for name, tensor in tensors.items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    found[start + name] = tensor
    return parameters, buffers
