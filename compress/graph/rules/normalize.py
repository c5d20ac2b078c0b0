"""Normalisation: scale, shift and statistics share the labels of what they normalise."""

from __future__ import annotations

from ..labels import Array, Labels, Layout
from ..tape import Call, Value
from .reduce import follow_shape, freeze_along
from .table import rule


@rule(
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "batch_norm",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "_batch_norm_with_update",
    "_batch_norm_no_update",
)
def batch_norm(call: Call, labels: Labels) -> list[Layout]:
    """x (N, C, ...), weight, bias, running mean and variance (C,): one unit a channel."""
    x = call.args[0]
    dim = 1 if len(x.shape) > 1 else 0
    for vector in call.args[1:5]:
        if isinstance(vector, Value):
            labels.role(vector, 0, "norm")
            _tie(x, dim, vector, labels, call)
    if len(call.args) > 5 and call.args[5] is True:  # by its own statistics: a weight that is standardised
        for other in range(len(x.shape)):
            found = labels.along(x, other) if other != dim else None
            if found is not None:
                labels.reduces([(0, other, found), (-1, other, found)])
    return [labels.of(x)] + [()] * (len(call.outs) - 1)


def _own(vector: object, labels: Labels) -> Array | None:
    return labels.along(vector, 0) if isinstance(vector, Value) else None


def _tie(x: Value, dim: int, vector: Value, labels: Labels, call: Call) -> None:
    mine, its = labels.along(x, dim), labels.along(vector, 0)
    if mine is not None and its is not None:
        labels.equal(mine, its)
    elif its is not None:
        labels.pin(its, f"{call.where} normalises values that are not channels of this network")
    elif mine is not None:
        labels.pin(mine, f"{call.where} has parameters of fixed size")


@rule("native_group_norm")
def group_norm(call: Call, labels: Labels) -> list[Layout]:
    """x (N, C, ...) in G groups: whole groups go together (G follows); inside, groups stay equally wide."""
    x, weight, bias = call.args[:3]
    groups = call.args[6]
    for vector in (weight, bias):
        if isinstance(vector, Value):
            labels.role(vector, 0, "norm")
            _tie(x, 1, vector, labels, call)
    channels = labels.along(x, 1)
    if channels is None:
        return [()] * len(call.outs)
    labels.reduces([(0, 1, channels), (1, 0, _own(weight, labels)), (2, 0, _own(bias, labels)), (-1, 1, channels)])
    rows = channels.reshape(groups, -1)  # (C,) -> (G, C / G)
    written = None
    if call.python is not None:
        name, args, kwargs = call.python
        written = kwargs.get("num_groups", args[1] if name == "group_norm" and len(args) > 1 else None)
    if labels.options.get("groups") == "inside" or len(channels) == groups or groups == 1:
        if groups == 1 or len(channels) != groups:
            labels.link(tuple(rows), f"{call.where}: its {groups} groups stay equally wide")
            labels.need(written, None, call.where) if written is not None else None
        else:
            labels.need(written, channels, call.where)
    else:
        labels.equal(rows, rows[:, :1])
        labels.need(written, rows[:, 0].copy(), call.where)
    return [labels.of(x)] + [()] * (len(call.outs) - 1)


@rule("native_layer_norm", "layer_norm")
def layer_norm(call: Call, labels: Labels) -> list[Layout]:
    """x (..., *normalized): statistics over the last dimensions; scale and shift share their labels."""
    x, normalized, weight, bias = call.args[:4]
    first = len(x.shape) - len(normalized)
    for vector in (weight, bias):
        if isinstance(vector, Value):
            for dim in range(len(normalized)):
                labels.role(vector, dim, "norm")
                mine, its = labels.along(x, first + dim), labels.along(vector, dim)
                if its is not None and mine is not None:
                    labels.equal(mine, its)
                elif its is not None:
                    labels.pin(its, f"{call.where} normalises values that are not channels of this network")
    for dim in range(first, len(x.shape)):
        found = labels.along(x, dim)
        if found is not None:
            follow_shape(call, x, dim, found, labels)
            scales = [
                (k, dim - first, labels.along(v, dim - first))
                for k, v in ((2, weight), (3, bias))
                if isinstance(v, Value)
            ]
            labels.reduces([(0, dim, found), *scales, (-1, dim, found)])
    return [labels.of(x)] + [()] * (len(call.outs) - 1)


@rule("_fused_rms_norm")
def rms_norm(call: Call, labels: Labels) -> list[Layout]:
    """x (..., *normalized) over its root mean square; the scale shares its labels."""
    x, normalized, weight = call.args[:3]
    first = len(x.shape) - len(normalized)
    for dim in range(len(normalized)):
        found = labels.along(x, first + dim)
        if isinstance(weight, Value):
            labels.role(weight, dim, "norm")
            its = labels.along(weight, dim)
            if its is not None and found is not None:
                labels.equal(found, its)
            elif its is not None:
                labels.pin(its, f"{call.where} normalises values that are not channels of this network")
        if found is not None:
            follow_shape(call, x, first + dim, found, labels)
            labels.reduces([(0, first + dim, found), (2, dim, _own(weight, labels)), (-1, first + dim, found)])
    return [labels.of(x)] + [()] * (len(call.outs) - 1)


@rule(
    "_softmax",
    "_log_softmax",
    "_safe_softmax",
    "softmax",
    "log_softmax",
    "cumsum",
    "cumprod",
    "logcumsumexp",
    "sort",
    "flip",
    "roll",
)
def along_one(call: Call, labels: Labels) -> list[Layout]:
    """Over tokens or space: nothing changes. Over channels: they stay, because each one's value depends on all."""
    x = call.args[0]
    if call.op == "roll":
        dims = call.args[2] if len(call.args) > 2 else tuple(range(len(x.shape)))
    elif call.op == "flip":
        dims = call.args[1]
    else:
        dims = (call.args[1] if len(call.args) > 1 and isinstance(call.args[1], int) else call.kwargs.get("dim", -1),)
    freeze_along(x, dims, f"{call.where} mixes or reorders channels", labels)
    return [labels.of(x) for _ in call.outs]
