"""What a caller asks of a plan in, checked numbers out: how much goes, of which groups, and what each must keep."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CompressError, nearest

if TYPE_CHECKING:
    from ..graph.graph import DependencyGraph, Member

DEFAULT_RATIO = 0.5
SCOPES = ("local", "global", "isomorphic")
ROLES = ("@residual", "@inner")


@dataclass(frozen=True)
class Question:
    """How much goes: `ratio`, a fraction of the units, or `budgets`, resource -> what is left of it.

    budgets: up to 1 a fraction of the whole network's, above how much. ratios: glob over group names, or a role, -> the
    fraction of each such group's units that goes, whatever the rest is asked.
    """

    ratio: float | None
    budgets: Mapping[str, float]
    ratios: Mapping[str, float] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """As plain values, the way the caller put it."""
        said: dict[str, Any] = {} if self.ratio is None else {"ratio": self.ratio}
        said |= {f"keep_{name}": value for name, value in self.budgets.items()}
        return said | ({"ratios": dict(self.ratios)} if self.ratios else {})


def ask(
    ratio: float | None,
    budgets: Mapping[str, float | None],
    ratios: Mapping[str, float] | None,
) -> Question:
    """The question in numbers; ratio 0.5 where nothing is asked. Raises CompressError, one line, for any other."""
    given = {name: value for name, value in budgets.items() if value is not None}
    if given and ratio is not None:
        both = " and ".join(["ratio", *(f"keep_{name}" for name in given)])
        raise CompressError(f"{both} were given; a plan answers a ratio or budgets of what is left")
    for name, value in given.items():
        number(f"keep_{name}", value)
        if not 0 < value < float("inf"):
            raise CompressError(f"keep_{name}: expected a fraction in (0, 1] or a number above 1, found {value}")
    if not given and ratio is None:
        ratio = DEFAULT_RATIO
    if ratio is not None:
        fraction("ratio", ratio)
    for glob, value in (ratios or {}).items():
        fraction(f"ratios '{glob}'", value)
    plain = {name: value if isinstance(value, int) else float(value) for name, value in given.items()}
    return Question(None if ratio is None else float(ratio), plain, dict(ratios or {}))


def number(name: str, value: Any) -> None:
    """Raise CompressError unless the value is a number."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise CompressError(f"{name}: expected a number, found {value!r}")


def fraction(name: str, value: Any) -> None:
    """Raise CompressError unless the value is a fraction of units that may go."""
    number(name, value)
    if not 0 <= value < 1:
        raise CompressError(f"{name}: the fraction of units removed, expected in [0, 1), found {value}")


def check_limits(scope: str, round_to: Any, min_keep: Any, max_ratio: Any) -> None:
    """Raise CompressError, one line, for limits that are none."""
    if scope not in SCOPES:
        expected = f"{', '.join(map(repr, SCOPES[:-1]))} or {SCOPES[-1]!r}"
        raise CompressError(f"scope: expected {expected}, found {scope!r}{nearest(str(scope), SCOPES)}")
    for name, value in {"round_to": round_to, "min_keep": min_keep}.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise CompressError(f"{name}: expected an integer of at least 1, found {value!r}")
    number("max_ratio", max_ratio)
    if not 0 < max_ratio <= 1:
        raise CompressError(
            f"max_ratio: the largest fraction of a group that may go, expected in (0, 1], found {max_ratio}"
        )


def check_blocks(blocks: Any) -> None:
    """Raise CompressError unless this is a number of blocks, or `ranked`."""
    counted = isinstance(blocks, int | np.integer) and not isinstance(blocks, bool) and blocks >= 0
    if not counted and blocks != "ranked":
        raise CompressError(f"blocks: expected how many go, or 'ranked', found {blocks!r}")


def match(graph: DependencyGraph, glob: str, option: str) -> list[str]:
    """The groups that a glob or a role names. Raises CompressError where there are none, with what was meant.

    Roles: `@residual`, groups that several layers make together; `@inner`, groups that one layer makes.
    """
    if glob.startswith("@"):
        if glob not in ROLES:
            raise CompressError(f"{option}: there is no role '{glob}'{nearest(glob, ROLES)}")
        makers = {group.name: sum(_makes(graph, member) for member in group.members) for group in graph.groups}
        found = [name for name, n in makers.items() if (n > 1 if glob == "@residual" else n == 1)]
        if not found:
            raise CompressError(f"{option}: no group of this network has the role '{glob}'")
        return found
    names = [group.name for group in graph.groups]
    matched = fnmatch.filter(names, glob)
    if not matched:
        homes = {
            group.name
            for group in graph.groups
            for member in group.members
            if member.role == "out" and fnmatch.fnmatchcase(member.name.rpartition(".")[0], glob)
        }
        hint = f"; those layers are cut with group {', '.join(sorted(homes))}" if homes else nearest(glob, names)
        raise CompressError(f"{option}: '{glob}' matches no group{hint}")
    return matched


def _makes(graph: DependencyGraph, member: Member) -> bool:
    """Whether a place is the outputs of a layer that mixes channels; a depthwise convolution passes them on."""
    shape = graph.shapes[member.name]
    return member.role == "out" and len(shape) > 1 and shape[1 - min(member.dim, 1)] > 1


def own_ratios(graph: DependencyGraph, ratios: Mapping[str, float]) -> dict[str, float]:
    """Group name -> the ratio of its own; of several globs that match, the last counts."""
    return {name: value for glob, value in ratios.items() for name in match(graph, glob, "ratios")}
