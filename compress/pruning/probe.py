"""A model and its example inputs in, a few numbers out by which a reloaded model is known to compute the same."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CompressError
from ..graph.inputs import call_model, collect_tensors

SAMPLES = 32
"""Elements of each output that are kept, evenly spaced."""

TOLERANCE = {"float64": 1e-6, "float32": 5e-3, "float16": 5e-2, "bfloat16": 5e-2}
"""Largest difference relative to the largest output element: wide enough for another device's rounding (TF32)."""


def take_probe(model: nn.Module, example_inputs: Any) -> dict[str, Any]:
    """Inputs like the examples, made from a seed, and what the model answers in eval mode, as plain JSON values.

    Floating-point inputs are uniform between the example's smallest and largest element, integers likewise.
    """
    probe = {"seed": 0, "inputs": _describe(example_inputs)}
    return {**probe, "outputs": [_summary(tensor) for tensor in _answer(model, probe)]}


def check_probe(model: nn.Module, probe: Mapping[str, Any]) -> None:
    """Raises CompressError where the model does not answer as the stored one did."""
    try:
        found = [_summary(tensor) for tensor in _answer(model, probe)]
    except Exception as error:
        line = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CompressError(f"the loaded model does not run on the stored probe: {line}") from error
    expected = probe["outputs"]
    if len(found) != len(expected):
        raise CompressError(f"the model gives {len(found)} outputs, the stored one gave {len(expected)}")
    for number, (have, want) in enumerate(zip(found, expected, strict=True)):
        if have["shape"] != want["shape"]:
            shapes = tuple(have["shape"]), tuple(want["shape"])
            raise CompressError(f"output {number} is {shapes[0]}, the stored model's was {shapes[1]}")
        a, b = (np.array([*each["values"], each["mean_abs"]], dtype=float) for each in (have, want))
        scale = float(want["max_abs"]) if 0 < float(want["max_abs"]) < np.inf else 1.0
        finite = np.isfinite(a) & np.isfinite(b)
        gap = max(np.abs(a[finite] - b[finite]) / scale, default=0.0)
        gap = gap if np.array_equal(a[~finite], b[~finite], equal_nan=True) else np.inf
        tolerance = TOLERANCE.get(want["dtype"], 0.0)
        if gap > tolerance:
            raise CompressError(
                f"output {number} differs from the stored model's by {gap:.1e} of its largest element (tolerance "
                f"{tolerance:.0e}): same shapes, another network; build_model() must build what was pruned"
            )


def _answer(model: nn.Module, probe: Mapping[str, Any]) -> list[Tensor]:
    first = next((t for t in (*model.parameters(), *model.buffers())), torch.empty(0))
    generator = np.random.RandomState(probe["seed"])  # its stream is frozen by NumPy's policy (NEP 19)
    inputs = _make(probe["inputs"], generator, first.device)
    cuda = [first.device] if first.is_cuda else []
    with torch.no_grad(), torch.random.fork_rng(devices=cuda), _evaluating(model):
        torch.manual_seed(probe["seed"])
        return collect_tensors(call_model(model, inputs))


def _summary(tensor: Tensor) -> dict[str, Any]:
    flat = tensor.detach().reshape(-1)
    flat = (flat.abs() if flat.is_complex() else flat).to("cpu", torch.float64)
    every = np.linspace(0, max(len(flat) - 1, 0), min(SAMPLES, len(flat))).round().astype(int)
    values = flat[torch.as_tensor(every, dtype=torch.int64)].tolist()
    mean, most = (flat.abs().mean().item(), flat.abs().max().item()) if len(flat) else (0.0, 0.0)
    return {
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "values": [_number(value) for value in values],
        "mean_abs": _number(mean),
        "max_abs": _number(most),
    }


def _number(value: float) -> float | str:
    """JSON knows no NaN and no infinity."""
    return value if math.isfinite(value) else str(value)


def _describe(tree: Any) -> Any:
    """A tree of example inputs as JSON values: {"tensor": shape, ...}, {"tuple": items}, {"dict": ...} ..."""
    if isinstance(tree, Tensor):
        bounds = [tree.min().item(), tree.max().item()] if tree.numel() and not tree.is_complex() else [0, 1]
        bounds = bounds if all(math.isfinite(bound) for bound in bounds) else [0, 1]
        dtype = str(tree.dtype).removeprefix("torch.")
        return {"tensor": list(tree.shape), "dtype": dtype, "low": bounds[0], "high": bounds[1]}
    if isinstance(tree, tuple | list):
        return {"tuple" if isinstance(tree, tuple) else "list": [_describe(item) for item in tree]}
    if isinstance(tree, Mapping) and all(isinstance(key, str) for key in tree):
        return {"dict": {key: _describe(item) for key, item in tree.items()}}
    if tree is None or isinstance(tree, bool | int | float | str):
        return {"value": tree}
    raise CompressError(f"example inputs hold a {type(tree).__name__}, which the artifact's probe cannot store")


def _make(spec: Mapping[str, Any], generator: np.random.RandomState, device: torch.device) -> Any:
    ((kind, content),) = ((key, spec[key]) for key in ("tensor", "tuple", "list", "dict", "value") if key in spec)
    if kind == "value":
        return content
    if kind == "dict":
        return {key: _make(item, generator, device) for key, item in content.items()}
    if kind in ("tuple", "list"):
        items = [_make(item, generator, device) for item in content]
        return tuple(items) if kind == "tuple" else items
    dtype, low, high = getattr(torch, spec["dtype"]), spec["low"], spec["high"]
    noise = torch.from_numpy(generator.random_sample(content))
    if dtype == torch.bool:
        return (noise < 0.5).to(device) if low != high else torch.full(content, bool(low), device=device)
    if dtype.is_floating_point or dtype.is_complex:
        return (low + noise * (high - low)).to(device, dtype)
    return (low + torch.floor(noise * (high - low + 1))).to(device, dtype)


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, and afterwards each module's own again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
