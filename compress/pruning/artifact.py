"""A pruned model in, a folder of safetensors and JSON out - and back, without tracing and without pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import CompressError, nearest
from ..files import replaced, write_json
from ..graph.blocks import StandIn
from ..graph.walk import named_tensors
from .probe import check_probe, take_probe
from .surgery import Edits, cut

if TYPE_CHECKING:
    from .apply import Pruned

WEIGHTS, PLAN, FORMAT = "weights.safetensors", "plan.json", 1


def save(pruned: Pruned, folder: str | Path) -> None:
    """Write a pruned model: weights.safetensors, and plan.json with what was cut and a probe of the outputs."""
    frozen = {name: str(reason) for name, reason in pruned.frozen.items()}
    settings = {**pruned.plan.settings, "frozen": frozen}
    write(folder, pruned.model, pruned.edits, pruned.example_inputs, settings)


def write(
    folder: str | Path,
    model: nn.Module,
    edits: Edits | None = None,
    example_inputs: Any = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write a model that `edits` made, None where nothing was cut, e.g. after fine-tuning; see `save`.

    example_inputs: for the probe, None for none. settings: plain JSON values to keep with it. Each file is written
    beside and moved into place; plan.json, the last, holds the digest of the weights it belongs to.

    Raises CompressError where the model's state is not made of tensors or holds no values.
    """
    folder = Path(folder)
    state = model.state_dict()
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise CompressError(f"'{name}' is a {type(tensor).__name__}: only tensors can be stored without pickle")
        if tensor.is_meta:
            raise CompressError(f"'{name}' is on the meta device and has no values to store")
    probe = None if example_inputs is None else take_probe(model, example_inputs)
    stored, aliases = _distinct(state)
    with replaced(folder / WEIGHTS) as beside:
        save_file(stored, beside)
        digest = _digest(beside)
    if edits is None or not edits.shapes:
        shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}
        edits = replace(edits or Edits({}), shapes=shapes)
    plan = {
        "format": FORMAT,
        "versions": {"torch-compress": version("torch-compress"), "torch": torch.__version__},
        "settings": dict(settings or {}),
        "weights": {"file": WEIGHTS, "sha256": digest, "aliases": aliases},
        "edits": _encode(edits),
        "probe": probe,
    }
    write_json(folder / PLAN, plan)


def load(folder: str | Path, build_model: Callable[[], nn.Module]) -> nn.Module:
    """The model that was saved. build_model: builds the original, uncut network; its weights do not matter.

    Nothing is traced: the network is cut by the stored indices, filled with the stored weights in their dtype, and
    must answer the stored probe. Raises CompressError for every mismatch: files, names, shapes, outputs.
    """
    folder = Path(folder)
    plan = _read_plan(folder)
    edits = _decode(plan["edits"])
    model = build_model()
    if not isinstance(model, nn.Module):
        raise CompressError(f"build_model() gave a {type(model).__name__}, expected the network that was pruned")
    _check_original(model, edits, folder)
    if not edits.empty:
        model = cut(model, edits)
    _fill(model, _read_weights(folder, plan), folder)
    if plan["probe"] is not None:
        try:
            check_probe(model, plan["probe"])
        except CompressError as error:
            raise CompressError(f"{folder}: {error}") from error
    return model


def read_edits(folder: str | Path) -> Edits:
    """What was cut from the original; empty `select` where nothing was."""
    return _decode(_read_plan(Path(folder))["edits"])


def read_settings(folder: str | Path) -> dict[str, Any]:
    """The plain values that were kept with the model."""
    return dict(_read_plan(Path(folder)).get("settings", {}))


