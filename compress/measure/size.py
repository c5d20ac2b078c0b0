"""A network in, how much there is of it out: parameters and bytes on disk."""

from __future__ import annotations

import safetensors.torch
from torch import Tensor, nn


def parameters(model: nn.Module) -> int:
    """Elements of all parameters; a parameter that several modules share counts once."""
    return sum(p.numel() for p in model.parameters())


def file_bytes(model: nn.Module) -> int:
    """Bytes of the safetensors file that holds the network's state: header, parameters and buffers, shared ones once.

    Nothing is written. Where the file is on disk, its own size is the better source.
    """
    stored: dict[tuple[object, ...], tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict().items():
        place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
        stored.setdefault(place if tensor.numel() else (name,), (name, tensor))
    return len(safetensors.torch.save({name: tensor.contiguous() for name, tensor in stored.values()}))
