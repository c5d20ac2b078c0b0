"""A dependency graph in, a page of text out: every group, what is frozen and why, ops without a rule."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .graph import DependencyGraph


def explain(graph: DependencyGraph) -> str:
    """One line a group: name, units, places; frozen groups with by what and why; links; ops that no rule speaks for."""
    free = [group for group in graph.groups if group.frozen is None]
    frozen = [group for group in graph.groups if group.frozen is not None]
    cost = graph.cost()
    lines = [
        f"{len(graph.groups)} groups, {graph.n_units:,} units; {len(free)} groups with "
        f"{sum(group.size for group in free):,} units may be cut",
        str(cost),
    ]
    width = min(max((len(group.name) for group in graph.groups), default=0), 48)
    if free:
        lines += ["", "may be cut:"]
        for group in free:
            places = ", ".join(f"{member.name}[{member.dim}]" for member in group.members[:4])
            more = f" and {len(group.members) - 4} more" if len(group.members) > 4 else ""
            linked = f"  (keeps equally many: {group.links[0].reason})" if group.links else ""
            lines.append(f"  {group.name:<{width}} {group.size:>6} units  in {places}{more}{linked}")
    if frozen:
        lines += ["", "stays whole:"]
        lines += [f"  {group.name:<{width}} {group.size:>6} units  {group.frozen}" for group in frozen]
    if graph.blocks:
        width = min(max(len(block.name) for block in graph.blocks), 48)
        lines += ["", "residual branches (blocks=):"]
        for block in graph.blocks:
            said = f"stays: {block.frozen}" if block.frozen else f"{graph.cost_of_block(block.name)} go with it"
            lines.append(f"  {block.name:<{width}} {said}")
    if graph.unknown:
        lines += [
            "",
            "ops without a rule (what they touch stays whole; a plugin can add one: compress_register_op_rules):",
        ]
        for op, modules in sorted(graph.unknown.items()):
            where = ", ".join(sorted({module or "the model" for module in modules})[:3])
            lines.append(f"  {op}: {len(modules)} times, in {where}")
    if graph.unused:
        unused = list(dict.fromkeys(name.rpartition(".")[0] or name for name in graph.unused))
        shown = ", ".join(unused[:3]) + (f" and {len(unused) - 3} more" if len(unused) > 3 else "")
        size = sum(prod(graph.shapes[name]) for name in graph.unused)
        lines += [
            "",
            f"never used by the forward in eval mode ({size:,} parameters; they stay whole, and may no longer fit "
            f"where training does use them): {shown}",
        ]
    return "\n".join(lines)
