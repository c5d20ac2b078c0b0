"""What removed channels used to add, given back: a cut network in, the same with corrected constants out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..graph.graph import DependencyGraph
from ..graph.inputs import call_model, map_tensors
from ..graph.shell import named_tensors
from ..graph.tape import plain_math
from ..hookspecs import hookimpl
from ..options import Plugin
from .plan import Plan
from .replay import copy_with
from .surgery import Edits

CONVOLUTIONS = {"conv1d": F.conv1d, "conv2d": F.conv2d, "conv3d": F.conv3d}


class Compensation(Plugin):
    """Corrects a cut network for what the removed channels contributed. Hook: `compress_register_compensations`."""

    def compensate(
        self, original: nn.Module, cut: nn.Module, graph: DependencyGraph, plan: Plan, edits: Edits
    ) -> nn.Module:
        """The corrected network; `cut` may be changed and returned, `original` may not be touched.

        edits: what turned the original into `cut`; a parameter that did not exist (a bias) may be added to a layer.
        """
        raise NotImplementedError


class Fold(Compensation):
    """A removed channel with gamma near zero still gave act(beta): that constant goes into what follows.

    For each convolution or linear layer with removed inputs c of constant value v_c, the sum over c of W[:, c] * v_c
    (over the whole kernel) is taken off the next BatchNorm's running mean where its output goes there and nowhere else,
    and added to the layer's bias otherwise. Exact away from zero-padded borders. In training mode a BatchNorm removes
    the constant by itself, so the running mean is right in both modes. The value v_c is read off the network, run with
    the removed gammas at zero, so it has passed every activation, pool, upsample, concat and shortcut on the way.
    """

    name = "fold"

    def compensate(
        self, original: nn.Module, cut: nn.Module, graph: DependencyGraph, plan: Plan, edits: Edits
    ) -> nn.Module:
        """Fold the constants of the removed channels into `cut`, in place, and return it."""
        quiet = silence(original, graph, plan)
        first, second = (_watch(quiet, graph.example_inputs, edits, seed) for seed in (0, 1))
        modules = dict(cut.named_modules())
        with torch.no_grad():
            for name, consumer in first.consumers.items():
                value = consumer.settled(second.consumers.get(name))
                if value is None:
                    continue
                shift = consumer.response(value)  # (O,), before the cut
                norm = first.norm_after(consumer)
                path = norm or name.rpartition(".")[0]
                target = f"{path}.running_mean" if norm else name
                kept = edits.select.get(target, {}).get(0)
                if kept is not None:
                    shift = shift[torch.as_tensor(kept, device=shift.device)]
                _add(modules[path], shift, to_mean=norm is not None)
        return cut


def silence(model: nn.Module, graph: DependencyGraph, plan: Plan) -> nn.Module:
    """A copy in which every removed channel is a constant: its norms' scales are zero, or (no norm) its weights."""
    tensors = named_tensors(model)
    silenced: dict[str, Tensor] = {}
    for name, removed in plan.removed.items():
        members = [m for m in graph[name].members if not m.buffer]
        scales = [m for m in members if m.role == "norm" and m.name.endswith("weight")]
        for member in scales or [m for m in members if m.role == "out"]:
            gone = torch.as_tensor(member.index[np.isin(member.unit, removed)])
            tensor = silenced.setdefault(member.name, tensors[member.name].detach().clone())
            tensor.index_fill_(member.dim, gone.to(tensor.device), 0)
    return copy_with(model, silenced)


@dataclass
class _Consumer:
    """A convolution or linear layer with removed inputs. inputs: (C,) medians of what came in, NaN where it varies."""

    weight: Tensor
    call: str
    options: dict[str, Any]
    removed: Tensor  # (C,) bool, of the layer's inputs
    inputs: Tensor
    others: int = 0  # uses of the output that are no BatchNorm
    norm: str | None = None

    def settled(self, again: _Consumer | None) -> Tensor | None:
        """(C,) the constants of removed inputs, zero elsewhere; one that differs between two runs is no constant."""
        if again is None:
            return None
        gap = (self.inputs - again.inputs).abs()
        constant = self.removed & (gap <= 1e-5 * (1 + self.inputs.abs()))
        value = torch.where(constant, self.inputs, torch.zeros_like(self.inputs))
        return value if bool(value.any()) else None

    def response(self, value: Tensor) -> Tensor:
        """(C,) constant inputs -> (O,) what the layer adds for them, borders aside."""
        if self.call == "linear":
            return F.linear(value, self.weight)
        dilation = self.options["dilation"]
        spatial = self.weight.dim() - 2
        dilation = (dilation,) * spatial if isinstance(dilation, int) else tuple(dilation)
        extent = [d * (k - 1) + 1 for d, k in zip(dilation, self.weight.shape[2:], strict=True)]
        image = value.reshape(1, -1, *[1] * spatial).expand(1, -1, *extent)  # (1, C, kernel extent)
        out = CONVOLUTIONS[self.call](image, self.weight, None, 1, 0, dilation, self.options["groups"])
        return out.flatten()


