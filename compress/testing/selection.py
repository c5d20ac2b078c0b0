"""The checks of what decides about units - criteria, policies, regularizers - and of what makes up for them."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn, optim

from ..errors import CompressError
from ..graph.graph import DependencyGraph
from ..graph.trace import trace
from ..pruning.apply import apply
from ..pruning.compensation import Compensation
from ..pruning.criteria import Criterion
from ..pruning.plan import Plan
from ..pruning.policy import GroupPolicy
from ..pruning.selection import plan
from ..training.regularizers import Regularizer
from .networks import small_network, unchanged
from .options import Unfit, check_plugin, expect

STEPS = 20


def check_criterion(criterion: Criterion) -> None:
    """It scores a small network: finite, the same each time, without changing it; and the cut it chooses verifies."""
    check_plugin(criterion)
    kind = type(criterion).__name__
    for seed in range(3):
        model, example = small_network(seed)
        same = unchanged(model)
        graph = trace(model, example)
        chosen, again = _plan(graph, criterion, example), _plan(graph, criterion, example)
        expect(same(), f"{kind} changed the model that it scores; work on copies, e.g. part.tensor.abs()")
        expect(_removed(chosen) == _removed(again), f"{kind} chooses other units when asked a second time")
        apply(model, graph, chosen)
        ranked, again = (_plan(graph, criterion, example, blocks="ranked") for _ in range(2))
        expect(ranked.blocks == again.blocks, f"{kind}.score_block answers otherwise a second time")


def check_compensation(compensation: Compensation) -> None:
    """It changes a cut network - not the original, not its shapes - the same way each time, and saves with it."""
    check_plugin(compensation)
    kind = type(compensation).__name__
    model, example = small_network()
    same, graph = unchanged(model), trace(model, example)
    chosen = plan(graph, "l1", ratio=0.5)
    data: dict[str, Any] = {"calibration": [example]} if compensation.needs_batches else {}
    plain = apply(model, graph, chosen).model.state_dict()
    made, again = (apply(model, graph, chosen, compensate=compensation, **data) for _ in range(2))
    expect(same(), f"{kind} changed the original network; only the cut one may be changed")
    found, second = made.model.state_dict(), again.model.state_dict()
    if made.plan is chosen:  # it reserved nothing
        odd = [n for n, tensor in plain.items() if n not in found or found[n].shape != tensor.shape]
        expect(
            not odd, f"{kind} changed the shapes of {', '.join(odd[:3])}; a cut selects, a compensation only adjusts"
        )
    odd = [n for n, tensor in found.items() if not torch.isfinite(tensor).all()]
    expect(not odd, f"{kind} made {', '.join(odd[:3])} not finite")
    odd = [n for n, tensor in found.items() if not torch.equal(tensor, second[n])]
    expect(not odd, f"{kind} gives other values for {', '.join(odd[:3])} a second time")
    moved = found.keys() != plain.keys() or any(not torch.equal(found[n], plain[n]) for n in plain)
    expect(moved or made.plan is not chosen, f"{kind} does nothing for a network that lost half its channels")


def check_policy(policy: GroupPolicy, model: nn.Module, example: Tensor) -> None:
    """It names groups or blocks that exist, each with a reason, the same each time, and none of them is cut.

    model: one that the policy is made for. example: an input for it.
    """
    check_plugin(policy)
    kind, same = type(policy).__name__, unchanged(model)
    graph = trace(model, example)
    reasons = policy.freeze(graph, model)
    known = {group.name for group in graph.groups} | {block.name for block in graph.blocks}
    strange = set(reasons) - known
    expect(not strange, f"{kind}.freeze names {sorted(strange)[:3]}, which are no groups or blocks of the graph")
    silent = [name for name, reason in reasons.items() if not (isinstance(reason, str) and reason.strip())]
    expect(not silent, f"{kind}.freeze gives no reason for {', '.join(silent[:3])}")
    expect(dict(policy.freeze(graph, model)) == dict(reasons), f"{kind}.freeze answers otherwise a second time")
    expect(same(), f"{kind}.freeze changed the model")
    if all(group.frozen or group.name in reasons for group in graph.groups):
        return
    cut = plan(graph, "l1", ratio=0.5, policy=policy).removed
    expect(not set(cut) & set(reasons), f"{kind}: groups that it keeps were cut")


def check_regularizer(regularizer: Regularizer) -> None:
    """Without any other gradient it shrinks what it watches, leaves frozen groups alone, and stops when detached."""
    check_plugin(regularizer)
    kind = type(regularizer).__name__
    model, example = small_network()
    graph = trace(model, example)
    kept = next(group for group in graph.groups if group.frozen is None)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    attached = regularizer.attach(graph, model, optimizer, {kept.name: "a policy keeps it"})
    watched = dict(attached.watched())
    expect(bool(watched), f"{kind} watches nothing in a network with convolutions and BatchNorms")
    parameters = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    strange = set(watched) - set(parameters)
    expect(not strange, f"{kind} watches {sorted(strange)[:3]}, which are no parameters of the model")
    before = sum(float(tensor.detach().abs().sum()) for tensor in watched.values())
    _idle_steps(model, optimizer)
    after = sum(float(tensor.detach().abs().sum()) for tensor in attached.watched().values())
    expect(after < before, f"{kind}: what it watches summed to {before:.6g} and, {STEPS} steps later, to {after:.6g}")
    now = dict(model.named_parameters())
    for member in kept.members:
        if member.name in now and member.dim == 0:
            index = torch.from_numpy(member.index)
            moved = not torch.equal(now[member.name][index], parameters[member.name][index])
            expect(not moved, f"{kind} changes {member.name}, of a group that the policy keeps")
    attached.detach()
    still = unchanged(model)
    _idle_steps(model, optimizer)
    expect(still(), f"{kind} goes on after detach()")


def _plan(graph: DependencyGraph, criterion: Criterion, example: Tensor, blocks: Literal[0, "ranked"] = 0) -> Plan:

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).square().mean()

    looks = criterion.needs_gradients or criterion.needs_batches
    data: dict[str, Any] = {"calibration": [example], "loss": loss} if looks else {}
    try:
        return plan(graph, criterion, ratio=0.5, blocks=blocks, **data)
    except CompressError as error:
        raise Unfit(f"{type(criterion).__name__}: {error}") from error


def _removed(chosen: Plan) -> dict[str, list[int]]:
    return {name: units.tolist() for name, units in chosen.removed.items()}


def _idle_steps(model: nn.Module, optimizer: optim.Optimizer) -> None:
    for _ in range(STEPS):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
