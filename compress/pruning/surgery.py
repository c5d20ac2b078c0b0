"""A plan in, a smaller copy of the model out: pure index selection, and the modules' integers brought into line."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CompressError
from ..graph.blocks import StandIn
from ..graph.copies import copy_model
from ..graph.graph import DependencyGraph
from ..graph.ints import Attribute, Size, evaluate, leaves
from ..graph.labels import Array, Layout, Need
from ..graph.scales import Scale
from ..graph.uncollected import uncollected
from ..graph.walk import named_modules, named_tensors
from .plan import Plan


class Conflict(Exception):
    """An integer of the code cannot follow the plan. labels: what must stay for it; reason: one sentence."""

    def __init__(self, labels: Array, reason: str) -> None:
        super().__init__(reason)
        self.labels = labels
        self.reason = reason


@dataclass(frozen=True)
class Edits:
    """Everything that turns the original model into the cut one, as plain data.

    select: parameter or buffer -> {dim: (k,) int64 positions that survive}. attributes: module path -> {name: value},
    the integers (or tuples, lists, dicts of integers) that change. shapes: of the original's parameters and buffers.
    replaced: module path -> what stands there where a residual block is gone; its parameters are gone with it.
    scale: parameter -> {dim: (k,) what each position that survives is multiplied with}, where attention divides by
    the root of a width that shrinks.
    """

    select: Mapping[str, Mapping[int, np.ndarray]]
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    replaced: Mapping[str, StandIn] = field(default_factory=dict)
    scale: Mapping[str, Mapping[int, np.ndarray]] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether nothing changes."""
        return not (self.select or self.attributes or self.replaced)

    def of_rows(self, name: str) -> dict[int, np.ndarray]:
        """What a layer's outputs are multiplied with, as `scaled` takes it. name: its weight's."""
        factors = self.scale.get(name, {}).get(0)
        return {} if factors is None else {0: factors}

    def gone(self, name: str) -> bool:
        """Whether the module at this path, or the parameter or buffer of this name, is in a module that is replaced."""
        parts = name.split(".")
        return any(".".join(parts[:k]) in self.replaced for k in range(1, len(parts)))


def edits(graph: DependencyGraph, plan: Plan, model: nn.Module) -> Edits:
    """What a plan means for a model: which indices survive, which integers change.

    Raises Conflict where the code's integers cannot follow.
    """
    alive = graph.alive_labels(graph.alive(plan))
    select: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    for (name, dim), place in graph.places.items():
        survives = alive[place]
        if not survives.all():
            select[name][dim] = np.flatnonzero(survives)
    attributes = _solve(graph, alive)
    values: dict[str, dict[str, Any]] = defaultdict(dict)
    modules = named_modules(model)
    for attribute, value in attributes.items():
        mine = values[attribute.module]
        if attribute.key is None:
            mine[attribute.name] = value
        else:
            whole = mine.get(attribute.name, getattr(modules[attribute.module], attribute.name))
            mine[attribute.name] = _replace_item(whole, attribute.key, value)
    for path, channels in _channels_of_bare_norms(graph, modules, alive).items():
        values[path]["num_features"] = channels
    return Edits(dict(select), dict(values), dict(graph.shapes), scale=_factors(graph, alive, select))


def narrowed(graph: DependencyGraph, alive: Array) -> list[tuple[Scale, float]]:
    """The queries of attention that become narrower, and what makes up for it: the root of how much is left."""
    found = []
    for scale in graph.scales:
        last = len(scale.shape) - 1
        left = surviving_size(scale.shape, scale.layout, last, alive)
        if 0 < left < scale.shape[last]:
            found.append((scale, (left / scale.shape[last]) ** 0.5))
    return found


def _factors(
    graph: DependencyGraph, alive: Array, select: Mapping[str, Mapping[int, np.ndarray]]
) -> dict[str, dict[int, np.ndarray]]:
    """What `Edits.scale` holds."""
    found: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    for scale, factor in narrowed(graph, alive):
        for (name, dim), positions in scale.places.items():
            kept = select.get(name, {}).get(dim, np.arange(graph.shapes[name][dim]))
            mine = found[name].setdefault(dim, np.ones(len(kept)))
            mine[np.isin(kept, positions)] *= factor
    return dict(found)


def _channels_of_bare_norms(graph: DependencyGraph, modules: Mapping[str, nn.Module], alive: Array) -> dict[str, int]:
    """Norms without parameters or statistics have no tensor that tells how many channels are left: path -> how many."""
    found = {}
    for step in graph.steps:
        module = modules.get(step.module)
        if isinstance(module, nn.modules.batchnorm._NormBase) and not module.affine and module.running_mean is None:
            shape, layout = step.outs[0]
            for dim in (1, 0):  # with and without a batch
                index = surviving_index(shape, layout, dim, alive) if dim < len(shape) else None
                if index is not None and shape[dim] == module.num_features:
                    found[step.module] = len(index)
                    break
    return found