@dataclass
class _Watched:
    consumers: dict[str, _Consumer] = field(default_factory=dict)

    def norm_after(self, consumer: _Consumer) -> str | None:
        """The BatchNorm, by module path, to which a layer's output goes and nowhere else."""
        return consumer.norm if consumer.others == 0 else None


class _Watch(TorchFunctionMode):
    """Reads what comes into every convolution and linear layer that loses inputs, and where its output goes."""

    def __init__(self, model: nn.Module, edits: Edits) -> None:
        super().__init__()
        self.edits = edits
        self.names = {id(t): n for n, t in model.named_parameters()}
        self.norms = {
            id(m.running_mean): path
            for path, m in model.named_modules()
            if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None
        }
        self.found = _Watched()
        self.by_output: dict[int, _Consumer] = {}
        self.alive: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        with torch._C.DisableTorchFunction():
            self._note_uses(name, args, kwargs)
        result = func(*args, **kwargs)
        if name in CONVOLUTIONS or name == "linear":
            with torch._C.DisableTorchFunction():
                self._note_layer(name, args, kwargs, result)
        return result

    def _note_uses(self, name: str, args: Any, kwargs: Any) -> None:
        if name in ("__get__", "size", "dim", "batch_norm"):
            if name == "batch_norm" and id(args[0]) in self.by_output:
                consumer = self.by_output[id(args[0])]
                path = self.norms.get(id(args[1] if len(args) > 1 else kwargs.get("running_mean")))
                consumer.norm, consumer.others = (
                    path,
                    consumer.others + (path is None or consumer.norm not in (None, path)),
                )
            return
        for item in _tensors_in([*args, *kwargs.values()]):
            if id(item) in self.by_output:
                self.by_output[id(item)].others += 1

    def _note_layer(self, name: str, args: Any, kwargs: Any, result: Tensor) -> None:
        self.alive.append(result)  # so that no id is used twice
        x, weight = args[0], args[1] if len(args) > 1 else kwargs["weight"]
        parameter = self.names.get(id(weight))
        cut = self.edits.select.get(parameter or "", {}).get(1)
        if parameter is None or cut is None:
            return
        grouped = {"groups": 1, "dilation": 1} if name == "linear" else _options(args, kwargs)
        groups = grouped["groups"]
        here = torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device)
        here[torch.as_tensor(cut, device=weight.device)] = False
        removed = here.repeat(groups)
        channel = x.dim() - 1 if name == "linear" else x.dim() - (weight.dim() - 1)
        inputs = x.movedim(channel, 0).flatten(1).median(dim=1).values  # (C,)
        consumer = _Consumer(weight, name, grouped, removed, inputs)
        if parameter in self.found.consumers:  # called twice with other constants: leave it alone
            consumer.inputs = torch.full_like(inputs, float("nan"))
        self.found.consumers[parameter] = consumer
        self.by_output[id(result)] = consumer


def _options(args: Any, kwargs: Any) -> dict[str, Any]:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return {"dilation": given.get("dilation", 1), "groups": given.get("groups", 1)}


def _tensors_in(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, (list, tuple)):
        return [t for item in tree for t in _tensors_in(item)]
    return []


def _watch(model: nn.Module, example_inputs: Any, edits: Edits, seed: int) -> _Watched:
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return torch.rand(tensor.shape, generator=generator).to(tensor.device, tensor.dtype)

    watch = _Watch(model, edits)
    with plain_math(), watch:
        call_model(model, map_tensors(example_inputs, noise))
    return watch.found


def _add(layer: nn.Module, shift: Tensor, to_mean: bool) -> None:
    if to_mean:
        mean = layer.running_mean
        assert isinstance(mean, Tensor)
        mean.sub_(shift.to(mean.dtype))
    elif isinstance(layer.bias, Tensor):
        layer.bias.add_(shift.to(layer.bias.dtype))
    else:
        weight = layer.weight
        assert isinstance(weight, nn.Parameter)
        layer.bias = nn.Parameter(shift.to(weight.dtype).clone(), requires_grad=weight.requires_grad)


def make_compensation(chosen: str | Compensation) -> Compensation:
    """A registered compensation by name, or the object itself. Raises CompressError with the nearest name."""
    if isinstance(chosen, Compensation):
        return chosen
    from ..plugins import installed

    return installed().make("compensations", chosen)


@hookimpl
def compress_register_compensations() -> Sequence[type[Compensation]]:
    """The compensations that the core brings."""
    return [Fold]
