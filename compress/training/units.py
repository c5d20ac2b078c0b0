"""A graph's groups in, their units as slices of parameters that can be measured and shrunk out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn, optim

from ..errors import CompressError
from .sparsifier import pull

if TYPE_CHECKING:
    from ..graph.graph import DependencyGraph


@dataclass(frozen=True)
class Place:
    """A dimension of a parameter in which units occur: at position index[i] of `dim` the unit number unit[i], (k,)."""

    tensor: Tensor
    dim: int
    index: Tensor
    unit: Tensor


@dataclass(frozen=True)
class Units:
    """Every unit that may be cut, numbered through all groups, and all places that the optimizer trains them in.

    groups: a parameter's name -> the numbers of the units of the groups that begin with it. elements: (count,) how many
    weights each unit has. An element of a convolution belongs to two units, one a side.
    """

    count: int
    places: tuple[Place, ...]
    groups: Mapping[str, tuple[range, ...]]
    elements: Tensor

    def sums(self, power: int) -> Tensor:
        """(count,) the sum of |w|^power over all weights of each unit, in float32."""
        return _sums(self.count, self.places, power)

    def scale(self, factors: Tensor) -> None:
        """Multiply every weight by the factor (count,) of each unit that it belongs to."""
        for place in self.places:
            along = torch.ones(place.tensor.shape[place.dim], device=factors.device)
            along[place.index] = factors[place.unit]
            shape = [-1 if dim == place.dim else 1 for dim in range(place.tensor.ndim)]
            place.tensor.mul_(along.view(shape).to(place.tensor.dtype))

    def by_name(self, values: Tensor) -> dict[str, Tensor]:
        """What belongs to the units, (count,), by the parameter that their group begins with."""
        return {
            name: torch.cat([values[numbers.start : numbers.stop] for numbers in groups])
            for name, groups in self.groups.items()
        }


class Shrinking:
    """A regularizer at work on whole units: after each step of the optimizer it multiplies every unit by a factor.

    What is watched is each unit's Euclidean norm as a fraction of what it was at the beginning.
    """

    def __init__(self, units: Units, optimizer: optim.Optimizer) -> None:
        self.units = units
        self._start = units.sums(2).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
        self._hook = optimizer.register_step_post_hook(lambda o, *_: self._shrink(o))

    def factors(self, pace: float | Tensor) -> Tensor:
        """(count,) what each unit is multiplied by; pace: how far a gradient of 1 moves a weight in this step."""
        raise NotImplementedError

    def watched(self) -> Mapping[str, Tensor]:
        """The first parameter of each group -> the relative norms of its units, (units,)."""
        with torch.no_grad():
            return self.units.by_name(self.units.sums(2).sqrt() / self._start)

    def detach(self) -> None:
        """Stop shrinking: take the hook off the optimizer."""
        self._hook.remove()

    @torch.no_grad()
    def _shrink(self, optimizer: optim.Optimizer) -> None:
        pace = pull(optimizer.param_groups[0])
        skipped = getattr(optimizer, "found_inf", None)  # a gradient scaler's, where the optimizer is fused
        self.units.scale(self.factors(pace if skipped is None else pace * (1 - skipped)))


@torch.no_grad()
def find_units(
    graph: DependencyGraph, model: nn.Module, optimizer: optim.Optimizer, frozen: Mapping[str, str]
) -> Units:
    """The units of every group that neither the graph nor the policy (frozen: group name -> reason) keeps whole.

    Raises CompressError where there is none, or the optimizer trains none of their weights.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    places: list[Place] = []
    groups: dict[str, list[range]] = {}
    count = 0
    for group in graph.groups:
        if group.frozen is not None or group.name in frozen:
            continue
        members = [m for m in group.members if not m.buffer and id(parameters.get(m.name)) in trained]
        for member in members:
            tensor = parameters[member.name].detach()
            index = torch.as_tensor(member.index, device=tensor.device)
            places.append(Place(tensor, member.dim, index, torch.as_tensor(member.unit, device=tensor.device) + count))
        if members:
            groups.setdefault(members[0].name, []).append(range(count, count + group.size))
            count += group.size
    if not places:
        raise CompressError("no channels may be cut that the optimizer trains: nothing to shrink; see graph.explain()")
    return Units(count, tuple(places), {n: tuple(r) for n, r in groups.items()}, _sums(count, places, 0))


def _sums(count: int, places: Sequence[Place], power: int) -> Tensor:
    total = torch.zeros(count, device=places[0].tensor.device)
    for place in places:
        rows = place.tensor.detach().abs().movedim(place.dim, 0).reshape(place.tensor.shape[place.dim], -1)
        total.index_add_(0, place.unit, rows.float().pow(power).sum(1)[place.index])
    return total