def _replace_item(whole: Any, key: Any, value: int) -> Any:
    changed = dict(whole) if isinstance(whole, dict) else list(whole)
    changed[key] = value
    return tuple(changed) if isinstance(whole, tuple) else changed


def _solve(graph: DependencyGraph, alive: Array) -> dict[Attribute, int]:
    """New values of the attributes, so that every expression the code wrote evaluates to what survives."""

    def target(need: Need) -> int:
        return need.value if need.labels is None else int(alive[need.labels].sum())

    solved: dict[Attribute, int] = {}

    def lookup(leaf: Attribute | Size) -> int:
        if isinstance(leaf, Attribute):
            return solved.get(leaf, graph.attributes[leaf])
        shape, layout = graph.sizes[leaf.value]
        return surviving_size(shape, layout, leaf.dim, alive)

    unmet = [need for need in graph.needs if _value(need, lookup) != target(need)]
    users: dict[Attribute, list[Need]] = defaultdict(list)
    for need in graph.needs:
        for leaf in leaves(need.expression):
            if isinstance(leaf, Attribute):
                users[leaf].append(need)
    for need in unmet:
        if _value(need, lookup) == target(need):
            continue
        for leaf in dict.fromkeys(leaf for leaf in leaves(need.expression) if isinstance(leaf, Attribute)):
            if leaf not in solved and _fit(leaf, need, target(need), solved, graph, lookup):
                break
        else:
            raise Conflict(
                _in_the_way(need, graph, alive),
                f"{need.where} writes a size that cannot become {target(need)} by changing an attribute",
            )
    for need in graph.needs:
        if _value(need, lookup) != target(need):
            raise Conflict(
                _in_the_way(need, graph, alive),
                f"{need.where} writes the size {need.value} with an attribute that has other users",
            )
    return {leaf: value for leaf, value in solved.items() if value != graph.attributes[leaf]}


def _in_the_way(need: Need, graph: DependencyGraph, alive: Array) -> Array:
    """What is cut and could stay for a need: what it counts, the sizes it is made of, or what its attributes count."""
    written = set(leaves(need.expression))
    read = [
        block.labels.ravel()
        for leaf in written
        if isinstance(leaf, Size)
        for block in graph.sizes[leaf.value][1]
        if leaf.dim in block.dims
    ]
    shared = [
        other.labels for other in graph.needs if other.labels is not None and written & {*leaves(other.expression)}
    ]
    none = np.zeros(0, dtype=np.int64)
    for arrays in ([] if need.labels is None else [need.labels], read, shared):
        found = np.concatenate([none, *arrays])
        if not alive[found].all():
            return found
    return none


def _value(need: Need, lookup: Any) -> int | None:
    try:
        return evaluate(need.expression, lookup)
    except ZeroDivisionError:
        return None


def _fit(
    leaf: Attribute, need: Need, target: int, solved: dict[Attribute, int], graph: DependencyGraph, lookup: Any
) -> bool:
    """Find the value of one attribute that meets one need; the smallest change first."""
    before = graph.attributes[leaf]
    first, most = before * target // max(need.value, 1), max(before, target)
    for distance in range(max(first, most - first) + 1):
        for value in sorted({first - distance, first + distance}):
            if 0 <= value <= most:
                solved[leaf] = value
                if _value(need, lookup) == target:
                    return True
    del solved[leaf]
    return False


def surviving_size(shape: tuple[int, ...], layout: Layout, dim: int, alive: Array) -> int:
    """The size of one dimension of a value after the cut."""
    index = surviving_index(shape, layout, dim, alive)
    return shape[dim] if index is None else len(index)


def surviving_index(shape: tuple[int, ...], layout: Layout, dim: int, alive: Array) -> np.ndarray | None:
    """Which positions of one dimension of a value survive, or None: all. Of a block: the rows that are not empty."""
    for block in layout:
        if dim in block.dims:
            survives = alive[block.labels]
            axis = block.dims.index(dim)
            others = tuple(i for i in range(survives.ndim) if i != axis)
            return np.flatnonzero(survives.any(axis=others) if others else survives)
    return None


