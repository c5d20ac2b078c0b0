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

    A trace or a copy of a network is many small objects; to look for garbage among them takes up to a third of the
    time. What is no longer referred to is freed all the same. Such a function must not go on making what holds a lot
    of memory and refers to itself.
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
