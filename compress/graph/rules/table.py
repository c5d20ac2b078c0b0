"""One table from ATen op to the rule that speaks for it."""

from __future__ import annotations

from collections.abc import Callable

from ..labels import Labels, Layout
from ..tape import Call

Rule = Callable[[Call, Labels], "Layout | list[Layout]"]
"""A rule reads a call, tells Labels what must hold, and returns the layout of the output (or of each output)."""

RULES: dict[str, Rule] = {}


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Make the function the rule of these ATen ops (names without overload or trailing underscore)."""

    def register(function: Rule) -> Rule:
        for op in ops:
            if op in RULES:
                raise ValueError(f"op '{op}' has two rules: {RULES[op].__name__} and {function.__name__}")
            RULES[op] = function
        return function

    return register