@uncollected
def cut(model: nn.Module, edits: Edits) -> nn.Module:
    """A new, smaller model: the given one is neither changed nor shared with.

    Raises CompressError where the model does not have the parameters that the edits name, or other shapes.
    """
    tensors = named_tensors(model)
    memo: dict[int, Any] = {}
    for name in dict.fromkeys((*edits.select, *edits.scale)):
        if name not in tensors:
            raise CompressError(f"{type(model).__name__} has no parameter or buffer '{name}', which the edits cut")
        tensor = tensors[name]
        expected = edits.shapes.get(name)
        if expected is not None and tuple(tensor.shape) != tuple(expected):
            raise CompressError(
                f"'{name}' has the shape {tuple(tensor.shape)}; the edits were made for {tuple(expected)}"
            )
        smaller = scaled(select(tensor, edits.select.get(name, {})), edits.scale.get(name, {}))
        if isinstance(tensor, nn.Parameter):
            smaller = nn.Parameter(smaller, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = smaller
    whole = named_modules(model) if edits.replaced else {}
    for path, stand_in in edits.replaced.items():
        if path not in whole:
            raise CompressError(f"{type(model).__name__} has no module '{path}', which the edits replace")
        memo[id(whole[path])] = stand_in.make(whole[path].training)
    new = copy_model(model, memo, _attribute)
    modules = named_modules(new)
    for path, values in edits.attributes.items():
        for name, value in values.items():
            setattr(modules[path], name, value)
    for module in modules.values():
        if module._parameters or module._buffers or module._modules:
            bring_into_line(module)
    return new


def _attribute(tensor: Tensor) -> Tensor:
    """A copy; without its history, where a hook computes it anew in each forward, as old weight norm does."""
    return copy.deepcopy(tensor) if tensor.is_leaf else tensor.detach().clone()


def select(tensor: Tensor, by_dim: Mapping[int, np.ndarray]) -> Tensor:
    """The elements whose positions survive in every dimension; a new tensor in the same memory format and dtype."""
    smaller = tensor.detach()
    for dim, index in by_dim.items():
        smaller = smaller.index_select(dim, torch.as_tensor(index, device=tensor.device))
    if tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last):
        smaller = smaller.contiguous(memory_format=torch.channels_last)
    return smaller


def scaled(tensor: Tensor, by_dim: Mapping[int, np.ndarray]) -> Tensor:
    """What is left of a parameter times its factors along each dimension; the tensor itself where there are none."""
    for dim, factors in by_dim.items():
        along = torch.as_tensor(factors, dtype=tensor.dtype, device=tensor.device)
        tensor = tensor.detach() * along.view(-1, *(1,) * (tensor.dim() - dim - 1))
    return tensor


GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}
"""Rows of a recurrent layer's weights for each element of its hidden state."""


def bring_into_line(module: nn.Module) -> None:
    """Set the integers of known layer types to their parameters' shapes; they describe, no forward depends on them
    (`normalized_shape` of layer and RMS norm excepted)."""
    weight = getattr(module, "weight_v", getattr(module, "weight", None))
    if isinstance(module, nn.modules.conv._ConvNd) and isinstance(weight, Tensor):
        wide, narrow = weight.shape[0], weight.shape[1] * module.groups
        module.out_channels, module.in_channels = (
            (weight.shape[1] * module.groups, wide) if module.transposed else (wide, narrow)
        )
    elif isinstance(module, nn.Linear) and isinstance(weight, Tensor):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, (nn.modules.batchnorm._NormBase,)):
        first: Any = next((t for t in (weight, getattr(module, "running_mean", None)) if isinstance(t, Tensor)), None)
        if first is not None:
            module.num_features = first.shape[0]
    elif isinstance(module, nn.GroupNorm) and isinstance(weight, Tensor):
        module.num_channels = weight.shape[0]
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm) and isinstance(weight, Tensor):
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.RNNBase):
        rows, module.input_size = module.get_parameter("weight_ih_l0").shape
        module.hidden_size = rows // GATES[module.mode]
        module.proj_size = module.get_parameter("weight_hh_l0").shape[1] if module.proj_size else 0
    elif isinstance(module, nn.RNNCellBase):
        module.input_size, module.hidden_size = module.weight_ih.shape[1], module.weight_hh.shape[1]
    elif isinstance(module, nn.MultiheadAttention):
        module.embed_dim = module.out_proj.weight.shape[0]
        module.head_dim = module.embed_dim // module.num_heads
        packed = module.in_proj_weight is not None
        module.kdim = module.embed_dim if packed else module.k_proj_weight.shape[1]
        module.vdim = module.embed_dim if packed else module.v_proj_weight.shape[1]
    elif isinstance(module, nn.Embedding) and isinstance(weight, Tensor):
        module.num_embeddings, module.embedding_dim = weight.shape
