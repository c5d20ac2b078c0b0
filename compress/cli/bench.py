"""`compress bench`: a run in, how much faster its network became - by runtime, batch and threads - out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import CompressError
from .arguments import AsJson, Network, StageOf, columns, say_line

if TYPE_CHECKING:
    from ..stages.bench import Timed


def bench(
    network: Network,
    stage: StageOf = None,
    threads: Annotated[
        list[int] | None, typer.Option(metavar="N", help="CPU threads; give it several times. Default: torch's own.")
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(metavar="N", help="Images at once; give it several times. Default: 1.")
    ] = None,
    seconds: Annotated[float, typer.Option(metavar="S", help="How long to measure each threads and batch.")] = 10.0,
    nms: Annotated[
        bool, typer.Option(help="Time decoding and non-maximum suppression too, on the run's validation images.")
    ] = True,
    onnx: Annotated[bool, typer.Option(help="Time ONNX Runtime too.")] = True,
    device: Annotated[str, typer.Option(metavar="cpu|cuda|auto", help="Where to measure.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Time a cut network against the whole one, in turns, so that a slow moment meets both.

    The whole one is the run's baseline; of a network that was taken away from its run, the architecture itself.
    """
    import torch

    from ..stages import bench as benches
    from ..stages.named import open_named
    from ..stages.run import find_device

    for option, values in (("--threads", threads or []), ("--batch", batch or []), ("--seconds", [seconds])):
        if any(value <= 0 for value in values):
            raise CompressError(f"compress bench: {option} {min(values)}: expected more than 0")
    place = find_device(device)
    named = open_named(network, stage)
    networks = {benches.DENSE: benches.find_dense(network, named), benches.PRUNED: named.model}
    if onnx and place != "cpu":
        say_line("ONNX Runtime is measured on the CPU only; left out here (--device cpu has it)")
    found = benches.bench(
        networks,
        named,
        threads or [torch.get_num_threads()],
        batch or [1],
        seconds,
        benches.find_pictures(named.origin, max(batch or [1]), say_line) if nms else [],
        onnx and place == "cpu",
        place,
        say_line,
    )
    print(json.dumps([each.as_plain() for each in found], indent=2) if as_json else table(found))


def table(found: list[Timed]) -> str:
    """Every figure as a line, with the speed-up against the whole network."""
    head = ("threads", "batch", "runtime", "", "network", "median", "10th-90th percentile", "images/s", "speed-up")
    rows: list[tuple[str, ...]] = [head]
    for each in found:
        latency = each.latency
        rows.append(
            (
                str(latency.threads),
                str(latency.batch),
                each.runtime,
                "with NMS" if each.nms else "network alone",
                each.network,
                f"{latency.median:.2f} ms",
                f"{latency.p10:.2f}-{latency.p90:.2f}",
                f"{1000 * latency.batch / latency.median:.1f}",
                f"{each.speedup:.2f}x",
            )
        )
    device = found[0].latency.device if found else ""
    return columns(rows, right=(0, 1, 5, 6, 7, 8)) + f"\n{device}; all that shares threads and batch in turns"
