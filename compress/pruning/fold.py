"""What a channel without its scale still gives - a constant - in, folded into the layers that read it, out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..graph.graph import DependencyGraph, Member
from ..graph.inputs import call_model, map_tensors
from ..graph.tape import plain_math
from ..graph.walk import named_tensors
from ..hookspecs import hookimpl
from .compensation import Compensation
from .features import CONVOLUTIONS, Layer
from .masked import copy_with
from .plan import Plan
from .shift import Follow, Outputs, shift_output
from .surgery import Edits, scaled

if TYPE_CHECKING:
    from .calibration import Calibration

CONSTANTS = "constants"
"""Key in a plan's settings: group name -> the units that `fold-exact` keeps to carry constants."""


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
        self,
        original: nn.Module,
        cut: nn.Module,
        graph: DependencyGraph,
        plan: Plan,
        edits: Edits,
        calibration: Calibration | None = None,
    ) -> nn.Module:
        """Fold the constants of the removed channels into `cut`, in place, and return it."""
        for reader in read_constants(original, graph, plan):
            value = reader.of_removed(edits)
            if bool(value.any()):
                shift_output(cut, edits, reader.name, reader.response(value), reader.outputs.only_norm)
        return cut


class FoldExact(Fold):
    """`fold`, exact at zero-padded borders too: one doomed channel stays in each tensor and carries the constant.

    Beside a zero-padded border a constant channel is no constant. Its share there, sum over c of W[:, c] * v_c at each
    kernel position, is what one channel u of constant value v_u gives with the kernel sum of W[:, c] * v_c / v_u; so
    the doomed channel with the largest constant is kept, its scales (or, without a norm, its weights) become zero and
    its kernels these sums. In eval mode the network then equals the one with the removed gammas at zero and their betas
    kept, up to rounding. Layers without padding are folded as by `fold`, and so are padded ones where no channel can be
    kept: where only one goes, where another group must keep equally many, where the value differs by position.

    What is kept counts in the cost after the cut, and makes a width that `round_to` chose larger. It is as few channels
    as will do, one for all layers that read a tensor, and none where the removed channels give nothing. To a second
    pruning with `fold-exact` it is doomed like any other and may carry again; where nothing else of its group goes, it
    stays. Fine-tuning may wake it; weight decay does not pull on norms, and so not on its constant.
    """

    name = "fold-exact"

    def reserve(self, model: nn.Module, graph: DependencyGraph, plan: Plan) -> Plan:
        """Keep the fewest doomed units that serve every zero-padded layer; they are in the plan's settings."""
        readers = [r for r in read_constants(model, graph, plan) if r.padded and bool(r.constant().any())]
        strength = np.zeros((graph.n_units, len(readers)))  # a constant as a fraction of the layer's largest
        for k, reader in enumerate(readers):
            share = reader.everywhere().abs() / reader.constant().abs().max()
            np.maximum.at(strength[:, k], reader.units(graph), share.double().cpu().numpy())
        may = np.zeros(graph.n_units, dtype=bool)
        for name, units in plan.removed.items():
            enough = len(units) > 1 or _silent(model, graph, {name: units})
            may[graph.start(name) + units] = enough and not graph[name].links
        kept: dict[str, list[int]] = {}
        open_ = np.ones(len(readers), dtype=bool)
        while open_.any():
            serves = (strength > SMALL) & open_ & may[:, None]
            gain = serves.sum(1) + np.where(serves, strength, 0).sum(1) / (len(readers) + 1)
            best = int(gain.argmax())
            if not serves[best].any():
                break
            name, unit = _unit(graph, best)
            kept.setdefault(name, []).append(unit)
            open_ &= ~serves[best]
            mine = slice(graph.start(name), graph.start(name) + graph[name].size)
            may[best] = False
            may[mine] &= len(plan.removed[name]) > len(kept[name]) + 1
        if not kept:
            return plan
        removed = {name: units[~np.isin(units, kept.get(name, []))] for name, units in plan.removed.items()}
        removed = {name: units for name, units in removed.items() if len(units)}
        carriers = {name: units for name, units in kept.items() if name in removed}
        said = {CONSTANTS: carriers} if carriers else {}
        return replace(plan, removed=removed, settings={**plan.settings, **said})

    def compensate(
        self,
        original: nn.Module,
        cut: nn.Module,
        graph: DependencyGraph,
        plan: Plan,
        edits: Edits,
        calibration: Calibration | None = None,
    ) -> nn.Module:
        """Make the kept channels constant and give their readers the kernels that stand for all that is gone."""
        tensors = named_tensors(cut)
        carriers = [graph.start(name) + unit for name, units in _carriers(plan).items() for unit in units]
        for member, index in _scales(graph, _carriers(plan)):
            there = np.searchsorted(edits.select[member.name][member.dim], index)
            with torch.no_grad():
                tensors[member.name].index_fill_(member.dim, torch.as_tensor(there), 0)
        for reader in read_constants(original, graph, plan):
            value = reader.of_removed(edits)
            if not bool(value.any()):
                continue
            steady = reader.everywhere()
            bears = torch.from_numpy(np.isin(reader.units(graph), carriers)) if reader.padded else torch.zeros(0)
            carried = torch.where(bears, steady.cpu(), 0.0).abs() if reader.padded else bears
            if carried.any():
                column = int(carried.argmax())
                exact = torch.where(value == steady, value, 0.0)
                reader.give_kernel(tensors[reader.name], edits, column, exact / steady[column])
                value = value - exact
            if bool(value.any()):
                shift_output(cut, edits, reader.name, reader.response(value), reader.outputs.only_norm)
        return cut


