"""One model of the zoo in, what compress or Torch-Pruning makes of it out; meant for a process of its own.

python tests/zoo/attempt.py torchvision resnet18 compress
"""

from __future__ import annotations

import copy
import importlib
import json
import re
import resource
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "oracle"))

from oracle import call, compare, kept, number_every_element, snapshot

import compress
from compress.graph.inputs import collect_tensors

RATIO = 0.5

ORACLE_UP_TO = 100_000_000
"""Parameters of the largest model that goes through the value oracle: in float64 it takes some 24 bytes each."""


BEYOND_ORACLE = {"efficientvim_m1": "averages over states, which are not zero where they are masked"}
"""Models that the oracle, which masks by zeros, cannot judge, and why: they are compared by verification alone."""


def build(source: str, name: str) -> tuple[nn.Module, Any]:
    """The model and its inputs; the same random weights every time."""
    torch.manual_seed(0)
    return importlib.import_module(f"{source}_models").build(name)


def build_for_oracle(source: str, name: str) -> tuple[nn.Module, Any, str]:
    """Model and inputs in float64 with numbered elements, and ""; or as they are, and what stops it."""
    model, inputs = build(source, name)
    if count(model) > ORACLE_UP_TO:
        return model, inputs, "too large"
    if name in BEYOND_ORACLE:
        return model, inputs, BEYOND_ORACLE[name]
    model, doubled = number_every_element(model), in_float64(inputs)
    try:
        with torch.no_grad():
            answer = call(copy.deepcopy(model), doubled)  # a copy, because some forwards keep things
    except RuntimeError:
        return *build(source, name), "float32 only"
    if any(not tensor.is_floating_point() for tensor in collect_tensors(answer)):
        number_every_element(model, gain=0.5)  # a detector: smaller boxes, of which some reach its last stage
    return model, doubled, ""


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def cut_with_compress(source: str, name: str, groups: Literal["whole", "inside"] = "whole") -> dict[str, Any]:
    """Prune half, and hold the result against the value oracle, which knows nothing of how it was cut."""
    model, inputs, unfit = build_for_oracle(source, name)
    before = snapshot(model)
    start = time.perf_counter()
    graph = compress.trace(model, inputs, groups=groups)
    pruned = compress.apply(model, graph, compress.plan(graph, ratio=RATIO))
    seconds = time.perf_counter() - start
    assert snapshot(model) == before, "the given model was changed"
    verification = pruned.verification
    assert verification is not None
    return {
        "params": count(model),
        "left": kept(model, pruned.model),
        "seconds": seconds,
        "groups": len(graph.groups),
        "frozen": dict(Counter(f"{why.by}: {without_places(why.reason)}" for why in pruned.frozen.values())),
        "by_verification": [name for name, why in pruned.frozen.items() if why.by == "verification"],
        "in_the_way": in_the_way(graph, pruned),
        "unknown": {op: len(modules) for op, modules in graph.unknown.items()},
        "error": max(verification.rel, verification.randomised_rel),
        **({"oracle": unfit} if unfit else hold_against_oracle(model, pruned.model, inputs)),
    }


def hold_against_oracle(model: nn.Module, cut: nn.Module, inputs: Any) -> dict[str, Any]:
    """oracle: the largest relative difference, at most 1e-9, or 1e-6 where only a second look finds them equal.

    second_look: norms that a network writes itself count masked channels in their means, which it leaves out; and the
    code itself may write float32.
    """
    try:
        return {"oracle": compare(model, cut, inputs), "second_look": False}
    except AssertionError:
        return {"oracle": compare(model, cut, inputs, tolerance=1e-6, without_zeros=True), "second_look": True}


def in_the_way(graph: Any, pruned: Any) -> list[dict[str, Any]]:
    """Groups that stay whole though they reach more than 2% of the parameters, the largest first."""
    total, rows = graph.cost().params, []
    for group in graph.groups:
        places: Counter[str] = Counter()
        for member in group.members:
            if not member.buffer:
                shape = graph.shapes[member.name]
                share = len(member.index) * torch.Size(shape).numel() / shape[member.dim] / total
                places[member.name] = max(places[member.name], share)
        reach = sum(places.values())
        if group.name in pruned.frozen and reach > 0.02:
            why = pruned.frozen[group.name]
            rows.append({"group": group.name, "units": group.size, "reach": reach, "why": str(why)})
    unused = sum(torch.Size(graph.shapes[name]).numel() for name in graph.unused) / total
    if unused > 0.02:
        rows.append({"group": "unused", "units": 0, "reach": unused, "why": "the forward never uses them in eval mode"})
    return sorted(rows, key=lambda row: -row["reach"])


def without_places(reason: str) -> str:
    """A reason without the module and the sizes that it names, so that equal ones can be counted."""
    reason = re.sub(r" in (the model|[\w-]+(\.[\w-]+)*)(?=[ :,)]|$)", "", reason)
    return re.sub(r"\b\d+\b", "N", reason)


def in_float64(tree: Any) -> Any:
    if isinstance(tree, torch.Tensor):
        return tree.double() if tree.is_floating_point() else tree
    if isinstance(tree, dict):
        return {key: in_float64(item) for key, item in tree.items()}
    return type(tree)(in_float64(item) for item in tree) if isinstance(tree, list | tuple) else tree


def cut_with_torch_pruning(source: str, name: str) -> dict[str, Any]:
    """The same question to Torch-Pruning as it comes, told only which layers give the outputs."""
    import torch_pruning

    model, inputs, unfit = build_for_oracle(source, name)
    params = count(model)
    original, _, _ = build_for_oracle(source, name)
    modules = dict(model.named_modules())
    outputs = [
        modules[member.name.rpartition(".")[0]]
        for group in compress.trace(original, inputs).groups
        if group.frozen and "an output of the network" in group.frozen.reason
        for member in group.members
        if member.role == "out"
    ]
    start = time.perf_counter()
    pruner = torch_pruning.pruner.BasePruner(
        model,
        inputs if isinstance(inputs, dict | tuple) else (inputs,),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=RATIO,
        ignored_layers=outputs,
    )
    pruner.step()
    seconds = time.perf_counter() - start
    with torch.no_grad():
        call(model, inputs)
    return {
        "seconds": seconds,
        "left": count(model) / params,
        **({"oracle": unfit} if unfit else hold_against_oracle(original, model, inputs)),
    }


TOOLS = {
    "compress": cut_with_compress,
    "inside": partial(cut_with_compress, groups="inside"),
    "torch-pruning": cut_with_torch_pruning,
}
"""inside: compress, with every group of a grouped convolution made narrower instead of whole groups gone."""


def examine(source: str, name: str, tool: str) -> dict[str, Any]:
    """What became of one model; a failure is a result too."""
    torch.set_num_threads(1)
    try:
        found = {"status": "ok", **TOOLS[tool](source, name)}
    except Exception as error:
        lines = str(error).strip().splitlines()
        found = {"status": "failed", "why": f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]}
    found["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return found


if __name__ == "__main__":
    print(json.dumps(examine(*sys.argv[1:])))
