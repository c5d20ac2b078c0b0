"""Edits and anything shaped like the original's state in, its surviving elements out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import CompressError, nearest
from .surgery import Edits, scaled, select

WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel, AveragedModel and torch.compile put before a parameter's name."""


def remap(
    edits: Edits, state_dict: Mapping[str, Any], names: Sequence[str] | None = None, order: Sequence[str] = ()
) -> dict[str, Any]:
    """What of a state belongs to the cut network: a state dict, EMA weights, or an optimizer's `state_dict()`.

    Tensors in the shape of a parameter or buffer lose what the cut removed; scalars, and everything else in a
    parameter's own optimizer state that has no shape (steps, None), stay. What belongs to a removed block is left out;
    an optimizer's parameters are then numbered anew. What the cut scales (`Edits.scale`) is scaled in a state dict, and
    stays as it is in an optimizer's. Nothing is changed in place.

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
        name = key
        while name not in edits.shapes and name.startswith(WRAPPERS):
            name = name.partition(".")[2]
        if not isinstance(value, Tensor) or value.ndim == 0:
            if not edits.gone(name):
                smaller[key] = value
            continue
        if name not in edits.shapes:
            name = known.get(id(value), storages.get(_place(value), name))  # a tied parameter's other name
        if name not in edits.shapes:
            raise CompressError(f"state: '{key}' is no parameter or buffer of the original{nearest(key, edits.shapes)}")
        if not edits.gone(name):
            smaller[key] = scaled(_survivors(edits, name, value, f"state: '{key}'"), edits.scale.get(name, {}))
    return smaller


def compose(first: Edits, second: Edits) -> Edits:
    """One cut after another as one: `second` was made for the network that `first` leaves."""
    chosen = {name: dict(by_dim) for name, by_dim in first.select.items()}
    for name, by_dim in second.select.items():
        mine = chosen.setdefault(name, {})
        for dim, index in by_dim.items():
            mine[dim] = np.asarray(mine[dim])[index] if dim in mine else np.asarray(index)
    scale = {name: dict(by_dim) for name, by_dim in first.scale.items()}
    for name, mine in scale.items():
        for dim, index in second.select.get(name, {}).items():
            if dim in mine:
                mine[dim] = mine[dim][index]
    for name, by_dim in second.scale.items():
        for dim, factors in by_dim.items():
            scale.setdefault(name, {})[dim] = scale.get(name, {}).get(dim, 1.0) * factors
    attributes = {path: dict(values) for path, values in first.attributes.items()}
    for path, values in second.attributes.items():
        attributes.setdefault(path, {}).update(values)
    replaced = {**first.replaced, **second.replaced}
    whole = Edits({}, replaced=replaced)
    return Edits(
        {name: by_dim for name, by_dim in chosen.items() if not whole.gone(name)},
        {path: values for path, values in attributes.items() if path not in replaced and not whole.gone(path)},
        dict(first.shapes or second.shapes),
        {path: stand_in for path, stand_in in replaced.items() if not whole.gone(path)},
        {name: by_dim for name, by_dim in scale.items() if not whole.gone(name)},
    )


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
    left = [number for number in numbers if not edits.gone(name_of[number])]
    anew = dict(zip(left, range(len(left)), strict=True)) if len(left) < len(numbers) else {n: n for n in numbers}
    state = {}
    for number, values in state_dict["state"].items():
        name = name_of[number]
        if name not in edits.shapes:
            raise CompressError(f"state: '{name}' is no parameter of the original{nearest(name, edits.shapes)}")
        if number not in anew:
            continue
        state[anew[number]] = {
            key: _survivors(edits, name, value, f"state: '{key}' of '{name}'")
            if isinstance(value, Tensor) and value.numel() > 1
            else value
            for key, value in values.items()
        }
    return {"state": state, "param_groups": [_renumbered(group, anew) for group in groups]}


def _renumbered(group: Mapping[str, Any], anew: Mapping[int, int]) -> dict[str, Any]:
    """A group of an optimizer's parameters without those that have no new number."""
    stays = [number in anew for number in group["params"]]
    changed = {**group, "params": [anew[number] for number in group["params"] if number in anew]}
    if "param_names" in group:
        changed["param_names"] = [name for name, here in zip(group["param_names"], stays, strict=True) if here]
    return changed


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