SMALL = 1e-2
"""A channel whose constant is below this fraction of the largest would need kernels too large for rounding."""


def silence(model: nn.Module, graph: DependencyGraph, plan: Plan) -> nn.Module:
    """A copy in which every doomed channel is a constant: its norms' scales are zero, or (no norm) its weights."""
    tensors = named_tensors(model)
    silenced: dict[str, Tensor] = {}
    for member, index in _scales(graph, _doomed(plan)):
        tensor = silenced.setdefault(member.name, tensors[member.name].detach().clone())
        tensor.index_fill_(member.dim, torch.as_tensor(index, device=tensor.device), 0)
    return copy_with(model, silenced)


def _carriers(plan: Plan) -> dict[str, np.ndarray]:
    """Group name -> units kept to carry constants; not of groups that verification has left whole since."""
    kept = plan.settings.get(CONSTANTS, {})
    return {name: np.array(units, dtype=np.int64) for name, units in kept.items() if name in plan.removed}


def _doomed(plan: Plan) -> dict[str, np.ndarray]:
    """Group name -> the units that were to go, those that carry constants included."""
    carriers = _carriers(plan)
    return {n: np.append(units, carriers[n]) if n in carriers else units for n, units in plan.removed.items()}


def _scales(graph: DependencyGraph, units: Mapping[str, np.ndarray]) -> Iterator[tuple[Member, np.ndarray]]:
    """The scales of these units: where they are, and at which positions; without a norm, the weights that make them."""
    for name, mine in units.items():
        members = [m for m in graph[name].members if not m.buffer]
        scales = [m for m in members if m.role == "norm" and m.name.endswith("weight")]
        for member in scales or [m for m in members if m.role == "out"]:
            yield member, member.index[np.isin(member.unit, mine)]


def _silent(model: nn.Module, graph: DependencyGraph, units: Mapping[str, np.ndarray]) -> bool:
    """Whether these units give nothing but a constant as they are, as one does that a first pruning kept for that."""
    tensors = named_tensors(model)
    scales = (tensors[m.name].index_select(m.dim, torch.as_tensor(i)) for m, i in _scales(graph, units))
    return not any(bool(scale.any()) for scale in scales)


def _unit(graph: DependencyGraph, number: int) -> tuple[str, int]:
    """The group and unit of a global unit number."""
    starts = [graph.start(group.name) for group in graph.groups]
    at = int(np.searchsorted(starts, number, side="right")) - 1
    return graph.groups[at].name, int(number - starts[at])