def _distinct(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each memory once, contiguous and on the CPU: name -> tensor; and the other names of what is shared."""
    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[Any, str] = {}
    for name, tensor in state.items():
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and place in seen:
            aliases[name] = seen[place]
        else:
            seen[place] = name
            stored[name] = tensor.detach().cpu().contiguous().clone()  # views of one storage become their own
    return stored, aliases


def _read_plan(folder: Path) -> dict[str, Any]:
    path = folder / PLAN
    if not path.is_file():
        raise CompressError(f"{folder}: no {PLAN}; expected a folder that compress.save wrote")
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CompressError(f"{path}: not JSON: {error}") from error
    if not isinstance(plan, dict) or plan.get("format") != FORMAT:
        found = plan.get("format") if isinstance(plan, dict) else None
        raise CompressError(f"{path}: format {found!r}, this version of compress reads format {FORMAT}")
    missing = {"weights", "edits", "probe"} - set(plan)
    if missing:
        raise CompressError(f"{path}: no {', '.join(sorted(missing))}")
    return plan


def _read_weights(folder: Path, plan: Mapping[str, Any]) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.is_file():
        raise CompressError(f"{folder}: no {WEIGHTS}")
    if _digest(path) != plan["weights"]["sha256"]:
        raise CompressError(f"{path}: not the weights that {PLAN} belongs to (their SHA-256 differs)")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise CompressError(f"{path}: {error}") from error
    return {**tensors, **{name: tensors[first] for name, first in plan["weights"]["aliases"].items()}}


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_original(model: nn.Module, edits: Edits, folder: Path) -> None:
    """The network that was built is the one that was cut, by names and shapes."""
    built = {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}
    for name, shape in edits.shapes.items():
        if name not in built:
            raise CompressError(f"{folder}: build_model() gave no '{name}', the original had one{nearest(name, built)}")
        if built[name] != tuple(shape):
            raise CompressError(f"{folder}: build_model() gave '{name}' {built[name]}, the original had {tuple(shape)}")
    for name in built:
        if name not in edits.shapes:
            raise CompressError(f"{folder}: build_model() gave '{name}', the original had none")
    modules = dict(model.named_modules())
    for path in edits.replaced:
        if path not in modules:
            raise CompressError(
                f"{folder}: build_model() gave no module '{path}', where the original's residual block was taken out"
            )
    for path, values in edits.attributes.items():
        for attribute, value in values.items():
            held = getattr(modules.get(path), attribute, None)
            if type(held) is not type(value) or attribute.startswith("_"):
                raise CompressError(
                    f"{folder}: build_model() gave '{path}.{attribute}' = {held!r}, the cut makes it {value!r}"
                )


def _fill(model: nn.Module, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Put the stored tensors into the model, in their own dtype; ties between parameters stay."""
    for name, tensor in tensors.items():  # a bias that compensation gave to a layer without one
        owner, leaf = _owner(model, name)
        if owner is not None and leaf in owner._parameters and owner._parameters[leaf] is None:
            like = next((p for p in owner.parameters(recurse=False)), torch.empty(0))
            owner.register_parameter(leaf, nn.Parameter(tensor.to(like.device)))
    state = model.state_dict(keep_vars=True)
    for name in state.keys() ^ tensors.keys():
        where = "build_model()'s network has no" if name in tensors else f"{WEIGHTS} has no"
        raise CompressError(f"{folder}: {where} '{name}'{nearest(name, state if name in tensors else tensors)}")
    for name, held in state.items():
        tensor = tensors[name]
        if held.shape != tensor.shape:
            raise CompressError(
                f"{folder}: '{name}' is {tuple(tensor.shape)} in {WEIGHTS}, {tuple(held.shape)} after the cut; "
                "build_model() must build what was pruned"
            )
        if held.is_meta:
            raise CompressError(f"{folder}: build_model() left '{name}' on the meta device; build it with values")
        if held.dtype != tensor.dtype:
            held.data = tensor.to(held.device)
    with torch.no_grad():
        for name, held in state.items():
            held.copy_(tensors[name])


def _owner(model: nn.Module, name: str) -> tuple[nn.Module | None, str]:
    path, _, leaf = name.rpartition(".")
    return dict(model.named_modules()).get(path), leaf


def _encode(edits: Edits) -> dict[str, Any]:
    """Edits as JSON values; equal index lists, of which there are many, are stored once."""
    numbers: dict[bytes, int] = {}
    indices: list[list[int]] = []
    chosen: dict[str, dict[str, int]] = {}
    for name, by_dim in edits.select.items():
        for dim, index in by_dim.items():
            key = np.asarray(index, dtype=np.int64).tobytes()
            if key not in numbers:
                numbers[key] = len(indices)
                indices.append(np.asarray(index).tolist())
            chosen.setdefault(name, {})[str(dim)] = numbers[key]
    attributes = {path: {n: _plain(value) for n, value in values.items()} for path, values in edits.attributes.items()}
    shapes = {name: list(shape) for name, shape in edits.shapes.items()}
    replaced = {path: {k: v for k, v in vars(each).items() if k != "path"} for path, each in edits.replaced.items()}
    stored = {"indices": indices, "select": chosen, "attributes": attributes, "shapes": shapes}
    scale = {name: {str(d): each.tolist() for d, each in by_dim.items()} for name, by_dim in edits.scale.items()}
    return stored | ({"replaced": replaced} if replaced else {}) | ({"scale": scale} if scale else {})


def _decode(stored: Mapping[str, Any]) -> Edits:
    try:
        indices = [np.asarray(index, dtype=np.int64) for index in stored["indices"]]
        return Edits(
            {name: {int(d): indices[i] for d, i in by_dim.items()} for name, by_dim in stored["select"].items()},
            {path: {n: _restored(v) for n, v in values.items()} for path, values in stored["attributes"].items()},
            {name: tuple(shape) for name, shape in stored["shapes"].items()},
            {path: _stand_in(path, values) for path, values in stored.get("replaced", {}).items()},
            {n: {int(d): np.asarray(f) for d, f in by.items()} for n, by in stored.get("scale", {}).items()},
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise CompressError(f"{PLAN}: its edits are damaged ({type(error).__name__}: {error})") from error


def _stand_in(path: str, values: Mapping[str, Any]) -> StandIn:
    outputs = values["outputs"]
    return StandIn(**{**values, "path": path, "outputs": None if outputs is None else tuple(outputs)})


def _plain(value: Any) -> Any:
    """An attribute for JSON, which has no tuples and no numbers as keys."""
    if isinstance(value, tuple | list):
        return {"tuple" if isinstance(value, tuple) else "list": [_plain(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[key, _plain(item)] for key, item in value.items()]}
    return value


def _restored(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, items),) = value.items()
    if kind == "dict":
        return {key: _restored(item) for key, item in items}
    return (tuple if kind == "tuple" else list)(_restored(item) for item in items)
