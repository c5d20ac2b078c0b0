"""A graph and an optimizer in, norm scales that shrink towards zero with every step of it out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn, optim

from ..errors import CompressError

if TYPE_CHECKING:
    from ..graph.graph import DependencyGraph
    from ..pruning.policy import GroupPolicy

Mode = Literal["proximal", "subgradient"]


@dataclass(frozen=True)
class Scale:
    """A norm's scale that shrinks.

    tensor: the parameter, (n,). index: the positions along it that may be cut; None: all. unit: (entries,) the number
    of the unit, among all that shrink, that each of these scales. group: which of the optimizer's parameter groups
    holds it (its number: loading an optimizer's state makes new groups).
    """

    name: str
    tensor: Tensor
    index: Tensor | None
    unit: Tensor
    group: int

    def values(self) -> Tensor:
        """The shrinking entries, detached: (n,) or (len(index),)."""
        return self.tensor.detach()[self.where]

    @property
    def where(self) -> Tensor | slice:
        """What selects those entries."""
        return slice(None) if self.index is None else self.index


class Sparsifier:
    """L1 on the scales (gamma) of norms whose channels may be cut: hooks `optimizer.step`, nothing else to call.

    graph: of the model that the optimizer trains; the scales are its groups' members of role `norm` named `weight`.
        Groups that the graph or the policy freezes are left alone.
    strength: the penalty is strength * sum |gamma|, on top of the loss.
    policy: a GroupPolicy; what it keeps whole is not shrunk.
    mode: `proximal` (default), after each step gamma <- sign(gamma) * max(|gamma| - threshold, 0), which reaches exact
        zeros; threshold = lr * strength * (1 - dampening) / (1 - momentum) for an optimizer with `momentum`, which is
        how far a constant gradient of that strength comes to move a weight each step, else lr * strength (an adaptive
        optimizer would divide the strength away). `subgradient`, before each step grad += strength * sign(gamma), as
        published; an adaptive optimizer makes of it what it will.
    pace: how many times as fast as the learning rate says the scales move, by the loss's gradient and the penalty
        alike; the balance between the two stays. An adaptive optimizer moves a weight by about lr a step, which in a
        short training is too little for a scale to come from 1 to 0 by merit.
    together: in mode proximal, what is cut together shrinks together: where several norms scale one unit, the threshold
        is taken off the root mean square of its gammas. False: every gamma shrinks, and counts as a unit, by itself.
    model: the network, where the graph no longer reaches it by itself.

    Before any step one may set anew `strength`; `shares`, (units,), how much of the pull each unit gets where that is
    not all of it; and in mode proximal `choose`, a function that gives the threshold instead: it is called with the
    `sizes` that the optimizer's step has made of the units, and may set shares. `groups`, (units,), is the number of
    the group that each unit is of; of its norm, where gammas shrink by themselves.

    A weight decay that the optimizer puts on these scales acts as well, once and before the threshold (an elastic net);
    it is said in the log, because slimming wants none there. Under automatic mixed precision, a step that the gradient
    scaler skips shrinks nothing, and gradients still scaled (fused optimizers) get the penalty in the same scale.

    Raises CompressError where nothing could shrink, or the optimizer holds none of the graph's scales.
    Sources: network slimming (Liu et al., ICCV 2017, eq. 1); proximal step (Parikh, Boyd 2014, sections 6.5.2 and,
    for several gammas of one unit, 6.5.4); their weighing by root mean square (Yuan, Lin 2006, eq. 2.1).
    """

    def __init__(
        self,
        graph: DependencyGraph,
        optimizer: optim.Optimizer,
        strength: float = 0.01,
        policy: GroupPolicy | None = None,
        *,
        mode: Mode = "proximal",
        pace: float = 1.0,
        together: bool = True,
        model: nn.Module | None = None,
        frozen: Mapping[str, str] | None = None,
    ) -> None:
        if strength < 0:
            raise CompressError(f"sparsity strength must be 0 or more, not {strength}")
        if pace <= 0:
            raise CompressError(f"sparsity pace must be above 0, not {pace}")
        if mode not in ("proximal", "subgradient"):
            raise CompressError(f"sparsity mode '{mode}' is unknown; one of: proximal, subgradient")
        model = model if model is not None else graph.model
        if model is None:
            raise CompressError("the traced model is gone; pass it: Sparsifier(graph, optimizer, model=model)")
        if mode == "subgradient" and not isinstance(optimizer, optim.SGD):
            logging.getLogger("compress").warning(
                "mode subgradient is void under %s, which divides a gradient by its own size: every gamma is pulled by "
                "about lr, whatever the strength; take mode proximal",
                type(optimizer).__name__,
            )
        kept = dict(frozen or {})
        if policy is not None:
            kept.update(policy.freeze(graph, model))
        self.strength, self.mode, self.pace, self._optimizer = strength, mode, pace, optimizer
        self.scales, self.groups = find_scales(graph, model, optimizer, kept, together)
        decayed = [s.name for s in self.scales if optimizer.param_groups[s.group].get("weight_decay")]
        if decayed:
            logging.getLogger("compress").warning(
                "%d scales have a weight decay beside the sparsity, both shrink them: %s, ...", len(decayed), decayed[0]
            )
        self.shares: Tensor | None = None
        self.choose: Callable[[Tensor], float] | None = None
        self._unit = torch.cat([scale.unit for scale in self.scales])  # (entries of all scales,)
        self._gammas = torch.bincount(self._unit)  # (units,) how many gammas scale each
        self._before: list[Tensor] = []
        self._hooks = (
            optimizer.register_step_pre_hook(lambda o, *_: self._prepare(o)),
            optimizer.register_step_post_hook(lambda o, *_: self._finish(o)),
        )

    def watched(self) -> dict[str, Tensor]:
        """Name -> the scale's entries that shrink, (channels,)."""
        return {s.name: s.values() for s in self.scales}

    @torch.no_grad()
    def sizes(self, values: Sequence[Tensor] | None = None) -> Tensor:
        """(units,) the root mean square of each unit's gammas, which is |gamma| where it has one.

        values: the entries of each scale; default as they are.
        """
        entries = torch.cat([scale.values() for scale in self.scales] if values is None else list(values)).float()
        squares = torch.zeros(len(self._gammas), device=entries.device).index_add_(0, self._unit, entries.square())
        return (squares / self._gammas).sqrt()

    def detach(self) -> None:
        """Stop shrinking: take the hooks off the optimizer."""
        for hook in self._hooks:
            hook.remove()

    def threshold(self, strength: float, group: int = 0) -> float | Tensor:
        """How far a step of that strength shrinks a scale that the optimizer's parameter group holds."""
        return pull(self._optimizer.param_groups[group]) * strength * self.pace

    @torch.no_grad()
    def _prepare(self, optimizer: optim.Optimizer) -> None:
        """Before a step: note where the scales are, and add the sub-gradient where that is the mode."""
        self._before = [scale.values().clone() for scale in self.scales] if self.pace != 1 else []
        if self.mode == "proximal":
            return
        loss_scale = getattr(optimizer, "grad_scale", None)
        strength = self.strength if loss_scale is None else self.strength * loss_scale
        for scale in self.scales:
            if scale.tensor.grad is not None:
                scale.tensor.grad[scale.where] += strength * self._share(scale) * scale.values().sign()

    @torch.no_grad()
    def _finish(self, optimizer: optim.Optimizer) -> None:
        """After a step: move the scales on by the pace, then apply the threshold where that is the mode."""
        skipped = getattr(optimizer, "found_inf", None)
        after = [scale.values() for scale in self.scales]
        if self._before:
            after = [before.lerp(values, self.pace) for before, values in zip(self._before, after, strict=True)]
        if self.mode == "proximal":
            sizes = self.sizes(after)
            chosen = None if self.choose is None else self.choose(sizes)
            after = [self._shrunk(s, v, sizes, chosen, skipped) for s, v in zip(self.scales, after, strict=True)]
        for scale, values in zip(self.scales, after, strict=True):
            scale.tensor[scale.where] = values

    def _shrunk(
        self, scale: Scale, values: Tensor, sizes: Tensor, chosen: float | None, skipped: Tensor | None
    ) -> Tensor:
        """A scale's entries after the threshold is taken off their units' sizes."""
        threshold = self.threshold(self.strength, scale.group) if chosen is None else chosen
        threshold = threshold * self._share(scale)
        if skipped is not None:
            threshold = threshold * (1 - skipped)
        size = sizes[scale.unit]
        left = (size - threshold).clamp(min=0) / size.clamp(min=torch.finfo(size.dtype).tiny)
        return values * left.to(values.dtype)

    def _share(self, scale: Scale) -> float | Tensor:
        """How much of the pull each entry of a scale gets."""
        return 1.0 if self.shares is None else self.shares[scale.unit]


def pull(settings: Mapping[str, Any]) -> float | Tensor:
    """How far a constant gradient of 1 comes to move a weight in a step: lr * (1 - dampening) / (1 - momentum)."""
    momentum = settings.get("momentum", 0.0)
    if not momentum:
        return settings["lr"]
    return settings["lr"] * (1 - settings.get("dampening", 0.0)) / (1 - momentum)


def find_scales(
    graph: DependencyGraph,
    model: nn.Module,
    optimizer: optim.Optimizer,
    frozen: Mapping[str, str],
    together: bool = True,
) -> tuple[tuple[Scale, ...], Tensor]:
    """The norm scales of every group that may be cut, as the optimizer holds them; (units,) the group of each unit.

    frozen: group name -> reason, beside the graph's own. together: False makes a unit of each gamma, a group of each
    scale.
    """
    positions = dict(_positions(graph, frozen))
    if not positions:
        raise CompressError("no norm's channels may be cut, so there is nothing to shrink; see graph.explain()")
    parameters = dict(model.named_parameters(remove_duplicate=False))
    holder = {id(p): number for number, group in enumerate(optimizer.param_groups) for p in group["params"]}
    held = {name: parameters[name] for name in positions if id(parameters.get(name)) in holder}
    if not held:
        raise CompressError(
            f"the optimizer holds none of the graph's {len(positions)} norm scales ({next(iter(positions))}, ...); "
            "trace the same model whose parameters it was given"
        )
    units = np.unique(np.concatenate([positions[name][1] for name in held]))
    starts = np.array([graph.start(group.name) for group in graph.groups])
    scales = []
    for name, tensor in held.items():
        index, unit = positions[name]
        where = None if len(index) == len(tensor) else torch.as_tensor(index, device=tensor.device)
        number = torch.as_tensor(np.searchsorted(units, unit), device=tensor.device)
        scales.append(Scale(name, tensor, where, number, holder[id(tensor)]))
    group = np.searchsorted(starts, units, side="right") - 1
    if not together:
        group = np.repeat(np.arange(len(scales)), [len(scale.unit) for scale in scales])
        numbers = torch.arange(len(group)).split([len(scale.unit) for scale in scales])
        scales = [replace(s, unit=n.to(s.tensor.device)) for s, n in zip(scales, numbers, strict=True)]
    return tuple(scales), torch.as_tensor(group, device=scales[0].tensor.device)


def _positions(
    graph: DependencyGraph, frozen: Mapping[str, str]
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """Parameter name -> sorted positions of units that may be cut and those units' numbers, for every norm scale."""
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for group in graph.groups:
        if group.frozen is not None or group.name in frozen:
            continue
        for member in group.members:
            if member.role == "norm" and not member.buffer and member.name.rpartition(".")[2] == "weight":
                here = (member.index, graph.start(group.name) + member.unit)
                found.setdefault(member.name, []).append(here)
    for name, places in found.items():
        index, unit = (np.concatenate(arrays) for arrays in zip(*places, strict=True))
        order = np.argsort(index)
        yield name, (index[order], unit[order])
