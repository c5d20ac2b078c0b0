"""A tape in, the way values take through it - who makes each, who uses it, what depends on the input - out."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from .rules.create import CREATE
from .tape import Call, Tape, Value

MADE = {*CREATE, "zeros_like", "ones_like", "full_like", "empty_like"}
"""Ops that take a tensor for its shape and type only."""


@dataclass(frozen=True)
class Flow:
    """maker: value id -> number of the call that makes it. users: value id -> numbers of the live calls that take it.

    takers: name of a parameter or buffer -> numbers of the live calls that take it. moving: ids of the values that
    depend on the network's inputs. live: numbers of the calls that the outputs depend on. outputs: ids of the values
    that the network returns.
    """

    calls: tuple[Call, ...]
    maker: dict[int, int]
    users: dict[int, list[int]]
    takers: dict[str, list[int]]
    moving: frozenset[int]
    live: frozenset[int]
    outputs: frozenset[int]

    @classmethod
    def of(cls, tape: Tape) -> Flow:
        """Read a tape once forwards and once backwards."""
        maker = {out.id: number for number, call in enumerate(tape.calls) for out in call.outs}
        moving = {value.id for value in tape.inputs}
        for call in tape.calls:
            if call.op not in MADE and any(value.id in moving for value in call.values):
                moving.update(out.id for out in call.outs)
        live, outputs = set(), {value.id for value in tape.outputs}
        wanted = set(outputs)
        for number in range(len(tape.calls) - 1, -1, -1):
            call = tape.calls[number]
            into_a_part = call.inplace and call.aliased  # its effect is on tensors that it does not return
            if into_a_part or any(out.id in wanted for out in call.outs):
                live.add(number)
                wanted.update(value.id for value in call.values)
        users: dict[int, list[int]] = defaultdict(list)
        takers: dict[str, list[int]] = defaultdict(list)
        for number in sorted(live):
            for value in {value.id: value for value in tape.calls[number].values}.values():
                users[value.id].append(number)
                if value.name is not None:
                    takers[value.name].append(number)
        return cls(tuple(tape.calls), maker, users, takers, frozenset(moving), frozenset(live), frozenset(outputs))

    def between(self, stream: Value, branch: Value) -> tuple[frozenset[int], bool, bool]:
        """The calls by which `branch` is computed from `stream`; whether it is at all; whether from nothing else.

        What depends on no input of the network - parameters, constants - may enter anywhere and is not followed.
        """
        first = self.maker.get(stream.id, -1)
        found: set[int] = set()
        met, alone, open_, seen = False, True, [branch.id], {branch.id}
        while open_:
            value = open_.pop()
            if value == stream.id:
                met = True
                continue
            number = self.maker.get(value, -1)
            if number <= first:  # made before the stream, or beside it
                alone = False
                continue
            found.add(number)
            for taken in self.calls[number].values:
                if taken.id in self.moving and taken.id not in seen:
                    seen.add(taken.id)
                    open_.append(taken.id)
        return frozenset(found), met, alone

    def parameters(self, number: int) -> list[str]:
        """Names of the parameters and buffers that a call takes, also by way of what is computed from nothing else."""
        names, open_ = [], [*self.calls[number].values]
        while open_:
            value = open_.pop()
            if value.name is not None:
                names.append(value.name)
            elif value.id not in self.moving and value.id in self.maker:
                open_ += self.calls[self.maker[value.id]].values
        return list(dict.fromkeys(names))

    def escapes(self, calls: frozenset[int], addition: int) -> int | None:
        """The first of these calls of which another call than the addition takes a result; None where none does."""
        own = calls | {addition}
        for number in sorted(calls):
            for out in self.calls[number].outs:
                others = [u for u in self.users.get(out.id, ()) if u not in own and self.calls[u].op not in MADE]
                if others or out.id in self.outputs:
                    return number
        return None
