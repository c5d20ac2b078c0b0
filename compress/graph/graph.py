"""The dependency graph as a value: groups of interchangeable units, where they occur, and why some stay whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from ..errors import CompressError, nearest

if TYPE_CHECKING:
    from ..pruning.plan import Plan
    from .blocks import Block
    from .ints import Attribute
    from .labels import Array, Layout, Need, Term
    from .scales import Scale


@dataclass(frozen=True)
class Member:
    """A place - one dimension of one parameter or buffer - where a group's units occur.

    index: (k,) int64 positions along `dim`; unit: (k,) int64 in [0, group.size), the unit that lives at each of them.
    A unit may occur several times in one place (a channel flattened over space), a place may hold several groups'.
    role: `out`, `in`, `norm`, `bias` or `other`; buffers (running statistics) carry the role of what they belong to.
    """

    name: str
    dim: int
    index: np.ndarray
    unit: np.ndarray
    role: str
    buffer: bool = False


@dataclass(frozen=True)
class Frozen:
    """Why a group stays whole: `by` is `rule`, `policy` or `verification`; `reason` one sentence."""

    reason: str
    by: str = "rule"

    def __str__(self) -> str:
        return f"{self.reason} [{self.by}]"


@dataclass(frozen=True)
class Link:
    """Ranges of units that must keep equally many survivors, e.g. the two halves of a chunk.

    slots: ((group name, (n,) unit indices), ...), all of one length n.
    """

    slots: tuple[tuple[str, np.ndarray], ...]
    reason: str = ""


@dataclass(frozen=True)
class Group:
    """A layer's interchangeable units with everything that is cut together with them."""

    name: str
    size: int
    members: tuple[Member, ...]
    links: tuple[Link, ...] = ()
    frozen: Frozen | None = field(default=None)


@dataclass(frozen=True)
class Cost:
    """params: elements of all parameters. macs: multiply-adds of convolutions, linear layers and matmuls as traced."""

    params: int
    macs: int

    def __str__(self) -> str:
        return f"{self.params:,} parameters, {self.macs:,} multiply-adds"


@dataclass(frozen=True, eq=False)
class Step:
    """One recorded ATen call, for verification: the layout of its outputs, and what it reduces over.

    reducers: (argument position, dim, labels) of arguments that the masked network narrows to the survivors;
    position -1 - k: output k, which it widens again. given: layouts of its arguments, of those that carry channels.
    decides: it makes integers or truth values, without channels, of real numbers that depend on inputs or tensors of
    the network.
    """

    op: str
    module: str
    outs: tuple[tuple[tuple[int, ...], Layout], ...]
    reducers: tuple[tuple[int, int, Array], ...]
    given: tuple[Layout, ...]
    decides: bool = False

    @property
    def touched(self) -> list[Array]:
        """Every label array that its arguments and outputs carry, flat."""
        layouts = (*self.given, *(layout for _, layout in self.outs))
        return [block.labels.ravel() for layout in layouts for block in layout]

    def __str__(self) -> str:
        return f"aten.{self.op} in {self.module or 'the model'}"


