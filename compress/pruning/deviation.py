"""A network, what was cut from it and some inputs in, how far from the whole network each layer ends, out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import CompressError
from ..graph.inputs import call_model, collect_tensors
from ..graph.tape import plain_math
from .masked import copy_with
from .points import Kept
from .shift import Follow

if TYPE_CHECKING:
    from ..graph.graph import DependencyGraph
    from .apply import Pruned


def deviations(model: nn.Module, graph: DependencyGraph, pruned: Pruned, batches: Iterable[Any]) -> dict[str, float]:
    """How far the outputs of each convolution and linear layer of a cut network are from those of the whole one.

        |y - y'| / |y|, over the channels that are left, all positions and all batches; |.| is the Euclidean norm

    y is taken behind the BatchNorm that alone reads the layer, where there is one: a compensation may put into it what
    the layer itself no longer gives. Everything before a layer counts as well, so the last ones say what the cut has
    come to. Both networks run in eval mode. Layers of residual blocks that are gone, and calls that are no module's,
    are left out.

    graph: of the model, as `apply` was given it. batches: each as the example inputs are. Returns module path of the
    layer -> deviation, in the order of the forward. Raises CompressError where there is no batch.
    """
    whole, small = copy_with(model, {}), copy_with(pruned.model, {})
    ends = _ends(whole, graph)
    there = dict(small.named_modules())
    ends = {layer: end for layer, end in ends.items() if end in there and end in graph.returned}
    kept = Kept(graph, pruned.edits)
    left = {end: kept.at(end) for end in ends.values()}
    apart: dict[str, float] = defaultdict(float)
    size: dict[str, float] = defaultdict(float)
    seen = False
    for batch in batches:
        seen = True
        wanted, found = (_outputs(network, set(ends.values()), batch) for network in (whole, small))
        for end, tensors in wanted.items():
            for y, mine, by_dim in zip(tensors, found.get(end, ()), left[end], strict=False):
                for dim, index in by_dim.items():
                    y = y.index_select(dim, torch.as_tensor(index, device=y.device))
                apart[end] += float((y.double() - mine.double()).square().sum())
                size[end] += float(y.double().square().sum())
    if not seen:
        raise CompressError("deviations: there is no batch to run the networks on")
    return {layer: _ratio(apart[end], size[end]) for layer, end in ends.items() if end in size}


def _ratio(apart: float, size: float) -> float:
    if size == 0:
        return 0.0 if apart == 0 else float("inf")
    return (apart / size) ** 0.5


@torch.no_grad()
def _ends(model: nn.Module, graph: DependencyGraph) -> dict[str, str]:
    """Path of each convolution or linear layer -> of the module behind which its outputs are compared."""
    follow = Follow(model, lambda layer, output: True)
    with plain_math(), follow:
        call_model(model, graph.example_inputs)
    paths = {name.rpartition(".")[0]: outputs.only_norm for name, outputs in follow.outputs.items()}
    return {path: norm or path for path, norm in paths.items()}


@torch.no_grad()
def _outputs(model: nn.Module, paths: set[str], batch: Any) -> Mapping[str, list[Tensor]]:
    """What the modules return in one forward, call by call."""
    found: dict[str, list[Tensor]] = defaultdict(list)

    def keep(path: str, module: nn.Module, inputs: Any, outputs: Any) -> None:
        found[path] += [tensor.clone() for tensor in collect_tensors(outputs)]  # what follows may work in place

    handles = [m.register_forward_hook(partial(keep, path)) for path, m in model.named_modules() if path in paths]
    try:
        call_model(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return found
