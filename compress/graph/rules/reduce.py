"""Reductions drop a dimension; over channels the masked network reduces over the survivors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..labels import Array, Labels, Layout, place_blocks
from ..tape import Call, Value
from .table import rule


def freeze_along(value: Value, dims: Iterable[int], reason: str, labels: Labels) -> None:
    """Pin what a value carries along these dimensions."""
    for dim in dims:
        found = labels.along(value, dim)
        if found is not None:
            labels.pin(found, reason)


def follow_shape(call: Call, x: Value, dim: int, found: Array, labels: Labels) -> None:
    """Layer and RMS norm write the sizes of the dimensions they reduce: each must follow what is `found` there."""
    name, args, kwargs = call.python or ("", (), {})
    if name in ("layer_norm", "rms_norm"):
        shape = kwargs.get("normalized_shape", args[1] if len(args) > 1 else None)
        position = dim - len(x.shape)  # from the end
        if isinstance(shape, tuple) and len(shape) >= -position:
            labels.need(shape[position], found, call.where)


def without(value: Value, dims: set[int], keepdim: bool, labels: Labels) -> Layout:
    """The layout of a value after these dimensions (non-negative) are reduced; a block that loses an axis is lifted."""
    blocks: list[tuple[tuple[int, ...], Array, tuple[int, ...]]] = []
    moved = {d: d if keepdim else d - sum(gone < d for gone in dims) for d in range(len(value.shape))}
    for block in labels.of(value):
        kept = [i for i, d in enumerate(block.dims) if d not in dims]
        if len(kept) == len(block.dims):
            blocks.append((tuple(moved[d] for d in block.dims), block.labels, block.axes))
        else:
            blocks += [((moved[block.dims[i]],), labels.lift(block, i), ()) for i in kept]
    return place_blocks(blocks)


def reduced_dims(call: Call, dim: Any) -> set[int]:
    """The dimensions, non-negative, that a `dim` argument (int, tuple or None) names."""
    n = len(call.args[0].shape)
    if dim is None or dim == ():
        return set(range(n))
    return {d % max(n, 1) for d in ((dim,) if isinstance(dim, int) else dim)}


@rule(
    "mean",
    "sum",
    "amax",
    "amin",
    "max",
    "min",
    "var",
    "std",
    "var_mean",
    "std_mean",
    "norm",
    "linalg_vector_norm",
    "logsumexp",
    "prod",
    "any",
    "all",
    "nansum",
    "median",
    "nanmedian",
    "_weight_norm_interface",
)
def reduce(call: Call, labels: Labels) -> list[Layout]:
    """Reduce over some dimensions. max and min with two tensors are elementwise."""
    if call.op == "_weight_norm_interface":
        return _weight_norm(call, labels)
    x = call.args[0]
    dim: Any = call.kwargs.get("dim", None)
    rest = list(call.args[1:])
    if call.op in ("norm", "linalg_vector_norm") and rest:
        rest.pop(0)  # the order of the norm
    if dim is None and rest and not isinstance(rest[0], bool) and isinstance(rest[0], (int, tuple)):
        dim = rest.pop(0)
    if len(call.args) > 1 and isinstance(call.args[1], Value):
        from .elementwise import combine

        return [combine([x, call.args[1]], call.outs[0].shape, labels, call.where)]
    dims = reduced_dims(call, dim)
    keepdim = len(call.outs[0].shape) == len(x.shape)
    for d in sorted(dims):
        found = labels.along(x, d)
        if found is None:
            continue
        if len(call.outs) > 1 and call.op not in ("var_mean", "std_mean") and call.outs[1].id in labels.used:
            labels.pin(found, f"{call.where} returns positions among channels")
        elif call.op == "prod":
            labels.pin(found, f"{call.where} multiplies channels")
        else:
            follow_shape(call, x, d, found, labels)
            labels.reduces([(0, d, found)])
    layout = without(x, dims, keepdim, labels)
    return [layout for _ in call.outs]


def _weight_norm(call: Call, labels: Labels) -> list[Layout]:
    """v, g, dim -> g * v / |v|, the norm over every dimension but dim; what is removed would be divided by zero."""
    v, g, dim = call.args[0], call.args[1], call.args[2] if len(call.args) > 2 else 0
    mine, its = labels.along(v, dim), labels.along(g, dim)
    if mine is not None and its is not None:
        labels.equal(mine, its)
        labels.reduces([(0, dim, mine), (1, dim, its), (-1, dim, mine), (-2, dim, its)])
    return [labels.of(v), labels.of(g)]


@rule("argmax", "argmin", "topk", "kthvalue", "mode", "argsort", "unique", "nonzero", "count_nonzero")
def positions(call: Call, labels: Labels) -> list[Layout]:
    """Positions among channels mean something to the caller: the channels stay."""
    x = call.args[0]
    for block in labels.of(x):
        labels.pin(block.labels, f"{call.where} returns positions")
    return [()] * len(call.outs)
