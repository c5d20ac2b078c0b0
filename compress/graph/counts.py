"""Sizes that the code writes in, links between channels out: what must keep equally many for the arithmetic to hold.

`x.view(n, self.heads, c // self.heads)` runs after a cut only where the channels behind `c` and the heads shrink
together. Every expression that is a multiple of one counted thing - a labelled size, or an attribute that sizes
something labelled - says how many survivors of what it stands for.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from .ints import Arithmetic, Attribute, Expression, Size, leaves
from .labels import Array, Labels, Lift, Need


@dataclass(frozen=True)
class Count:
    """An expression's value is `times` x the survivors among `labels` / `among`, exactly."""

    labels: Array
    times: int = 1
    among: int = 1


def tie_sizes(labels: Labels) -> None:
    """Link what one expression sizes in several places, and a size that was read with what it sizes elsewhere."""
    by_expression: dict[Expression, list[Need]] = defaultdict(list)
    for need in labels.needs:
        by_expression[need.expression].append(need)
    for expression, needs in by_expression.items():
        arrays = {need.labels.tobytes(): need.labels for need in needs if need.labels is not None}
        read = None if isinstance(expression, Attribute) else _count_of_sizes(expression, labels)
        if any(need.labels is None for need in needs) or _stays(expression, labels):
            for array in [*arrays.values(), *([] if read is None else [read.labels])]:
                labels.pin(
                    array, f"its size is written as {_name(expression)}, which also stands where nothing shrinks"
                )
            continue
        if len(arrays) > 1:
            labels.link(tuple(arrays.values()), f"their sizes are written as {_name(expression)}")
        if read is not None and arrays:
            _link(Count(next(iter(arrays.values()))), read, "one's size is written where the other stands", labels)
    _tie_quotients(labels)


def _tie_quotients(labels: Labels) -> None:
    """`y.view(n, heads, channels // heads)`: what y carries there keeps as many as `channels` counts."""
    lifts = {id(lift.labels): lift for lift in labels.lifts}
    split = [(need, lifts[id(need.labels)]) for need in labels.needs if id(need.labels) in lifts]
    beside: dict[tuple[Expression, int], Lift] = {(need.expression, id(lift.of)): lift for need, lift in split}
    for need, lift in split:
        expression = need.expression
        if not isinstance(expression, Arithmetic) or expression.op != "//":
            continue
        other, channels = beside.get((expression.right, id(lift.of))), _count(expression.left, labels)
        if other is None or channels is None or other.position == lift.position:
            continue
        axes = (lift.position, other.position)
        whole = lift.of[tuple(slice(None) if k in axes else 0 for k in range(lift.of.ndim))].ravel()
        _link(channels, Count(whole), f"{need.where} divides one's size to split the other", labels)


def keep_quotient(expression: Expression, where: str, labels: Labels) -> bool:
    """`channels // heads` is used as a number: they are linked so that it stays. False where that cannot be said."""
    if not isinstance(expression, Arithmetic) or expression.op != "//" or isinstance(expression.right, int):
        return False
    channels, heads = _count(expression.left, labels), _count(expression.right, labels)
    if channels is None or heads is None:
        return False
    value = _value(channels) // _value(heads)
    if value * _value(heads) != _value(channels):
        return False
    _link(channels, Count(heads.labels, heads.times * value, heads.among), f"{where} divides one by the other", labels)
    labels.needs.append(Need(expression, None, value, where))
    return True


def _stays(expression: Expression, labels: Labels) -> bool:
    """It is made of sizes of what cannot shrink."""
    return all(isinstance(leaf, Size) and _constant(leaf, labels) is not None for leaf in leaves(expression))


def _link(one: Count, other: Count, reason: str, labels: Labels) -> None:
    """The two counts stay equal. A label that is repeated in a slot counts as often."""
    left = np.repeat(one.labels, one.times * other.among)
    right = np.repeat(other.labels, other.times * one.among)
    if len(left) == len(right) and not np.array_equal(left, right):
        labels.link((left, right), reason)


def _value(count: Count) -> int:
    return len(count.labels) * count.times // count.among


def _count_of_sizes(expression: Expression, labels: Labels) -> Count | None:
    """The count that an expression of sizes, and of attributes that have to stay, stands for."""
    if any(isinstance(leaf, Attribute) and _constant(leaf, labels) is None for leaf in leaves(expression)):
        return None
    return _count(expression, labels)


def _count(expression: Expression | int, labels: Labels) -> Count | None:
    """What is counted by an expression; None for a constant, or where it is no multiple of one counted thing."""
    if isinstance(expression, int):
        return None
    if isinstance(expression, Size):
        for block in labels.layouts.get(expression.value, ()):
            if expression.dim in block.dims:
                return Count(labels.lift(block, block.dims.index(expression.dim)))
        return None
    if isinstance(expression, Attribute):
        return _count_of_attribute(expression, labels)
    for mine, other in ((expression.left, expression.right), (expression.right, expression.left)):
        factor, count = _constant(other, labels), _count(mine, labels)
        if factor is None or count is None:
            continue
        if expression.op == "*":
            return Count(count.labels, count.times * factor, count.among)
        if expression.op == "//" and mine is expression.left and _value(count) % factor == 0:
            return Count(count.labels, count.times, count.among * factor)
    return None


def _count_of_attribute(attribute: Attribute, labels: Labels) -> Count | None:
    """What the needs say an attribute counts, by itself or times a constant (`batch * self.heads`)."""
    for need in labels.needs:
        if need.labels is None:
            continue
        if need.expression == attribute:
            return Count(need.labels)
        if isinstance(need.expression, Arithmetic) and need.expression.op == "*":
            left, right = need.expression.left, need.expression.right
            for mine, other in ((left, right), (right, left)):
                factor = _constant(other, labels)
                if mine == attribute and factor is not None:
                    return Count(need.labels, 1, factor)
    return None


def _constant(expression: Expression | int, labels: Labels) -> int | None:
    """The value of what cannot shrink: a plain int, a size that carries no labels, an attribute that has to stay."""
    if isinstance(expression, int):
        return int(expression)
    if isinstance(expression, Attribute):
        stays = any(need.labels is None and {*leaves(need.expression)} == {expression} for need in labels.needs)
        return labels.attributes[expression] if stays else None
    if isinstance(expression, Size):
        carried = any(expression.dim in block.dims for block in labels.layouts.get(expression.value, ()))
        return None if carried else labels.sizes[expression.value][expression.dim]
    return None


def _name(expression: Expression) -> str:
    return str(expression) if isinstance(expression, Attribute) else "one expression"