@dataclass(frozen=True, eq=False)
class DependencyGraph:
    """Which channels of a network live or die together, where they occur, and what they cost.

    groups: the units by group, in the order in which the network makes them; the units of group g have the global
    numbers start(g.name) .. start(g.name) + g.size - 1. shapes: of every parameter and buffer. unknown: ATen ops
    without a rule -> the modules that call them. unused: parameters that the forward, in eval mode, never met. blocks:
    residual branches, each of which can go as a whole; block b has the number n_units + its position. rules: what
    `trace` was given. returned: module path -> shape and layout of the tensors it returned, call by call. on_meta: the
    forward ran without values, so none can decide which calls it makes. scales: queries that have to be scaled where
    they become narrower. It holds names, not tensors (beside the example inputs it was given).
    """

    groups: tuple[Group, ...]
    shapes: Mapping[str, tuple[int, ...]]
    parameters: frozenset[str]
    example_inputs: Any
    places: Mapping[tuple[str, int], Array]
    unit_of_label: Array
    terms: tuple[Term, ...]
    needs: tuple[Need, ...]
    steps: tuple[Step, ...]
    sizes: Mapping[int, tuple[tuple[int, ...], Layout]]
    attributes: Mapping[Attribute, int]
    unknown: Mapping[str, list[str]]
    options: Mapping[str, str]
    reference: Callable[[], nn.Module | None]
    unused: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()
    rules: Mapping[str, Any] | None = None
    returned: Mapping[str, tuple[tuple[tuple[int, ...], Layout], ...]] = field(default_factory=dict)
    on_meta: bool = True
    scales: tuple[Scale, ...] = ()

    @property
    def model(self) -> nn.Module | None:
        """The traced model, or None when it is gone: the graph does not keep it alive."""
        return self.reference()

    def parameter(self, name: str) -> Any:
        """The traced model's parameter of that name. Raises CompressError when the model is gone or has none."""
        if self.model is None:
            raise CompressError("the traced model is gone: keep a reference to it, or trace again")
        try:
            return self.model.get_parameter(name)
        except AttributeError:
            raise CompressError(f"no parameter '{name}'{nearest(name, self.parameters)}") from None

    @cached_property
    def _starts(self) -> dict[str, int]:
        starts, position = {}, 0
        for group in self.groups:
            starts[group.name] = position
            position += group.size
        return starts

    @cached_property
    def _by_name(self) -> dict[str, Group]:
        return {group.name: group for group in self.groups}

    @cached_property
    def n_units(self) -> int:
        """How many units all groups have together."""
        return sum(group.size for group in self.groups)

    def start(self, name: str) -> int:
        """The global number of a group's first unit."""
        return self._starts[self[name].name]

    def __getitem__(self, name: str) -> Group:
        try:
            return self._by_name[name]
        except KeyError:
            raise CompressError(f"no group '{name}'{nearest(name, self._by_name)}") from None

    def block(self, name: str) -> Block:
        """The block of that name. Raises CompressError where there is none."""
        found = next((block for block in self.blocks if block.name == name), None)
        if found is None:
            raise CompressError(f"no block '{name}'{nearest(name, [block.name for block in self.blocks])}")
        return found

    def alive(self, plan: Plan | None = None) -> np.ndarray:
        """(n_units + blocks,) bool: the units, then the blocks, that a plan leaves."""
        alive = np.ones(self.n_units + len(self.blocks), dtype=bool)
        for name, removed in (plan.removed if plan else {}).items():
            alive[self.start(name) + np.asarray(removed, dtype=np.int64)] = False
        for name in plan.blocks if plan else ():
            alive[self.n_units + self.blocks.index(self.block(name))] = False
        return alive

    def alive_labels(self, alive: np.ndarray) -> np.ndarray:
        """(labels + blocks,) bool: the labels whose units are alive, then the blocks; without a unit, it always is.

        alive: as from `alive`, or of the units alone, (n_units,).
        """
        units, blocks = alive[: self.n_units], alive[self.n_units :]
        blocks = blocks if len(blocks) else np.ones(len(self.blocks), dtype=bool)
        return np.concatenate([np.append(units, True)[self.unit_of_label], blocks])

    @cached_property
    def _blocks_of(self) -> tuple[dict[str, tuple[Array, ...]], dict[int, tuple[Array, ...]]]:
        """Tensor name, and number of a call -> the labels, one array each, of the blocks that it goes with."""
        of_tensor: dict[str, tuple[Array, ...]] = {}
        of_call: dict[int, tuple[Array, ...]] = {}
        for number, block in enumerate(self.blocks):
            label = np.array([len(self.unit_of_label) + number])
            for name in block.tensors:
                of_tensor[name] = (*of_tensor.get(name, ()), label)
            for call in block.calls:
                of_call[call] = (*of_call.get(call, ()), label)
        return of_tensor, of_call

    def blocks_of_tensor(self, name: str) -> tuple[Array, ...]:
        """The labels, one array each, of the blocks that a parameter or buffer goes with."""
        return self._blocks_of[0].get(name, ())

    def blocks_of_call(self, number: int) -> tuple[Array, ...]:
        """The labels, one array each, of the blocks that a recorded call - a step - goes with."""
        return self._blocks_of[1].get(number, ())

    def cost(self, plan: Plan | None = None) -> Cost:
        """Parameters and multiply-adds, before a cut or after the plan's."""
        return self.cost_of(self.alive(plan))

    def cost_of(self, alive: np.ndarray) -> Cost:
        """The same for any set of surviving units and blocks, as from `alive`. Exact, without building anything."""
        return self._prices.cost(self.alive_labels(alive))

    def cost_of_block(self, name: str) -> Cost:
        """What the whole network saves without this block."""
        alive, whole = self.alive(), self.cost()
        alive[self.n_units + self.blocks.index(self.block(name))] = False
        left = self.cost_of(alive)
        return Cost(whole.params - left.params, whole.macs - left.macs)

    @cached_property
    def decides(self) -> bool:
        """Whether any recorded op turns real numbers into integers or truth values (topk, nms, `>`)."""
        return any(step.decides for step in self.steps)

    @cached_property
    def _prices(self) -> Any:
        from .cost import Prices

        return Prices.of(self)

    def freeze(self, reasons: Mapping[str, Frozen]) -> DependencyGraph:
        """The same graph with these groups or blocks frozen. Raises CompressError for a name that is neither."""
        if not reasons:
            return self
        blocks = {block.name for block in self.blocks}
        for name in reasons:
            _ = name in blocks or self[name]
        return replace(
            self,
            groups=tuple(
                replace(group, frozen=reasons[group.name]) if group.name in reasons and group.frozen is None else group
                for group in self.groups
            ),
            blocks=tuple(
                replace(block, frozen=reasons[block.name]) if block.name in reasons and block.frozen is None else block
                for block in self.blocks
            ),
        )

    def explain(self) -> str:
        """Every group with its size, places and, where it stays whole, why; and the ops that have no rule."""
        from .explain import explain

        return explain(self)
