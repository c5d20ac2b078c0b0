"""A tape in, the residual branches that can be taken out of the network, and those that cannot and why, out."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import nn

from .blocks import Block, StandIn
from .flow import Flow
from .graph import Frozen, Group
from .labels import Labels
from .rules.contraction import PRODUCTS
from .standins import form, holds_range, stand_ins
from .tape import Invocation, Tape, Value
from .walk import named_tensors


def find_blocks(tape: Tape, labels: Labels, groups: Sequence[Group], model: nn.Module) -> tuple[Block, ...]:
    """Every addition of a branch to the stream that it was computed from, in the network's order.

    A branch with parameters counts whose values go nowhere else. Where it also depends on something else, or no
    replacement of modules takes it out, it is there with the reason, frozen.
    """
    run = _Run(tape, Flow.of(tape), model, labels)
    found: list[Block] = []
    seen: Counter[str] = Counter()
    for number, call in enumerate(tape.calls):
        pair = call.args[:2]
        if call.op not in ("add", "add_") or not all(isinstance(value, Value) for value in pair):
            continue
        if pair[0].shape != pair[1].shape:
            continue
        block = _block(number, run) if number in run.flow.live else None
        if block is not None:
            found.append(replace(block, groups=_inside(groups, block.tensors), turn=seen[call.op]))
        seen[call.op] += 1
    return tuple(_with_titles(found, {group.name for group in groups}))


class _Run:
    """A tape, read. names: each parameter and buffer by its first name -> all names that it has.

    made: name of a parameter -> the dimensions along which it makes or scales channels.
    """

    def __init__(self, tape: Tape, flow: Flow, model: nn.Module, labels: Labels) -> None:
        self.calls, self.invocations, self.flow, self.names = tape.calls, tape.invocations, flow, _names(model)
        self.model = model
        self.of_path: dict[str, list[Invocation]] = defaultdict(list)
        for invocation in tape.invocations:
            self.of_path[invocation.path].append(invocation)
        self.starts = [invocation.start for invocation in tape.invocations]
        self.sorted = sorted(self.names)
        self.made: dict[str, list[int]] = defaultdict(list)
        for (name, dim), role in labels.roles.items():
            if role != "in" and (name, dim) in labels.places:
                self.made[name].append(dim)

    @cached_property
    def elements(self) -> dict[str, int]:
        """How many each parameter and buffer has, by its first name."""
        return {name: tensor.numel() for name, tensor in named_tensors(self.model).items()}

    def within(self, first: int, end: int) -> list[Invocation]:
        """The invocations of modules, not of the whole, that begin and end between two calls."""
        here = self.invocations[bisect_left(self.starts, first) : bisect_right(self.starts, end)]
        return [invocation for invocation in here if invocation.path and invocation.end <= end]

    def works(self, invocation: Invocation) -> list[int]:
        """The calls in a module's course that the outputs depend on and that depend on the inputs."""
        return [n for n in range(invocation.start, invocation.end) if n in self.flow.live and self.moves(n)]

    def moves(self, number: int) -> bool:
        """Whether a call depends on the network's inputs."""
        return any(out.id in self.flow.moving for out in self.calls[number].outs)

    def gone(self, replaced: Iterable[StandIn]) -> tuple[frozenset[str], frozenset[int]]:
        """The tensors and the calls that go with modules."""
        tensors: set[str] = set()
        calls: set[int] = set()
        for each in replaced:
            low, high = bisect_left(self.sorted, f"{each.path}."), bisect_left(self.sorted, f"{each.path}/")
            tensors.update(self.sorted[low:high])  # "/" comes after "."
            calls.update(n for i in self.of_path[each.path] for n in range(i.start, i.end))
        return frozenset(tensors), frozenset(calls)

    def largest(self, replaced: Iterable[StandIn]) -> str:
        """The path of the module with the most elements in its tensors."""
        return max(replaced, key=lambda each: sum(self.elements[name] for name in self.gone([each])[0])).path


@dataclass(frozen=True)
class _Branch:
    """One addition and what is computed for it alone. calls: numbers of the calls from `stream` to `branch`."""

    addition: int
    stream: Value
    branch: Value
    calls: frozenset[int]


