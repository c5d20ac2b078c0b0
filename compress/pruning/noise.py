"""A graph in, noise like its example inputs out - smaller, where the network treats small images as large ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..graph.graph import DependencyGraph, Step
from ..graph.inputs import collect_tensors, map_tensors
from ..graph.tape import DispatchMode, op_name

SMALL = 64
"""Height and width of a small image, pixels: two positions are left where a network divides by 32."""


class NotAsRecorded(Exception):
    """On small images the network does something else than the graph was built from."""


class Noise:
    """What the two networks of a verification are run on: uniform in [0, 1) where an example input is floating point,
    the example itself where it is not.

    small: images and volumes, (N, C, [D,] H, W), are no larger than SMALL. Which channel is wired to which does not
    depend on the size of an image, but the time does; the first run has to make the recorded calls.
    """

    def __init__(self, graph: DependencyGraph, small: bool) -> None:
        self.graph, self.small = graph, small
        self.known = not small

    def run(self, model: Callable[..., list[Tensor]], dtype: torch.dtype | None) -> tuple[Any, list[Tensor]]:
        """The inputs in this type (None: in the examples' own), and what the whole network, masked, makes of them.

        model: called with inputs and, if they have yet to prove themselves, `watch`, a mode that is to see its calls.
        Raises NotAsRecorded, after which a network that keeps things in its forward is not to be used again.
        """
        inputs = self._inputs(dtype)
        if self.known:
            return inputs, model(inputs)
        watch = AsRecorded(self.graph)
        try:
            outputs = model(inputs, watch=watch)
        except Exception as error:  # whatever it is, the examples' own sizes will show whether it is theirs too
            raise NotAsRecorded from error
        if not watch.passed:
            raise NotAsRecorded
        self.known = True
        return inputs, outputs

    def _inputs(self, dtype: torch.dtype | None) -> Any:
        generator = torch.Generator().manual_seed(1)

        def like(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor.clone()
            shape = small_shape(tensor) if self.small else tensor.shape
            drawn = torch.rand(shape, generator=generator, dtype=torch.float64)
            return drawn.to(tensor.device, dtype or tensor.dtype)

        return map_tensors(self.graph.example_inputs, like)


def can_be_small(graph: DependencyGraph) -> bool:
    """Whether there are smaller images to try. Where values can decide what is run, they must be as they are."""
    shapes = [(small_shape(tensor), tuple(tensor.shape)) for tensor in collect_tensors(graph.example_inputs)]
    return graph.on_meta and any(small != whole for small, whole in shapes)


def small_shape(tensor: Tensor) -> tuple[int, ...]:
    """The shape with every dimension behind the first two at most SMALL, if these are an image's or a volume's."""
    shape = tuple(tensor.shape)
    if not tensor.is_floating_point() or len(shape) not in (4, 5):
        return shape
    return (*shape[:2], *(min(n, SMALL) for n in shape[2:]))


class AsRecorded(DispatchMode):
    """Watches whether a run makes the calls that the graph was built from, one by one.

    A dimension may be smaller than it was recorded, but not down to one position, where a softmax or a norm would hide
    what enters it.
    """

    def __init__(self, graph: DependencyGraph) -> None:
        super().__init__()
        self.left: list[Step] = list(reversed(graph.steps))
        self.same = True

    @property
    def passed(self) -> bool:
        return self.same and not self.left

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.same:
            self.same = bool(self.left) and _is_like(self.left.pop(), op_name(func), result)
        return result


def _is_like(step: Step, name: str, result: Any) -> bool:
    made = [result] if isinstance(result, Tensor) else collect_tensors(result)
    if step.op != name or len(made) != len(step.outs):
        return False
    return all(
        tensor.dim() == len(before) and not any(n == 1 and b > 1 for n, b in zip(tensor.shape, before, strict=True))
        for tensor, (before, _) in zip(made, step.outs, strict=True)
    )
