"""Where training stands in, one safetensors file out, and back: tensors by name, the rest as JSON in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn, optim

from ..errors import CompressError
from ..files import replaced

NONE: Mapping[str, Tensor] = {}


@dataclass(frozen=True)
class Standing:
    """Where a training stage stands: steps taken, sums of the running epoch's losses, state of the gradient scaler.

    best: the highest headline metric of a validation, None before the first; best_epoch: of it, counted from 1.
    """

    step: int = 0
    sums: Mapping[str, float] = field(default_factory=dict)
    scaler: Mapping[str, Any] = field(default_factory=dict)
    best: float | None = None
    best_epoch: int = 0


def save(
    path: Path, model: nn.Module, optimizer: optim.Optimizer, standing: Standing, average: Mapping[str, Tensor] = NONE
) -> None:
    """Write model, optimizer state, standing and averaged weights to one file, beside and moved into place."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.items()}
    numbers: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            (tensors if isinstance(value, Tensor) else numbers)[f"optimizer.{key}.{name}"] = value
    write_tensors(path, tensors, {"standing": json.dumps(asdict(standing) | {"numbers": numbers})})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str] | None = None) -> None:
    """A safetensors file of CPU copies, moved into place; a shared tensor is stored under each of its names."""
    copies = {n: t.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for n, t in tensors.items()}
    with replaced(path) as beside:
        save_file(copies, beside, dict(header or {}))


def read_weights(path: Path, model: nn.Module) -> None:
    """Load a network's weights alone. Raises CompressError where the file does not hold them."""
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, OSError, RuntimeError) as problem:
        line = str(problem).splitlines()[-1].strip()
        raise CompressError(f"{path}: not this network's weights ({line}); remove the stage's folder") from None


def restore(path: Path, model: nn.Module, optimizer: optim.Optimizer, average: Mapping[str, Tensor] = NONE) -> Standing:
    """Load a checkpoint into model, optimizer and averaged weights, in place, and say where training stood.

    Raises CompressError where the file is no checkpoint, or one of another network.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            header = json.loads((stored.metadata() or {})["standing"])
            numbers = header.pop("numbers")
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, OSError) as problem:
        raise CompressError(f"{path}: no training checkpoint ({problem}); remove it to start the stage again") from None
    try:
        model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
        for name, tensor in average.items():
            tensor.copy_(tensors[f"average.{name}"])
    except (RuntimeError, KeyError) as problem:
        line = str(problem).splitlines()[-1].strip()
        raise CompressError(f"{path}: is of another network ({line}); remove it to start the stage again") from None
    parameters = dict(model.named_parameters())
    state = {n: t for n, t in tensors.items() if n.startswith("optimizer.")} | numbers
    for full, value in state.items():
        _, key, name = full.split(".", 2)
        parameter = parameters[name]
        if isinstance(value, Tensor) and key != "step":  # laid out in memory as it was when the optimizer made it
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        elif isinstance(value, Tensor) and optimizer.defaults.get("fused"):
            value = value.to(parameter.device)
        optimizer.state[parameter][key] = value
    return Standing(**header)