def _block(addition: int, run: _Run) -> Block | None:
    """The block that ends in an addition of two tensors of one shape; None where no branch with parameters ends."""
    call, flow = run.calls[addition], run.flow
    pair = call.args[:2]
    last = 0 if flow.maker.get(pair[0].id, -1) > flow.maker.get(pair[1].id, -1) else 1
    stream, branch = pair[1 - last], pair[last]
    if stream.id == branch.id or branch.id not in flow.moving:
        return None
    calls, met, alone = flow.between(stream, branch)
    if not met or not any(flow.parameters(number) for number in calls):
        return None
    way = _Branch(addition, stream, branch, calls)
    title = next((run.calls[n].module for n in sorted(calls, reverse=True) if run.calls[n].module), "branch")

    def stays(reason: str) -> Block:
        return Block(title, addition, last, frozen=Frozen(reason))

    if not alone:
        return stays("it depends on more than the stream that it is added to")
    if last == 0 and call.kwargs.get("alpha", 1) != 1:
        return stays(f"{call.where} scales the stream that it is added to")
    escape = flow.escapes(calls, addition)
    if escape is not None:
        return stays(f"what {run.calls[escape].where} gives is used elsewhere too")
    inside = _inside_modules(way, run)
    around = _around(way, run)
    reason = ""
    for outer in (None,) if around is None else (around, None):
        replaced, reason = _replace(way, inside, outer, run)
        if not reason:
            title = run.largest(replaced) if outer is None else outer.path
            return Block(title, addition, last, replaced, *run.gone(replaced), _makers(way, run))
    return stays(reason)


def _inside_modules(way: _Branch, run: _Run) -> dict[str, list[Invocation]]:
    """The largest modules that work for the branch alone, every time they are called: path -> their invocations."""
    fitting: dict[str, list[Invocation]] = defaultdict(list)
    first = run.flow.maker.get(way.stream.id, -1) + 1  # constants of a module may come before it meets the stream
    for invocation in run.within(first, way.addition):
        works = run.works(invocation)
        if works and all(n in way.calls for n in works):
            fitting[invocation.path].append(invocation)
    whole = {path: found for path, found in fitting.items() if len(found) == len(run.of_path[path])}
    parents = {path: [p for p in _above(path) if p in whole] for path in whole}
    return {
        path: found
        for path, found in whole.items()
        if not all(any(_within(i, outer) for p in parents[path] for outer in whole[p]) for i in found)
    }


def _above(path: str) -> list[str]:
    """The paths of the modules that hold the module at a path."""
    parts = path.split(".")
    return [".".join(parts[:k]) for k in range(1, len(parts))]


def _within(inner: Invocation, outer: Invocation) -> bool:
    """Whether one call of a module lies in the course of another's."""
    return outer.start <= inner.start and inner.end <= outer.end


def _around(way: _Branch, run: _Run) -> Invocation | None:
    """A module that, without the branch, hands on its argument: it takes the stream, adds and is done.

    The smallest that holds the whole branch, or else the largest. Ops after the addition may be there where they change
    nothing that the stream holds: a ReLU of what is rectified.
    """
    found: list[Invocation] = []
    for invocation in run.invocations[: bisect_right(run.starts, way.addition)]:
        if not invocation.path or invocation.end <= way.addition or len(run.of_path[invocation.path]) > 1:
            continue
        if not any(value.id == way.stream.id for _, value in invocation.args):
            continue
        last = _only(invocation.outputs)
        after = None if last is None else _idle(way, last, run.flow)
        if after is not None and set(run.works(invocation)) <= way.calls | {way.addition} | after:
            found.append(invocation)
    whole = [invocation for invocation in found if invocation.start <= min(way.calls)]
    return whole[-1] if whole else found[0] if found else None


def _only(outputs: object) -> Value | None:
    """The one tensor that a module returned; None where it is not one."""
    values = [item for item in outputs if item is not None] if isinstance(outputs, tuple) else [outputs]
    return values[0] if len(values) == 1 and isinstance(values[0], Value) else None


