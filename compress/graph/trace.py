"""A model and example inputs in, its dependency graph out."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from torch import nn

from ..errors import CompressError, nearest
from ..plugins import installed
from .axes import resolve
from .branches import find_blocks
from .counts import keep_quotient, tie_sizes
from .flow import MADE
from .graph import DependencyGraph, Step
from .inputs import collect_tensors
from .ints import Expression, Size, TracedInt, leaves
from .labels import Labels, Need
from .rules import RULES, Rule
from .rules.create import CREATE
from .rules.elementwise import ARITHMETIC
from .rules.reshape import EXPLICIT
from .scales import read_scales
from .tape import Call, Tape, Value, record
from .uncollected import uncollected
from .units import form
from .walk import named_tensors

ALWAYS_READ = {"expand", "convolution", "linear", "mm", "bmm", "addmm", "baddbmm", *CREATE}
"""Read even where no input carries labels: the size may be a channel's, products have multiply-adds to count."""


@uncollected
def trace(
    model: nn.Module,
    example_inputs: Any,
    heads: Literal["whole", "inside"] = "whole",
    groups: Literal["whole", "inside"] = "whole",
    rules: Mapping[str, Rule] | None = None,
) -> DependencyGraph:
    """Run a shell of the model once and build the dependency graph of its channels.

    example_inputs: a tensor, a tuple (positional arguments; a list is one argument) or a dict (keyword arguments).
    heads: whether attention loses whole heads or width inside each. groups: the same for grouped convolutions.
    rules: ATen op -> rule, asked before the built-in ones; default those of installed plugins (a recipe's own plugin
    files have theirs in its registry).
    Raises CompressError where the model does not run on the inputs. The model is not changed.
    """
    for option, value in (("heads", heads), ("groups", groups)):
        if value not in ("whole", "inside"):
            raise CompressError(
                f"{option}='{value}' is neither 'whole' nor 'inside'{nearest(value, ('whole', 'inside'))}"
            )
    if not collect_tensors(example_inputs):
        raise CompressError("example_inputs holds no tensor; give a tensor, a tuple of arguments or a dict of keywords")
    tape = record(model, example_inputs)
    own = installed().op_rules if rules is None else rules
    labels = read(tape, {**RULES, **own}, {"heads": heads, "groups": groups})
    tensors = named_tensors(model)
    parameters = {name: None for name, tensor in tensors.items() if isinstance(tensor, nn.Parameter)}
    scales = read_scales(tape, labels, parameters) if heads == "inside" else ()
    tie_sizes(labels)
    resolve(labels, heads)
    units = form(labels, parameters)
    met = {value.name for call in tape.calls for value in call.values} | {value.name for value in tape.inputs}
    returned = tape.returned.items()
    return DependencyGraph(
        groups=units.groups,
        shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
        parameters=frozenset(parameters),
        example_inputs=example_inputs,
        places=labels.places,
        unit_of_label=units.of_label,
        terms=tuple(labels.terms),
        needs=tuple(labels.needs),
        steps=_steps(tape, labels),
        sizes={value: (labels.sizes[value], labels.layouts.get(value, ())) for value in _read_sizes(labels)},
        attributes=tape.attributes,
        unknown=labels.unknown,
        options={"heads": heads, "groups": groups},
        reference=weakref.ref(model),
        unused=tuple(name for name in parameters if name not in met),
        blocks=find_blocks(tape, labels, units.groups, model),
        rules=rules,
        returned={path: tuple((v.shape, labels.layouts.get(v.id, ())) for v in made) for path, made in returned},
        on_meta=tape.device == "meta",
        scales=scales,
    )


def read(tape: Tape, rules: Mapping[str, Rule], options: dict[str, str]) -> Labels:
    """Apply the rules to a tape, call by call. An op without a rule freezes what it touches and is named."""
    sizes = {value.id: value.shape for value in _values(tape)}
    used = frozenset(v.id for v in [*tape.outputs, *(v for call in tape.calls for v in call.values)])
    labels = Labels(options=options, attributes=tape.attributes, sizes=sizes, used=used)
    for number, call in enumerate(tape.calls):
        labels.current = number
        if call.op in ARITHMETIC and call.python is not None and call.python[0] not in EXPLICIT:
            for item in call.python[1]:
                if isinstance(item, TracedInt):
                    _keep_number(item.origin, f"{call.where} calculates with it", labels)
        inputs = call.values
        if call.op not in ALWAYS_READ and not any(labels.of(value) for value in inputs):
            for out in call.outs:
                labels.layouts[out.id] = ()
            continue
        known = len(labels.terms)
        speaker = rules.get(call.op) or rules.get(call.op.rstrip("_"))
        if speaker is None:
            labels.unknown.setdefault(call.op, []).append(call.module)
            for value in inputs:
                for found in labels.all_labels(value):
                    labels.pin(found, f"no rule for {call.op} (in {call.module or 'the model'})")
            layouts: Any = [()] * len(call.outs)
        else:
            layouts = speaker(call, labels)
            if isinstance(layouts, tuple):
                layouts = [layouts]
        labels.terms[known:] = [replace(term, call=number) for term in labels.terms[known:]]
        for out, layout in zip(call.outs, layouts, strict=False):
            labels.layouts[out.id] = layout
    for expression, module in dict.fromkeys(tape.numbers):
        _keep_number(expression, f"{module or 'the model'} calculates with it", labels)
    for value in tape.outputs:
        for found in labels.all_labels(value):
            labels.pin(found, "an output of the network")
    return labels


def _keep_number(expression: Expression, where: str, labels: Labels) -> None:
    """The code uses this integer as a number: it must stay, or the attributes and sizes it is made of must."""
    if keep_quotient(expression, where, labels):
        return
    for leaf in leaves(expression):
        if isinstance(leaf, Size):
            for block in labels.layouts.get(leaf.value, ()):
                if leaf.dim in block.dims:
                    labels.pin(labels.lift(block, block.dims.index(leaf.dim)), f"its size is a number: {where}")
        else:
            labels.needs.append(Need(leaf, None, labels.attributes[leaf], where))


def _read_sizes(labels: Labels) -> set[int]:
    """The values of which the code read a size that it wrote somewhere else."""
    return {leaf.value for need in labels.needs for leaf in leaves(need.expression) if isinstance(leaf, Size)}


def _values(tape: Tape) -> list[Value]:
    found = [*tape.inputs]
    for call in tape.calls:
        found += [*call.values, *call.outs]
    return found


def _steps(tape: Tape, labels: Labels) -> tuple[Step, ...]:
    steps = []
    open_ = {value.id for value in tape.inputs}  # what depends on inputs, parameters or buffers
    for number, call in enumerate(tape.calls):
        depends = call.op not in MADE and any(value.id in open_ or value.name is not None for value in call.values)
        if depends:
            open_.update(out.id for out in call.outs)
        steps.append(
            Step(
                call.op,
                call.module,
                tuple((out.shape, labels.layouts.get(out.id, ())) for out in call.outs),
                labels.reducers.get(number, ()),
                tuple(layout for value in call.values if (layout := labels.layouts.get(value.id))),
                depends and _decides(call, labels),
            )
        )
    return tuple(steps)


def _decides(call: Call, labels: Labels) -> bool:
    """It makes integers or truth values of real numbers, and they are not about channels."""
    return (
        any(value.dtype.is_floating_point for value in call.values)
        and not all(out.dtype.is_floating_point or out.dtype.is_complex for out in call.outs)
        and not any(labels.layouts.get(out.id) for out in call.outs)
    )
