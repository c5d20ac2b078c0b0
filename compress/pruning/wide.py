"""Code that writes a type out (`x.float()`, a grid made as float32) runs in float64 all the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..graph.tape import DispatchMode

NARROW = (torch.float32, torch.float16, torch.bfloat16)


class InFloat64(DispatchMode):
    """Every narrower floating-point tensor that an op takes, and every such type it is asked for, becomes float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first, rest = args[:1], args[1:]
        target = first if func._schema.is_mutable else _widened(first)  # what is written to stays where it is
        return func(*target, *_widened(rest), **_widened(kwargs or {}))


def _widened(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.double() if tree.dtype in NARROW else tree
    if isinstance(tree, torch.dtype):
        return torch.float64 if tree in NARROW else tree
    if isinstance(tree, dict):
        return {key: _widened(item) for key, item in tree.items()}
    return type(tree)(_widened(item) for item in tree) if type(tree) in (list, tuple) else tree
