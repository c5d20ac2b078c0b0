"""A branch's calls and modules in, what its modules are replaced by so that it gives zeros, out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .blocks import StandIn
from .flow import Flow
from .tape import Call, Invocation, Value

RANGES = {"relu", "hardtanh", "relu6"}
"""Ops that leave alone what they have made."""
WITHIN = {
    "max_pool2d_with_indices", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "clone",
    "view", "reshape", "_unsafe_view", "permute", "transpose", "slice", "detach",
}  # fmt: skip
"""Ops whose results lie in the range of what they take."""
UNARY = {
    "relu", "hardtanh", "relu6", "leaky_relu", "gelu", "silu", "mish", "elu", "tanh", "hardswish", "sigmoid",
    "hardsigmoid", "neg", "clone", "detach", "dropout", "native_dropout", "_to_copy", "alias", "contiguous",
}  # fmt: skip
"""Ops whose result has the shape of their only tensor."""
ZERO = (UNARY - {"sigmoid", "hardsigmoid"}) | {
    "view", "reshape", "_unsafe_view", "permute", "transpose", "t", "expand", "slice", "squeeze", "unsqueeze", "roll",
    "constant_pad_nd", "mean", "sum", "flip",
}  # fmt: skip
"""Ops that make zeros of zeros; and so do sums of zeros, and products with one."""


def holds_range(number: int, stream: Value, flow: Flow) -> bool:
    """Whether a call leaves the stream as it is, whatever the weights: it is the op that has limited it already."""
    call = flow.calls[number]
    op = call.op.rstrip("_")
    if op not in RANGES or len(call.values) != 1:
        return False
    value = stream
    while value.id in flow.maker:
        before = flow.calls[flow.maker[value.id]]
        if before.op.rstrip("_") == op:
            return _numbers(before) == _numbers(call)
        if before.op not in WITHIN or not before.values:
            return False
        value = before.values[0]
    return False


def _numbers(call: Call) -> tuple[list[float], list[float]]:
    """What is no tensor among a call's arguments; hardtanh has two limits by default."""
    given = [float(arg) for arg in call.args if not isinstance(arg, Value)]
    defaults = [-1.0, 1.0] if call.op.rstrip("_") == "hardtanh" else []
    return given + defaults[len(given) :], [float(arg) for arg in call.kwargs.values()]


def stand_ins(
    calls: frozenset[int],
    inside: Mapping[str, list[Invocation]],
    stream: Value,
    branch: Value | None,
    flow: Flow,
) -> tuple[list[StandIn], str]:
    """What replaces the modules `inside`, and no word; or nothing, and why what is outside of them stands in the way.

    The first modules give zeros in the stream's shape, the others hand them on: so what the branch does outside of
    modules - an activation in place, say - never touches the stream. branch: the value that must then be zero in the
    stream's shape; None where nobody asks for it any more. Where all calls are inside, everything is handed on then.
    """
    starts = {i.start: (path, i) for path, found in inside.items() for i in found}
    covered = {n for found in inside.values() for i in found for n in range(i.start, i.end)}
    idle = branch is None and calls <= covered
    shapes, zero = {stream.id: stream.shape}, set[int]()
    chosen: dict[str, StandIn] = {}
    for number in sorted(calls | set(starts)):
        if number in starts:
            path, invocation = starts[number]
            taken = next(((at, value) for at, value in invocation.args if value.id in shapes), None)
            outputs = invocation.outputs
            if taken is None or outputs is Ellipsis:
                return [], f"module {path} takes or returns something else than tensors"
            at, value = taken
            zeros = not idle and (value.id not in zero or (path in chosen and chosen[path].zeros))
            stand_in = StandIn(path, zeros, at, form(outputs), invocation.alone)
            if path in chosen and (chosen[path].argument, chosen[path].outputs) != (at, form(outputs)):
                return [], f"module {path} is called in two ways"
            chosen[path] = stand_in
            for out in outputs if isinstance(outputs, tuple) else (outputs,):
                if out is not None:
                    shapes[out.id] = shapes[value.id]
                    zero.add(out.id)
        elif number not in covered:
            reason = _pass(flow.calls[number], shapes, zero)
            if reason:
                return [], reason
    if branch is not None and (branch.id not in zero or shapes[branch.id] != stream.shape):
        return [], f"{flow.calls[flow.maker[branch.id]].where} gives no zeros without the modules before it"
    return list(chosen.values()), ""


def form(outputs: Any) -> tuple[bool, ...] | None:
    """What a module returned as StandIn.outputs has it."""
    return None if isinstance(outputs, Value) else tuple(item is not None for item in outputs)


def _pass(call: Call, shapes: dict[int, tuple[int, ...]], zero: set[int]) -> str:
    """Note what a call outside of the replaced modules then gives; the reason where it may not run on their shapes."""
    op = call.op.rstrip("_")
    values = call.values
    mine = [value for value in values if value.id in shapes]
    now = [shapes.get(value.id, value.shape) for value in values]
    if all(shape == value.shape for shape, value in zip(now, values, strict=True)):
        made = [out.shape for out in call.outs]
    elif (op in UNARY and len(values) == 1) or (op in ("add", "sub", "mul") and len(set(now)) == 1):
        made = [now[0] for _ in call.outs]
    else:
        return f"{call.where} is computed outside of modules, on channels that would no longer be there"
    for out, shape in zip(call.outs, made, strict=True):
        shapes[out.id] = shape
    nothing = [value.id in zero for value in values]
    plain = all(isinstance(arg, Value) for arg in call.args[:2])
    if (
        (op in ZERO and mine and values[0].id in zero)
        or (op in ("mul", "bmm", "mm", "matmul", "div") and (nothing[0] or (op != "div" and any(nothing))))
        or (op in ("add", "sub") and plain and all(nothing))
        or (op in ("cat", "stack") and all(nothing))
    ):
        zero.update(out.id for out in call.outs)
    return ""
