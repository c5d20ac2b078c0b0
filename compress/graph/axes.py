"""Reshapes that split or merged labelled dimensions in, the decision which of these may shrink out."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from .labels import Array, Labels, Merge
from .units import components


def resolve(labels: Labels, heads: str) -> None:
    """Decide for every reshape that split a labelled dimension which of its axes may shrink, and tie the others.

    heads: "whole" prefers an axis that other ops treat as a batch (attention heads), "inside" the one they contract.
    Adds the edges and pins of the decision to `labels`.
    """
    settle_merges(labels, last=not labels.sites)
    if not labels.sites:
        return
    component = components(labels.count, labels.edges)
    pinned = _pinned(labels, component)
    axis_of = _axis_classes(labels, component)
    contracted = {axis_of[axis] for axis in labels.contracted} if heads == "inside" else set()
    rigid = {axis_of[axis]: reason for axis, reason in labels.rigid.items()}
    lifted: dict[int, list[Array]] = defaultdict(list)
    for lift in labels.lifts:
        lifted[axis_of[lift.axis]].append(lift.labels)
    for axis, arrays in lifted.items():
        fixed = next((array for array in arrays if pinned[component[array]].all()), None)
        if fixed is not None:
            rigid.setdefault(axis, _why(fixed, component, labels))
    chosen: set[int] = set()
    whole: set[int] = set()
    for site in labels.sites:
        mine = [axis_of[axis] for axis in site.axes]
        already = [axis for axis in mine if axis in chosen]
        free = [k for k, axis in enumerate(mine) if axis not in rigid and axis not in whole]
        if already:
            choice = already[0]
        elif free:
            met = [k for k in free if lifted[mine[k]] and site.labels.shape[k] > 1]
            if heads == "whole" and met:
                choice = mine[met[0]]
            else:
                inner = [k for k in free if mine[k] in contracted and site.labels.shape[k] > 1]
                unmet = inner or [k for k in free if k not in met] or free
                choice = mine[max(unmet, key=lambda k: site.labels.shape[k])]
        else:
            reasons = "; ".join(dict.fromkeys(rigid.get(axis, "another reshape keeps it whole") for axis in mine))
            labels.pin(site.labels, f"{site.where} splits it into axes that cannot shrink: {reasons}")
            continue
        chosen.add(choice)
        whole |= {axis for axis in mine if axis != choice}
        at = mine.index(choice)
        rows = np.moveaxis(site.labels, at, 0).reshape(site.labels.shape[at], -1)
        labels.equal(rows, rows[:, :1])
    for lift in labels.lifts:
        if axis_of[lift.axis] in chosen:
            rows = np.moveaxis(lift.of, lift.position, 0).reshape(lift.of.shape[lift.position], -1)
            labels.equal(rows, lift.labels[:, None])
        else:
            labels.pin(lift.labels, f"an axis of size {len(lift.labels)} that stays whole")
    settle_merges(labels, last=True)


def settle_merges(labels: Labels, last: bool) -> None:
    """Where all but one of the dimensions that a reshape merged stay, the result is what the one is.

    Adds the edges to `labels` and drops the merges that are settled. last: where several still can, one shrinks.
    """
    moved = True
    while moved and labels.merges:
        component = components(labels.count, labels.edges)
        stays = _pinned(labels, component)
        open_ = []
        for merge in labels.merges:
            parts = {component[part].tobytes(): part for part in merge.parts if not stays[component[part]].all()}
            if len(parts) > 1:
                open_.append(merge)
            elif parts:
                labels.equal(merge.labels, next(iter(parts.values())))
            else:
                labels.pin(merge.labels, None)
        moved = len(open_) < len(labels.merges)
        labels.merges = open_
    if not last or not labels.merges:
        return
    component = components(labels.count, labels.edges)
    stays = _pinned(labels, component)
    for merge in labels.merges:
        shrinks = _choose(merge, component, stays)
        labels.equal(merge.labels, shrinks)
        for part in merge.parts:
            if part is not shrinks:
                labels.pin(part, f"{merge.where} merges it with channels that shrink")


def _choose(merge: Merge, component: Array, stays: Array) -> Array:
    """The part that shrinks: the result lives or dies by it already, or else it has the most labels."""

    def rank(part: Array) -> tuple[bool, int]:
        mine, first, inverse = np.unique(component[part], return_index=True, return_inverse=True)
        out = component[merge.labels]
        return bool((out[first][inverse] == out).all()), len(mine)

    return max((part for part in merge.parts if not stays[component[part]].all()), key=rank)


def _why(fixed: Array, component: Array, labels: Labels) -> str:
    """The first reason worth a word for which these stay."""
    mine = component[fixed]
    said = (reason for found, reason in labels.pins if reason and np.isin(component[found], mine).any())
    return next(said, "it meets something of fixed size")


def _pinned(labels: Labels, component: Array) -> Array:
    """(components,) bool: what must stay, as far as it is known."""
    pinned = np.zeros(labels.count, dtype=bool)
    for found, _ in labels.pins:
        pinned[component[found]] = True  # indexed by component number
    return pinned


def _axis_classes(labels: Labels, component: Array) -> Array:
    """(axes,) a class number for each axis: axes that ops identified are one."""
    pairs = list(labels.axis_pairs)
    by_component: dict[int, int] = {}
    for lift in labels.lifts:
        first = by_component.setdefault(int(component[lift.labels[0]]), lift.axis)
        pairs.append((first, lift.axis))
    if not pairs:
        return np.arange(labels.n_axes)
    edges = [(np.array([a]), np.array([b])) for a, b in pairs]
    return components(labels.n_axes, edges)