@dataclass(frozen=True)
class Reader:
    """A convolution or linear layer that reads doomed channels, in the network that has them constant.

    doomed: (C,) bool, of the layer's inputs. value: (C,) median of what came in; wide: (C,) the largest difference
    from it, over two random inputs. outputs: where its output goes.
    """

    layer: Layer
    doomed: Tensor
    value: Tensor
    wide: Tensor
    settled: Tensor
    outputs: Outputs

    @property
    def name(self) -> str:
        """Its weight's name."""
        return self.layer.name

    @property
    def padded(self) -> bool:
        """Whether zeros are put around its inputs; only for layers without groups, whose columns are the inputs."""
        padding = self.layer.options.get("padding", 0)
        if self.layer.call == "linear" or self.layer.groups != 1 or padding == "valid":
            return False
        if padding == "same":
            return max(self.layer.weight.shape[2:]) > 1
        return bool(max([padding] if isinstance(padding, int) else padding))

    def constant(self) -> Tensor:
        """(C,) the values of doomed inputs that do not depend on the network's input, zero elsewhere."""
        return torch.where(self.doomed & self.settled, self.value, torch.zeros_like(self.value))

    def everywhere(self) -> Tensor:
        """(C,) the same, only of those that are the same at every position."""
        return torch.where(self.wide <= 1e-5 * (1 + self.value.abs()), self.constant(), torch.zeros_like(self.value))

    def of_removed(self, edits: Edits) -> Tensor:
        """(C,) the constants of the inputs that are cut off."""
        here = torch.ones(self.layer.weight.shape[1], dtype=torch.bool)
        kept = edits.select.get(self.name, {}).get(1)
        here[torch.arange(len(here)) if kept is None else torch.as_tensor(kept)] = False
        gone = here.repeat(self.layer.groups).to(self.value.device)
        return torch.where(gone, self.constant(), torch.zeros_like(self.value))

    def units(self, graph: DependencyGraph) -> np.ndarray:
        """(C,) the global unit number of each input of a layer without groups."""
        return graph.unit_of_label[graph.places[self.name, 1]]

    def response(self, value: Tensor) -> Tensor:
        """(C,) constant inputs -> (O,) what the layer adds for them, borders aside."""
        weight = self.layer.weight
        if self.layer.call == "linear":
            return F.linear(value, weight)
        spatial = weight.dim() - 2
        dilation = self.layer.options.get("dilation", 1)
        dilation = (dilation,) * spatial if isinstance(dilation, int) else tuple(dilation)
        extent = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True)]
        image = value.reshape(1, -1, *[1] * spatial).expand(1, -1, *extent)  # (1, C, kernel extent)
        return CONVOLUTIONS[self.layer.call](image, weight, None, 1, 0, dilation, self.layer.groups).flatten()

    def give_kernel(self, weight: Tensor, edits: Edits, column: int, factors: Tensor) -> None:
        """Add W[:, c] * factor_c over all inputs c to one column of the cut network's weight, in place."""
        select = edits.select[self.name]
        extra = torch.einsum("oc...,c->o...", self.layer.weight, factors)  # (O, C, *kernel), (C,) -> (O, *kernel)
        if 0 in select:
            extra = extra[torch.as_tensor(select[0], device=extra.device)]
        extra = scaled(extra, edits.of_rows(self.name))
        with torch.no_grad():
            weight.select(1, int(np.searchsorted(select[1], column))).add_(extra.to(weight.dtype))


def read_constants(model: nn.Module, graph: DependencyGraph, plan: Plan) -> list[Reader]:
    """Run the network with its doomed channels silenced, twice on noise, and see what comes into each layer."""
    quiet = silence(model, graph, plan)
    gone = np.zeros(graph.n_units + 1, dtype=bool)
    for name, units in _doomed(plan).items():
        gone[graph.start(name) + units] = True
    first, second = (_watch(quiet, graph, gone, seed) for seed in (0, 1))
    readers = []
    for name, (layer, doomed, value, wide, outputs) in first.items():
        if outputs.calls > 1 or name not in second:  # called twice with other constants: leave it alone
            continue
        _, _, again, wide_again, _ = second[name]
        settled = (value - again).abs() <= 1e-5 * (1 + value.abs())
        readers.append(Reader(layer, doomed, value, torch.maximum(wide, wide_again), settled, outputs))
    return readers


_Seen = dict[str, tuple[Layer, Tensor, Tensor, Tensor, Outputs]]


def _watch(model: nn.Module, graph: DependencyGraph, gone: np.ndarray, seed: int) -> _Seen:
    """Weight's name -> layer, which inputs are doomed, their medians, largest differences from them, outputs."""
    found: dict[str, tuple[Layer, Tensor, Tensor, Tensor]] = {}

    def seen(layer: Layer, output: Tensor) -> bool:
        place = graph.places.get((layer.name, 1))
        if place is None or not gone[graph.unit_of_label[place]].any():
            return False
        doomed = torch.from_numpy(gone[graph.unit_of_label[place]]).repeat(layer.groups).to(output.device)
        inputs = layer.channels()  # (C, positions)
        value = inputs.median(dim=1).values
        wide = (inputs - value[:, None]).abs().amax(1)
        found[layer.name] = replace(layer, inputs=torch.empty(0)), doomed, value, wide
        return True

    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return torch.rand(tensor.shape, generator=generator).to(tensor.device, tensor.dtype)

    follow = Follow(model, seen)
    with plain_math(), follow:
        call_model(model, map_tensors(graph.example_inputs, noise))
    return {name: (*rest, follow.outputs[name]) for name, rest in found.items()}


@hookimpl
def compress_register_compensations() -> Sequence[type[Compensation]]:
    """The compensations that need no data."""
    return [Fold, FoldExact]
