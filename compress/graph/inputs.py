"""Example inputs and outputs - tensors in tuples, lists, dicts and dataclasses - in, tensors out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn


def call_model(model: nn.Module, example_inputs: Any) -> Any:
    """Run the model on example inputs: a tuple is positional, a dict holds keywords, anything else is one argument."""
    if isinstance(example_inputs, tuple):
        return model(*example_inputs)
    if isinstance(example_inputs, dict):
        return model(**example_inputs)
    return model(example_inputs)


def map_tensors(tree: Any, change: Callable[[Tensor], Any]) -> Any:
    """The same tree of tuples, lists, dicts and dataclasses with every tensor changed."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_tensors(item, change) for item in tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)(map_tensors(item, change) for item in tree)
    if isinstance(tree, Mapping):
        return {key: map_tensors(item, change) for key, item in tree.items()}
    if hasattr(tree, "__dataclass_fields__") and not isinstance(tree, type):
        return {key: map_tensors(getattr(tree, key), change) for key in tree.__dataclass_fields__}
    return tree


def collect_tensors(tree: Any) -> list[Tensor]:
    """The tensors of a tree, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    found: list[Tensor] = []
    map_tensors(tree, found.append)
    return found
