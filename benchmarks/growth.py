"""Networks of growing depth and width in, the time of trace and plan out: they should grow with ops and labels.

    python benchmarks/growth.py

One thread, medians. Depth: pre-norm residual blocks of one width; width: a fixed number of blocks. First a network in
the shape of Llama 2 7B, once, with the most memory that the process has taken by then. All on the meta device.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import compress

DEPTHS, WIDTHS = (8, 16, 32, 64, 128, 256), (256, 512, 1024, 2048, 4096, 8192)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(self.norm(x)).relu())


def network(depth: int, width: int) -> nn.Module:
    """On the meta device: only shapes matter."""
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(8, width), *(Block(width) for _ in range(depth)), nn.Linear(width, 8)).eval()


def measure(depth: int, width: int, rounds: int) -> str:
    model, x = network(depth, width), torch.empty(1, 8, device="meta")
    times: dict[str, list[float]] = {"trace": [], "plan": []}
    for number in range(rounds + 1):
        start = time.perf_counter()
        graph = compress.trace(model, x)
        middle = time.perf_counter()
        compress.plan(graph, criterion="random")
        end = time.perf_counter()
        if number:  # the first warms up
            times["trace"].append(middle - start)
            times["plan"].append(end - middle)
    trace, plan = (1e3 * statistics.median(taken) for taken in times.values())
    ops, labels = len(graph.steps), len(graph.unit_of_label)
    return f"| {depth} | {width} | {ops} | {labels} | {trace:.1f} | {plan:.1f} | {1e3 * trace / ops:.0f} |"


def llama() -> str:
    """Parameters before and after the plan, seconds, and GiB."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "scale"))
    from llama import Llama, Shape

    with torch.device("meta"):
        model, tokens = Llama(Shape()).eval(), torch.zeros(1, 16, dtype=torch.long)
    start = time.perf_counter()
    graph = compress.trace(model, tokens)
    middle = time.perf_counter()
    plan = compress.plan(graph, criterion="random")
    end = time.perf_counter()
    before, after = graph.cost().params, graph.cost(plan).params
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return (
        f"Llama 2 7B: {len(graph.steps)} ops, {len(graph.unit_of_label)} labels, parameters {before:,} -> {after:,}; "
        f"trace {middle - start:.1f} s, plan {end - middle:.1f} s, {gib:.2f} GiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(llama(), flush=True)
    print("| blocks | width | ops | labels | trace ms | plan ms | trace us an op |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for depth in DEPTHS:
        print(measure(depth, 64, options.rounds), flush=True)
    for width in WIDTHS:
        print(measure(8, width, options.rounds), flush=True)


if __name__ == "__main__":
    main()