def _idle(way: _Branch, last: Value, flow: Flow) -> frozenset[int] | None:
    """The calls from the addition to a value, where each leaves as it is whatever the stream can hold; else None."""
    value, found = flow.calls[way.addition].outs[0], set()
    while value.id != last.id:
        users = flow.users.get(value.id, [])
        if len(users) != 1 or value.id in flow.outputs or not holds_range(users[0], way.stream, flow):
            return None
        found.add(users[0])
        value = flow.calls[users[0]].outs[0]
    return frozenset(found)


def _replace(
    way: _Branch, inside: Mapping[str, list[Invocation]], around: Invocation | None, run: _Run
) -> tuple[tuple[StandIn, ...], str]:
    """The stand-ins that take a branch out, and no word; or none and the reason why."""
    outer: list[StandIn] = []
    calls, left = way.calls, inside
    if around is not None:
        position = next(at for at, value in around.args if value.id == way.stream.id)
        outer = [StandIn(around.path, False, position, form(around.outputs), around.alone)]
        calls = frozenset(n for n in calls if not around.start <= n < around.end)
        left = {path: found for path, found in inside.items() if not all(_within(i, around) for i in found)}
    inner, reason = stand_ins(calls, left, way.stream, way.branch if around is None else None, run.flow)
    replaced = (*inner, *outer)
    reason = reason or _lost(replaced, run)
    return (() if reason else replaced), reason


def _lost(replaced: Sequence[StandIn], run: _Run) -> str:
    """Why what stays would miss something of the replaced modules; nothing where it does not."""
    tensors, gone = run.gone(replaced)
    if not tensors:
        return "it has no parameters in modules of its own"
    paths = {each.path for each in replaced}
    for name in sorted(tensors):
        for other in run.names[name]:
            if paths.isdisjoint(_above(other)):
                return f"its '{name}' is '{other}' too"
        for number in run.flow.takers.get(name, ()):
            if number not in gone:
                return f"{run.calls[number].where} takes its '{name}' from outside"
    given = {value.id for path in paths for i in run.of_path[path] for value in _values(i.outputs)}
    for out in (out for number in sorted(gone) for out in run.calls[number].outs if out.id not in given):
        for number in run.flow.users.get(out.id, ()):
            if number not in gone:
                return f"{run.calls[number].where} takes what is computed inside it"
    return ""


def _values(outputs: object) -> Iterator[Value]:
    for item in outputs if isinstance(outputs, tuple) else (outputs,):
        if isinstance(item, Value):
            yield item


def _names(model: nn.Module) -> dict[str, list[str]]:
    """Each parameter and buffer by its first name -> all names that it has."""
    first: dict[int, str] = {}
    found: dict[str, list[str]] = {}
    for tensors in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        for name, tensor in tensors:
            found.setdefault(first.setdefault(id(tensor), name), []).append(name)
    return found


def _makers(way: _Branch, run: _Run) -> tuple[tuple[str, int], ...]:
    """The places that make the branch's values: back from its end through norms and scales to the last products."""
    places: dict[tuple[str, int], None] = {}
    open_, seen = [way.branch], {way.branch.id}
    while open_:
        number = run.flow.maker.get(open_.pop().id, -1)
        if number not in way.calls:
            continue
        places |= {(name, dim): None for name in run.flow.parameters(number) for dim in run.made.get(name, ())}
        for value in () if run.calls[number].op in PRODUCTS else run.calls[number].values:
            if value.id in run.flow.moving and value.id not in seen:
                seen.add(value.id)
                open_.append(value)
    return tuple(places)


def _inside(groups: Sequence[Group], tensors: Collection[str]) -> tuple[str, ...]:
    """The groups all of whose places are in these tensors."""
    return tuple(group.name for group in groups if all(member.name in tensors for member in group.members))


def _with_titles(blocks: Sequence[Block], taken: set[str]) -> Iterator[Block]:
    """Names that are no group's and no other block's."""
    seen = set(taken)
    for block in blocks:
        name, times = block.name, 1
        while name in seen:
            times += 1
            name = f"{block.name}#{times}"
        seen.add(name)
        yield replace(block, name=name)
