"""Integers that remember where they came from: a module's attribute, a tensor's size, or arithmetic on those.

While the shell of a model runs, its integer attributes and every size that its code reads are `TracedInt`s. The
arguments of view, split and slice then say which attribute (or expression of attributes) they used, so that surgery
changes exactly those and nothing that merely has the same value. An integer that leaves the integers (`d ** -0.5`,
`c / 2`, `math.sqrt(d)`) is noted as used by value: it must not change. `2.0 * c` escapes Python's hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple


class Attribute(NamedTuple):
    """An integer attribute of a module: `key` is None, or the position in a list, tuple or dict attribute."""

    module: str
    name: str
    key: Any = None

    def __str__(self) -> str:
        where = f"{self.module}.{self.name}" if self.module else self.name
        return where if self.key is None else f"{where}[{self.key!r}]"


class Size(NamedTuple):
    """The size of dimension `dim` of the recorded value `value`."""

    value: int
    dim: int


@dataclass(frozen=True)
class Arithmetic:
    """`left op right`; an operand is an expression or a plain int."""

    op: str
    left: Any
    right: Any


Expression = Attribute | Size | Arithmetic

OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
}


by_value: ContextVar[Callable[[Expression], None] | None] = ContextVar("by_value", default=None)
"""Told, while a shell runs, of every expression that the code uses as a number."""


def _note(traced: TracedInt) -> None:
    tell = by_value.get()
    if tell is not None:
        tell(traced.origin)


def _expression(value: Any) -> Any:
    return value.origin if isinstance(value, TracedInt) else value


def _arithmetic(op: str, swapped: bool = False) -> Any:
    def method(self: TracedInt, other: Any) -> Any:
        if not isinstance(other, int) or isinstance(other, bool):
            if isinstance(other, float):
                _note(self)
            return getattr(int, f"__{'r' if swapped else ''}{_NAMES[op]}__")(int(self), other)
        left, right = (other, self) if swapped else (self, other)
        return TracedInt(OPERATIONS[op](int(left), int(right)), Arithmetic(op, _expression(left), _expression(right)))

    return method


_NAMES = {"+": "add", "-": "sub", "*": "mul", "//": "floordiv", "%": "mod"}


def _leaving(name: str) -> Any:
    def method(self: TracedInt, *others: Any) -> Any:
        for traced in (self, *others):
            if isinstance(traced, TracedInt):
                _note(traced)
        return getattr(int, name)(int(self), *others)

    return method


class TracedInt(int):
    """An int with an `origin`. Everything else about it is the plain int's."""

    origin: Expression

    def __new__(cls, value: int, origin: Expression) -> TracedInt:
        traced = super().__new__(cls, value)
        traced.origin = origin
        return traced

    __add__, __radd__ = _arithmetic("+"), _arithmetic("+", swapped=True)
    __sub__, __rsub__ = _arithmetic("-"), _arithmetic("-", swapped=True)
    __mul__, __rmul__ = _arithmetic("*"), _arithmetic("*", swapped=True)
    __floordiv__, __rfloordiv__ = _arithmetic("//"), _arithmetic("//", swapped=True)
    __mod__, __rmod__ = _arithmetic("%"), _arithmetic("%", swapped=True)

    __truediv__, __rtruediv__ = _leaving("__truediv__"), _leaving("__rtruediv__")
    __pow__, __rpow__ = _leaving("__pow__"), _leaving("__rpow__")
    __float__ = _leaving("__float__")

    def __neg__(self) -> TracedInt:
        return TracedInt(-int(self), Arithmetic("-", 0, self.origin))

    def __deepcopy__(self, memo: dict[int, Any]) -> TracedInt:
        return self

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return int, (int(self),)


def evaluate(expression: Any, lookup: Callable[[Attribute | Size], int]) -> int:
    """The expression's value where `lookup` gives its leaves'. Raises ZeroDivisionError as the arithmetic does."""
    if isinstance(expression, Arithmetic):
        return OPERATIONS[expression.op](evaluate(expression.left, lookup), evaluate(expression.right, lookup))
    return int(expression) if isinstance(expression, int) else lookup(expression)


def leaves(expression: Any) -> Iterator[Attribute | Size]:
    """The attributes and sizes that an expression is made of."""
    if isinstance(expression, Arithmetic):
        yield from leaves(expression.left)
        yield from leaves(expression.right)
    elif not isinstance(expression, int):
        yield expression
