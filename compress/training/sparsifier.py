"""A graph and an optimizer in, norm scales that shrink towards zero with every step of it out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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

    tensor: the parameter, (n,). index: the positions along it that may be cut; None: all. group: which of the
    optimizer's parameter groups holds it (its number: loading an optimizer's state makes new groups).
    """

    name: str
    tensor: Tensor
    index: Tensor | None
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
    model: the network, where the graph no longer reaches it by itself.

    Before any step one may set anew `strength`; `shares`, name of a scale -> (channels,), how much of the pull each of
    its entries gets where that is not all of it; and in mode proximal `choose`, a function that gives the threshold
    instead: it is called with what the optimizer's step has made of the scales, name -> (channels,); it may set shares.

    A weight decay that the optimizer puts on these scales acts as well, once and before the threshold (an elastic net);
    it is said in the log, because slimming wants none there. Under automatic mixed precision, a step that the gradient
    scaler skips shrinks nothing, and gradients still scaled (fused optimizers) get the penalty in the same scale.

    Raises CompressError where nothing could shrink, or the optimizer holds none of the graph's scales.
    Sources: network slimming (Liu et al., ICCV 2017, eq. 1); proximal step (Parikh, Boyd 2014, section 6.5.2).
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
        self.scales = find_scales(graph, model, optimizer, kept)
        decayed = [s.name for s in self.scales if optimizer.param_groups[s.group].get("weight_decay")]
        if decayed:
            logging.getLogger("compress").warning(
                "%d scales have a weight decay beside the sparsity, both shrink them: %s, ...", len(decayed), decayed[0]
            )
        self.shares: Mapping[str, Tensor] = {}
        self.choose: Callable[[Mapping[str, Tensor]], float] | None = None
        self._before: list[Tensor] = []
        self._hooks = (
            optimizer.register_step_pre_hook(lambda o, *_: self._prepare(o)),
            optimizer.register_step_post_hook(lambda o, *_: self._finish(o)),
        )

    def watched(self) -> dict[str, Tensor]:
        """Name -> the scale's entries that shrink, (channels,)."""
        return {s.name: s.values() for s in self.scales}

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
                scale.tensor.grad[scale.where] += strength * self.shares.get(scale.name, 1.0) * scale.values().sign()

    @torch.no_grad()
    def _finish(self, optimizer: optim.Optimizer) -> None:
        """After a step: move the scales on by the pace, then apply the threshold where that is the mode."""
        skipped = getattr(optimizer, "found_inf", None)
        after = {scale.name: scale.values() for scale in self.scales}
        if self._before:
            after = {n: b.lerp(v, self.pace) for b, (n, v) in zip(self._before, after.items(), strict=True)}
        chosen = None if self.choose is None else self.choose(after)
        for scale, values in zip(self.scales, after.values(), strict=True):
            if self.mode == "proximal":
                threshold = self.threshold(self.strength, scale.group) if chosen is None else chosen
                threshold = threshold * self.shares.get(scale.name, 1.0)
                if skipped is not None:
                    threshold = threshold * (1 - skipped)
                values = values.sign() * (values.abs() - threshold).clamp(min=0)
            scale.tensor[scale.where] = values


def pull(settings: Mapping[str, Any]) -> float | Tensor:
    """How far a constant gradient of 1 comes to move a weight in a step: lr * (1 - dampening) / (1 - momentum)."""
    momentum = settings.get("momentum", 0.0)
    if not momentum:
        return settings["lr"]
    return settings["lr"] * (1 - settings.get("dampening", 0.0)) / (1 - momentum)


def find_scales(
    graph: DependencyGraph, model: nn.Module, optimizer: optim.Optimizer, frozen: Mapping[str, str]
) -> tuple[Scale, ...]:
    """The norm scales of every group that may be cut, as the optimizer holds them.

    frozen: group name -> reason, beside the graph's own.
    """
    positions = dict(_positions(graph, frozen))
    if not positions:
        raise CompressError("no norm's channels may be cut, so there is nothing to shrink; see graph.explain()")
    parameters = dict(model.named_parameters(remove_duplicate=False))
    holder = {id(p): number for number, group in enumerate(optimizer.param_groups) for p in group["params"]}
    scales = []
    for name, index in positions.items():
        tensor = parameters.get(name)
        if tensor is None or id(tensor) not in holder:
            continue
        whole = len(index) == len(tensor)
        where = None if whole else torch.as_tensor(index, device=tensor.device)
        scales.append(Scale(name, tensor, where, holder[id(tensor)]))
    if not scales:
        raise CompressError(
            f"the optimizer holds none of the graph's {len(positions)} norm scales ({next(iter(positions))}, ...); "
            "trace the same model whose parameters it was given"
        )
    return tuple(scales)


def _positions(graph: DependencyGraph, frozen: Mapping[str, str]) -> Iterator[tuple[str, np.ndarray]]:
    """Parameter name -> sorted positions of units that may be cut, for every norm scale."""
    found: dict[str, list[np.ndarray]] = {}
    for group in graph.groups:
        if group.frozen is not None or group.name in frozen:
            continue
        for member in group.members:
            if member.role == "norm" and not member.buffer and member.name.rpartition(".")[2] == "weight":
                found.setdefault(member.name, []).append(member.index)
    for name, indices in found.items():
        yield name, np.unique(np.concatenate(indices))
