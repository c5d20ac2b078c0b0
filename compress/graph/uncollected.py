"""A function that makes many objects in, the same without the garbage collector looking through them meanwhile out."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def uncollected(function: Callable[P, T]) -> Callable[P, T]:
    """The function with garbage collection put off until it has returned, if it was on.

    All that a trace makes it keeps, and nothing of it is large; looking for garbage in it takes up to a third of the
    time. What hangs together in circles and holds a lot of memory must not be made in such a function.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        if not gc.isenabled():
            return function(*args, **kwargs)
        gc.disable()
        try:
            return function(*args, **kwargs)
        finally:
            gc.enable()

    return run
