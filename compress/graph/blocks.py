"""Residual branches: what adds itself to the stream that it starts from, and what stands in for it when it is gone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .graph import Frozen


@dataclass(frozen=True)
class StandIn:
    """What takes the place of the module at `path`: it hands on one of its arguments, or zeros in that one's shape.

    argument: position or keyword. outputs: True for each tensor and False for each None of the tuple that the module
    returned, None where it returned a tensor. alone: the module was given one argument, by position.
    """

    path: str
    zeros: bool = False
    argument: int | str = 0
    outputs: tuple[bool, ...] | None = None
    alone: bool = True

    def make(self, training: bool = False) -> nn.Module:
        """The module: an nn.Identity where that will do."""
        if not self.zeros and self.argument == 0 and self.outputs is None and self.alone:
            return nn.Identity().train(training)
        return Skipped(self.zeros, self.argument, self.outputs).train(training)


class Skipped(nn.Module):
    """Stands where a module of a removed residual branch stood: gives one of its arguments, or zeros in its shape."""

    def __init__(self, zeros: bool, argument: int | str = 0, outputs: tuple[bool, ...] | None = None) -> None:
        super().__init__()
        self.zeros, self.argument, self.outputs = zeros, argument, outputs

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor | tuple[Tensor | None, ...]:
        x = args[self.argument] if isinstance(self.argument, int) else kwargs[self.argument]
        y = torch.zeros_like(x) if self.zeros else x
        return y if self.outputs is None else tuple(y if tensor else None for tensor in self.outputs)

    def extra_repr(self) -> str:
        """What it gives."""
        return f"argument={self.argument!r}{', zeros' if self.zeros else ''}"


@dataclass(frozen=True, eq=False)
class Block:
    """A residual branch: computed from a stream, from nothing else and for nothing else, and added to that stream.

    name: of the module that becomes an identity without it, else of the branch's largest. stand_ins: what replaces
    its modules. addition: number of the recorded call; branch: which of its arguments, 0 or 1, the branch is. tensors:
    names of the parameters and buffers that go with it. calls: numbers of the recorded calls that go with it. makers:
    (parameter, dimension) of the places that make its output. groups: names of the groups that live in it alone.
    frozen: why it stays, None where it may go. turn: how many calls of the addition's op on two tensors of one shape
    came before it: these are the same on every device, while a bias may be added by an op of its own or not.
    """

    name: str
    addition: int
    branch: int
    stand_ins: tuple[StandIn, ...] = ()
    tensors: frozenset[str] = frozenset()
    calls: frozenset[int] = frozenset()
    makers: tuple[tuple[str, int], ...] = ()
    groups: tuple[str, ...] = ()
    frozen: Frozen | None = field(default=None)
    turn: int = 0
