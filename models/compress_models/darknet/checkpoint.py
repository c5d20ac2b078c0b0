"""A PyTorch checkpoint of the scripts that read Darknet cfgs in, a Darknet with its numbers out."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress import CompressError

from .layers import Convolutional, norm_of
from .network import Darknet

KEY = re.compile(r"(?:module\.)?(?:module_list|layers)\.(\d+)\.(\w+)\.(\w+)")
"""`module_list.0.conv_0.weight`, `module_list.0.BatchNorm2d.bias` (layer, part, tensor), or our own names."""
BEGINNINGS = (b"PK\x03\x04", b"\x80\x02\x8a\x0a")
"""How torch.save's files begin: a zip archive; before torch 1.6 a pickle of a long integer."""


def is_checkpoint(path: Path) -> bool:
    """Whether a file was written by torch.save, whatever it is called. False where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(4) in BEGINNINGS
    except OSError:
        return False


def load_checkpoint(model: Darknet, path: Path, cutoff: int | None = None) -> None:
    """Copy the numbers of a state_dict whose names begin with `module_list.LAYER` into the model.

    That is what the scripts after eriklindernoren/PyTorch-YOLOv3 and ultralytics' first YOLOv3 save, alone or under
    `model` or `state_dict`. LAYER counts as the cfg does; which part of a layer is the convolution and which the batch
    norm is told by their tensors, for the names differ. cutoff: read layers 0 to cutoff - 1 only.

    Raises: CompressError, with nothing loaded, where the file holds something else than this network's numbers. Nothing
    in it is run: torch.load(weights_only=True), with NumPy's numbers let in, which stand beside many a state_dict.
    """
    found = _layers(path)
    copies: list[tuple[Tensor, Tensor]] = []
    if cutoff is not None and not 0 < cutoff <= len(model.layers):
        raise CompressError(f"cutoff={cutoff}: expected 1 to {len(model.layers)}, the number of layers")
    for index, layer in enumerate(model.layers[:cutoff]):
        if not isinstance(layer, Convolutional):
            continue
        given = found.pop(index, {})
        for name, field in _fields(layer).items():
            if name not in given:
                raise CompressError(f"{path}: layer {index} has no {name}{_instead(given)}; nothing was loaded")
            tensor = given.pop(name)
            if tensor.shape != field.shape:
                shapes = f"{tuple(tensor.shape)}, the cfg asks for {tuple(field.shape)}"
                raise CompressError(f"{path}: layer {index}: {name} is {shapes}; nothing was loaded")
            if not tensor.isfinite().all():
                raise CompressError(f"{path}: layer {index}: {name} is not finite; nothing was loaded")
            copies.append((field, tensor))
        if given:
            what = f"layer {index} has {', '.join(given)}, which the cfg does not ask for"
            raise CompressError(f"{path}: {what}; nothing was loaded")
    beyond = [index for index, given in found.items() if given and cutoff is None]
    if beyond:
        raise CompressError(f"{path}: the cfg has no convolution at layer {beyond[0]}; nothing was loaded")
    with torch.no_grad():
        for field, tensor in copies:
            field.copy_(tensor)


def _layers(path: Path) -> dict[int, dict[str, Tensor]]:
    """Layer -> {"convolution's weight", "batch norm's bias", ...: tensor}, of the layers that own any."""
    layers: dict[int, dict[str, Tensor]] = {}
    state = _state(path)
    parts: dict[tuple[int, str], dict[str, Tensor]] = {}
    for key, tensor in state.items():
        place = KEY.fullmatch(key)
        if place is not None and place[3] in ("weight", "bias", "running_mean", "running_var"):
            parts.setdefault((int(place[1]), place[2]), {})[place[3]] = tensor
    if not parts:
        raise CompressError(f"{path}: expected names like module_list.0.conv_0.weight, found {_some(state)}")
    for (index, part), tensors in parts.items():
        kind = "batch norm" if "running_mean" in tensors else part
        kind = "convolution" if "weight" in tensors and tensors["weight"].dim() == 4 else kind
        layers.setdefault(index, {}).update({f"{kind}'s {name}": tensor for name, tensor in tensors.items()})
    return layers


def _state(path: Path) -> Mapping[str, Tensor]:
    """The state_dict of a file, by itself or within what a training script keeps beside it."""
    try:
        with torch.serialization.safe_globals(_numbers()):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CompressError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # a broken archive, or a pickle that would run code: torch has many names for it
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is None:
            raise CompressError(f"{path}: cannot be read as a checkpoint of torch.save; is the file whole?") from None
        what = f"holds code beside tensors ({code[1]}), and code in a file is never run"
        cure = "where it was made, save the state_dict alone: torch.save(model.state_dict(), PATH)"
        raise CompressError(f"{path}: {what}; {cure}") from None
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise CompressError(f"{path}: expected a state_dict, found {type(content).__name__}")
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _numbers() -> list[Any]:
    """What a pickle names to make NumPy's arrays and scalars of numbers, by NumPy's old names and its new ones."""
    makers = [np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]]
    homes = ("numpy.core.multiarray", "numpy._core.multiarray")
    named = [(maker, f"{home}.{maker.__name__}") for maker in makers for home in homes]  # type: ignore[union-attr]
    return [*named, np.ndarray, np.dtype, *{type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")}, codecs.encode]


def _fields(layer: Convolutional) -> dict[str, Tensor]:
    """What a checkpoint must hold for a layer."""
    conv, norm = layer.conv, norm_of(layer)
    fields: dict[str, Tensor | None] = {"convolution's weight": conv.weight, "convolution's bias": conv.bias}
    if norm is not None:
        names = ("weight", "bias", "running_mean", "running_var")
        fields |= {f"batch norm's {name}": getattr(norm, name) for name in names}
    return {name: field for name, field in fields.items() if field is not None}


def _instead(given: Mapping[str, Tensor]) -> str:
    return f" beside its {', '.join(given)}" if given else ""


def _some(state: Mapping[str, Tensor]) -> str:
    names = list(state)[:2]
    return ", ".join(names) + (", ..." if len(state) > 2 else "") if names else "no tensor"
