"""Names of torchvision classification models in, how long `compress.prune` and Torch-Pruning take out, in turns.

    python benchmarks/peer.py                          # every classification model
    python benchmarks/peer.py 'densenet*' resnet50     # these

Both are asked for half of every group's channels by l2 magnitude: `prune` with and without verification against
Torch-Pruning's constructor and step, which verifies nothing. All contenders in one process, one thread, in turns,
medians; each model in a process of its own with a limit of memory, because Torch-Pruning leaves memory in use and for
some models wants more than there is. `floor`: the forward pass of the dense and that of the cut network that
verification is made of, on the images that it takes: smaller ones, where the network treats them as large ones.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import fnmatch
import gc
import json
import math
import multiprocessing
import resource
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import torch_pruning
import torchvision
from torch import Tensor, nn

import compress
from compress.pruning.noise import Noise, NotAsRecorded, can_be_small
from compress.pruning.replay import run

RATIO = 0.5


def names() -> list[str]:
    """Torchvision's classification models that are not quantised."""
    return torchvision.models.list_models(module=torchvision.models)


def theirs(model: nn.Module, image: Tensor, last: list[nn.Module]) -> None:
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    pruner = torch_pruning.pruner.BasePruner(
        model, image, importance=importance, pruning_ratio=RATIO, ignored_layers=last
    )
    pruner.step()


def forwards(dense: nn.Module, cut: nn.Module, image: Tensor) -> None:
    with torch.no_grad():
        for model in (dense, cut):
            model(image)


def verified_on(model: nn.Module, graph: compress.DependencyGraph, image: Tensor) -> tuple[Tensor, bool]:
    """What verification runs the networks on, and whether it is smaller than the example."""
    if can_be_small(graph):
        with contextlib.suppress(NotAsRecorded):
            small, _ = Noise(graph, small=True).run(lambda x, watch=None: run(model, x, watch), torch.float32)
            return small, True
    return image, False


def measure(name: str, size: int, rounds: int, gib: float) -> dict[str, float | str]:
    """Median seconds of each contender, after one round that is not counted."""
    resource.setrlimit(resource.RLIMIT_DATA, (int(gib * 2**30), int(gib * 2**30)))
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    image = torch.rand(1, 3, size, size)
    graph = compress.trace(model, image)
    modules = dict(model.named_modules())
    outputs = [
        member.name.rpartition(".")[0]
        for group in graph.groups
        if group.frozen and "an output of the network" in group.frozen.reason
        for member in group.members
        if member.role == "out"
    ]
    cut = compress.prune(model, image, ratio=RATIO, verify=False).model
    seen, small = verified_on(model, graph, image)
    found: dict[str, float | str] = {"name": name, "ops": len(graph.steps), "params": graph.cost().params}
    found["small"] = "" if small else "full size"
    contenders: dict[str, Callable[[], object]] = {
        "unverified": partial(compress.prune, model, image, ratio=RATIO, verify=False),
        "verified": partial(compress.prune, model, image, ratio=RATIO),
        "floor": partial(forwards, model, cut, seen),
    }
    times: dict[str, list[float]] = {key: [] for key in (*contenders, "theirs")}
    for number in range(rounds + 1):
        peer = copy.deepcopy(model)
        last = [dict(peer.named_modules())[path] for path in outputs if path in modules]
        if "failed" not in found:
            contenders["theirs"] = partial(theirs, peer, image, last)
        for key, contender in tuple(contenders.items()):
            gc.collect()  # what the one before has left
            start = time.perf_counter()
            try:
                contender()
            except Exception as error:
                if key != "theirs":
                    raise
                found["failed"] = f"{type(error).__name__}: {error}".splitlines()[0][:60]
                del contenders["theirs"]
            if number:  # the first round warms up
                times[key].append(time.perf_counter() - start)
    return found | {key: statistics.median(taken) for key, taken in times.items() if taken}


def lines(results: list[dict[str, float | str]]) -> Iterator[str]:
    """The table, and the geometric means of what Torch-Pruning takes over what `prune` takes."""
    yield "| model | ops | Torch-Pruning s | prune s | times faster | verified s | times faster | floor s | |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
    gains: dict[str, list[float]] = {"unverified": [], "verified": []}
    for row in results:
        peer = row.get("theirs") if "failed" not in row else None
        for key, found in gains.items():
            found += [] if peer is None else [float(peer) / float(row[key])]
        gain = {key: "" if peer is None else f"{found[-1]:.2f}" for key, found in gains.items()}
        shown = row.get("failed", "") if peer is None else f"{peer:.3f}"
        yield (
            f"| {row['name']} | {row['ops']} | {shown} | {row['unverified']:.3f} | {gain['unverified']} | "
            f"{row['verified']:.3f} | {gain['verified']} | {row['floor']:.3f} | {row['small']} |"
        )
    for key, found in gains.items():
        if found:
            mean = math.exp(statistics.fmean(math.log(gain) for gain in found))
            yield f"\n{key}: {mean:.2f} times faster in the geometric mean of {len(found)}, at least {min(found):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["*"], help="globs over names")
    parser.add_argument("--size", type=int, default=224, help="height and width of the image, pixels")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed")
    parser.add_argument("--gib", type=float, default=12, help="memory limit of each model")
    parser.add_argument("--json", type=Path, help="file to keep the figures in")
    options = parser.parse_args()
    chosen = [name for name in names() if any(fnmatch.fnmatchcase(name, glob) for glob in options.models)]
    results = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for name in chosen:
            results.append(pool.apply(measure, (name, options.size, options.rounds, options.gib)))
            print(json.dumps(results[-1]), flush=True)
            if options.json:
                options.json.write_text(json.dumps(results, indent=1))
    print("\n".join(lines(results)))


if __name__ == "__main__":
    main()
