"""Edits and anything shaped like the original's state in, its surviving elements out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import CompressError, nearest
from .surgery import Edits, select

WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel, AveragedModel and torch.compile put before a parameter's name."""


def remap(
    edits: Edits, state_dict: Mapping[str, Any], names: Sequence[str] | None = None, order: Sequence[str] = ()
) -> dict[str, Any]:
    """What of a state belongs to the cut network: a state dict, EMA weights, or an optimizer's `state_dict()`.

    Tensors in the shape of a parameter or buffer lose what the cut removed; scalars, and everything else in a
    parameter's own optimizer state that has no shape (steps, None), stay. Nothing is changed in place.

    names: of an optimizer's parameters in its order, over all its groups; not needed where the optimizer was given
    `named_parameters()` (its state then holds the names), nor for one group of all parameters in the model's `order`.

    Raises CompressError for a name that the original did not have, a shape that is not the original's, or an
    optimizer's parameters without names.
    """
    if set(state_dict) == {"state", "param_groups"}:
        return _remap_optimizer(edits, state_dict, names, order)
    known = {id(tensor): name for name, tensor in state_dict.items() if name in edits.shapes}
    storages = {_place(tensor): name for name, tensor in state_dict.items() if name in edits.shapes}
    smaller = {}
    for key, value in state_dict.items():
        if not isinstance(value, Tensor) or value.ndim == 0:
            smaller[key] = value
            continue
        name = key
        while name not in edits.shapes and name.startswith(WRAPPERS):
            name = name.partition(".")[2]
        if name not in edits.shapes:
            name = known.get(id(value), storages.get(_place(value), name))  # a tied parameter's other name
        if name not in edits.shapes:
            raise CompressError(f"state: '{key}' is no parameter or buffer of the original{nearest(key, edits.shapes)}")
        smaller[key] = _survivors(edits, name, value, f"state: '{key}'")
    return smaller


def compose(first: Edits, second: Edits) -> Edits:
    """One cut after another as one: `second` was made for the network that `first` leaves."""
    chosen = {name: dict(by_dim) for name, by_dim in first.select.items()}
    for name, by_dim in second.select.items():
        mine = chosen.setdefault(name, {})
        for dim, index in by_dim.items():
            mine[dim] = np.asarray(mine[dim])[index] if dim in mine else np.asarray(index)
    attributes = {path: dict(values) for path, values in first.attributes.items()}
    for path, values in second.attributes.items():
        attributes.setdefault(path, {}).update(values)
    return Edits(chosen, attributes, dict(first.shapes or second.shapes))


def _remap_optimizer(
    edits: Edits, state_dict: Mapping[str, Any], names: Sequence[str] | None, order: Sequence[str]
) -> dict[str, Any]:
    groups = state_dict["param_groups"]
    numbers = [number for group in groups for number in group["params"]]
    if names is None and all("param_names" in group for group in groups):
        names = [name for group in groups for name in group["param_names"]]
    if names is None and len(groups) == 1:
        names = order
    if not names or len(names) != len(numbers):
        found = f"{len(names)} names" if names else "no names"
        raise CompressError(
            f"state of an optimizer with {len(numbers)} parameters in {len(groups)} groups, {found}; pass names=[...] "
            "in the optimizer's order, or make the optimizer from model.named_parameters()"
        )
    name_of = dict(zip(numbers, names, strict=True))
    state = {}
    for number, values in state_dict["state"].items():
        name = name_of[number]
        if name not in edits.shapes:
            raise CompressError(f"state: '{name}' is no parameter of the original{nearest(name, edits.shapes)}")
        state[number] = {
            key: _survivors(edits, name, value, f"state: '{key}' of '{name}'")
            if isinstance(value, Tensor) and value.numel() > 1
            else value
            for key, value in values.items()
        }
    return {"state": state, "param_groups": [dict(group) for group in groups]}


def _survivors(edits: Edits, name: str, tensor: Tensor, what: str) -> Tensor:
    expected = tuple(edits.shapes[name])
    if tuple(tensor.shape) != expected and (name in edits.select or tensor.ndim == len(expected)):
        raise CompressError(f"{what} is {tuple(tensor.shape)}, the original's '{name}' is {expected}")
    return select(tensor, edits.select[name]) if name in edits.select else tensor


def _place(value: Any) -> Any:
    """Equal for two views of the same memory in the same shape."""
    if not isinstance(value, Tensor) or value.is_meta or not value.numel():
        return id(value)
    return value.data_ptr(), tuple(value.shape), value.stride()
