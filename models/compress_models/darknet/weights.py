"""A .weights file in, a Darknet with its numbers out - and the numbers of a Darknet back into a file's bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compress import CompressError

from .layers import NORM_EPS, Convolutional, norm_of
from .network import Darknet


@dataclass(frozen=True)
class Header:
    """How a .weights file begins: three int32 of version, then how many images were seen in training.

    From version 0.2 on `seen` is an int64, before that an int32.
    """

    major: int = 0
    minor: int = 2
    revision: int = 0
    seen: int = 0

    @property
    def wide(self) -> bool:
        """Whether `seen` has 8 bytes. Versions of 1000 and more mark transposed files of the old kind."""
        return self.major * 10 + self.minor >= 2 and self.major < 1000 and self.minor < 1000

    def pack(self) -> bytes:
        """The 20 (or 16) bytes of the file's beginning, little-endian."""
        version = np.array([self.major, self.minor, self.revision], "<i4").tobytes()
        return version + np.array([self.seen], "<i8" if self.wide else "<i4").tobytes()


def load_weights(model: Darknet, path: Path, cutoff: int | None = None) -> Header:
    """Copy a file's numbers into the model; the file's header comes back, so that it can be written again.

    cutoff: read layers 0 to cutoff - 1 only, as for a backbone (`darknet53.conv.74`: cutoff 74); what a longer file
    holds behind them is left alone. The other layers keep their values.

    A file of the PyTorch scripts that say version 0.0 and yet write a header of 20 bytes is known by its length; its
    header comes back as one of version 0.2.

    Raises: CompressError, with nothing loaded, where the file cannot be read, holds another number of numbers than the
    layers need, or numbers that are not finite.
    """
    header, numbers = _read(path)
    fields = [field for layer in _convolutions(model, cutoff) for field in _fields(layer)]
    expected = sum(field.numel() for field in fields)
    if not header.wide and cutoff is None and len(numbers) == expected + 1:
        # PyTorch scripts write five int32 whatever the version says: the fifth is no number of a layer
        header, numbers = Header(0, 2, 0, header.seen), numbers[1:]
    if len(numbers) < expected or (len(numbers) > expected and cutoff is None):
        what = "the network" if cutoff is None else f"its first {cutoff} layers"
        raise CompressError(
            f"{path}: {what} expected {expected:,} numbers, found {len(numbers):,}; nothing was loaded"
            + _hint(model, len(numbers), cutoff)
        )
    numbers = numbers[:expected]
    if not np.isfinite(numbers).all():
        first = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise CompressError(f"{path}: number {first:,} of {expected:,} is not finite; nothing was loaded")
    with torch.no_grad():
        for layer in _convolutions(model, cutoff):
            if norm_of(layer) is not None and layer.conv.bias is not None:
                layer.conv.bias.zero_()  # Darknet knows none beside a batch norm
        for field, values in zip(fields, np.split(numbers, np.cumsum([f.numel() for f in fields])[:-1]), strict=True):
            field.copy_(torch.from_numpy(values.astype(np.float32)).view(field.shape))
    return header


def save_weights(model: Darknet, path: Path, header: Header | None = None, cutoff: int | None = None) -> None:
    """Write the numbers of layers 0 to cutoff - 1 (all without a cutoff) as a .weights file, whole or not at all.

    A network that was loaded and is saved with its header gives the same bytes. A bias beside a batch norm and an
    epsilon that is not Darknet's go into the statistics, so that the file computes the same.
    """
    layers = _convolutions(model, cutoff)
    beside = path.with_name(f".{path.name}.part")
    try:
        with beside.open("wb") as file:
            file.write((header or Header()).pack())
            for values in (values for layer in layers for values in _numbers(layer)):
                file.write(values.astype("<f4").tobytes())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _convolutions(model: Darknet, cutoff: int | None) -> list[Convolutional]:
    """The layers that own numbers, in the file's order, below the cutoff."""
    if cutoff is not None and not 0 < cutoff <= len(model.layers):
        raise CompressError(f"cutoff={cutoff}: expected 1 to {len(model.layers)}, the number of layers")
    return [layer for layer in model.layers[:cutoff] if isinstance(layer, Convolutional)]


def _fields(layer: Convolutional) -> Iterator[Tensor]:
    """The tensors of a layer in the file's order: bias (or beta, gamma, mean, variance), weights."""
    norm = norm_of(layer)
    fields = (layer.conv.bias,) if norm is None else (norm.bias, norm.weight, norm.running_mean, norm.running_var)
    for field in (*fields, layer.conv.weight):
        if field is None:
            raise CompressError(f"no numbers can be loaded into {layer}: it lacks a bias, or its norm has no weights")
        yield field


def _numbers(layer: Convolutional) -> list[np.ndarray]:
    """The values of a layer in the file's order, such that Darknet's layer computes what this one does in eval mode."""
    conv, norm = layer.conv, norm_of(layer)
    zeros = torch.zeros(len(conv.weight), dtype=torch.float64)
    bias = zeros if conv.bias is None else _double(conv.bias)
    if norm is None:
        return [bias.numpy(), _double(conv.weight).flatten().numpy()]
    beta = zeros if norm.bias is None else _double(norm.bias)
    gamma = zeros + 1 if norm.weight is None else _double(norm.weight)
    mean, variance = _double(norm.running_mean) - bias, _double(norm.running_var)
    if norm.eps != NORM_EPS:
        moved = (variance + (norm.eps - NORM_EPS)).clamp(min=0)
        gamma = gamma * ((moved + NORM_EPS) / (variance + norm.eps)).sqrt()
        variance = moved
    return [values.flatten().numpy() for values in (beta, gamma, mean, variance, _double(conv.weight))]


def _double(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor.detach().cpu().double()


def _read(path: Path) -> tuple[Header, np.ndarray]:
    """The header and the float32 numbers behind it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CompressError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) < 16:
        raise CompressError(f"{path}: expected a header of 16 or 20 bytes, found {len(data)} bytes; nothing was loaded")
    header = Header(*(int(value) for value in np.frombuffer(data[:16], "<i4")))
    start = len(header.pack())
    if len(data) < start or (len(data) - start) % 4:
        what = f"expected {start} bytes of header and 4 bytes a number, found {len(data):,} bytes in all"
        raise CompressError(f"{path}: {what}; nothing was loaded")
    if header.wide:
        header = Header(header.major, header.minor, header.revision, int(np.frombuffer(data[12:20], "<i8")[0]))
    return header, np.frombuffer(data[start:], "<f4")


def _hint(model: Darknet, found: int, cutoff: int | None) -> str:
    """What to do next: the cutoff that would fit, where one does."""
    if cutoff is None:
        held = [0]  # held[k]: numbers of the first k layers
        for layer in model.layers:
            own = _fields(layer) if isinstance(layer, Convolutional) else ()
            held.append(held[-1] + sum(field.numel() for field in own))
        if found in held[1:]:
            return f"; it fits the first {held.index(found)} layers: cutoff={held.index(found)}"
        backbone = model.heads[0].layer - 1 if model.heads else 0
        if 0 < held[backbone] < found:
            return f"; for other classes, cutoff={backbone} reads what comes before the first head"
    return "; are cfg, width and classes those that it was trained with?"
