"""A running network in, where each layer's output goes out - so that a shift of it can be put where it belongs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .features import Layer, Watch
from .surgery import Edits, scaled


@dataclass
class Outputs:
    """Where the output of one layer goes. norm: a BatchNorm's path. others: how many uses there are besides."""

    norm: str | None = None
    others: int = 0
    calls: int = 0

    @property
    def only_norm(self) -> str | None:
        """The BatchNorm to which the output goes, and nowhere else."""
        return self.norm if self.others == 0 else None


class Follow(Watch):
    """A Watch that also notes what each seen layer's output enters; `seen` says which layers, by returning True.

    It is told of layers whose module has a bias, or could: elsewhere there is no place for a shift of the output.
    """

    def __init__(self, model: nn.Module, seen: Callable[[Layer, Tensor], bool | None]) -> None:
        super().__init__(model, self._keep)
        self.wanted = seen
        self.shiftable = {path for path, m in model.named_modules() if hasattr(m, "bias")}
        self.norms = {
            id(m.running_mean): path
            for path, m in model.named_modules()
            if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None
        }
        self.outputs: dict[str, Outputs] = {}
        self.by_output: dict[int, Outputs] = {}
        self.alive: list[Tensor] = []  # so that no id is used twice

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():
            self._note(getattr(func, "__name__", ""), args, kwargs or {})
        return super().__torch_function__(func, types, args, kwargs)

    def _keep(self, layer: Layer, output: Tensor) -> None:
        if layer.name.rpartition(".")[0] in self.shiftable and self.wanted(layer, output):
            mine = self.outputs.setdefault(layer.name, Outputs())
            mine.calls += 1
            self.by_output[id(output)] = mine
            self.alive.append(output)

    def _note(self, name: str, args: Any, kwargs: Any) -> None:
        if name in ("__get__", "size", "dim"):
            return
        if name == "batch_norm":
            mine = self.by_output.get(id(args[0]))
            if mine is not None:
                path = self.norms.get(id(args[1] if len(args) > 1 else kwargs.get("running_mean")))
                mine.others += path is None or mine.norm not in (None, path)
                mine.norm = path
            return
        for item in _tensors_in([*args, *kwargs.values()]):
            if id(item) in self.by_output:
                self.by_output[id(item)].others += 1


def _tensors_in(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, (list, tuple)):
        return [t for item in tree for t in _tensors_in(item)]
    return []


def shift_output(cut: nn.Module, edits: Edits, name: str, shift: Tensor, norm: str | None) -> None:
    """Add a constant to each output channel of a layer of a cut network, in place.

    shift: (O,), of the channels before the cut. name: the layer's weight. norm: the BatchNorm that alone reads the
    output: its running mean takes the shift, so that in training mode, where a norm removes constants by itself, the
    network stays right; else the layer's bias does, which is made where there is none.
    """
    path = norm or name.rpartition(".")[0]
    kept = edits.select.get(f"{path}.running_mean" if norm else name, {}).get(0)
    if kept is not None:
        shift = shift[torch.as_tensor(kept, device=shift.device)]
    if not norm:
        shift = scaled(shift, edits.of_rows(name))
    layer: Any = cut.get_submodule(path)
    with torch.no_grad():
        if norm:
            layer.running_mean.sub_(shift.to(layer.running_mean.dtype))
        elif isinstance(layer.bias, Tensor):
            layer.bias.add_(shift.to(layer.bias.dtype))
        else:
            weight = layer.weight
            layer.bias = nn.Parameter(shift.to(weight.dtype).clone(), requires_grad=weight.requires_grad)
