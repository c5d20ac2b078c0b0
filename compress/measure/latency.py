"""Networks and one input in, milliseconds out: every network of a comparison is timed in the same run, in turns."""

from __future__ import annotations

import copy
import gc
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CompressError

Runner: TypeAlias = "nn.Module | Callable[[Tensor], Any]"
"""A network, or another runtime's: called with the input, it computes on the CPU and returns when it is done."""

WARM_UP = 3
MIN_ROUNDS = 10


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass: the median of `rounds` passes and its spread (10th and 90th percentile).

    device: the processor's own name. threads: CPU threads torch computed with. batch: images in the pass.
    """

    median: float
    p10: float
    p90: float
    device: str
    threads: int
    batch: int
    rounds: int

    def __str__(self) -> str:
        unit = f"batch {self.batch}, {self.threads} thread{'s' if self.threads != 1 else ''}, {self.device}"
        return f"{self.median:.2f} ms ({self.p10:.2f}-{self.p90:.2f}; {self.rounds} rounds, {unit})"

    def as_report(self) -> dict[str, Any]:
        """The plain dict that `report.json` holds under `latency_ms`."""
        return asdict(self)


def measure_latency(
    models: Mapping[str, Runner],
    example: Tensor,
    threads: int | None = None,
    seconds: float = 10.0,
    channels_last: bool = True,
) -> dict[str, Latency]:
    """Time the forward pass of several networks on one input, side by side.

    Eval mode, `torch.inference_mode`, warm-up, synchronised on CUDA. Each round runs every network once, in an order
    that is shuffled anew, so that a slow moment of the machine and the caches that a neighbour leaves behind meet all
    of them alike. Rounds go on for `seconds` altogether and never number fewer than 10. The networks are copied (once
    each, however many names they have), so that neither mode nor memory format changes for the caller.

    example: the input, (B, ...), on the device to measure. threads: CPU threads; None leaves torch's setting.
    channels_last: NHWC memory format for 4-d inputs and weights, what convolutions are fastest in on most devices; what
    is no nn.Module gets the input as it is.
    Raises CompressError where there is nothing to measure or a network sits on another device than the input.
    """
    if not models:
        raise CompressError("measure_latency: no networks were given; expected a mapping name -> network")
    nhwc = channels_last and example.dim() == 4
    for name, model in models.items():
        if not isinstance(model, nn.Module):
            continue
        devices = {str(t.device) for t in (*model.parameters(), *model.buffers())} - {str(example.device)}
        if devices:
            raise CompressError(
                f"measure_latency: network '{name}' is on {', '.join(sorted(devices))} and the input on "
                f"{example.device}; move one: model.to('{example.device}')"
            )
    copies = {id(model): _ready(model, nhwc) for model in models.values()}
    inputs = example.contiguous(memory_format=torch.channels_last) if nhwc else example
    runs = {name: (copies[id(m)], inputs if isinstance(m, nn.Module) else example) for name, m in models.items()}
    with torch.inference_mode(), _threads(threads), _no_collection():
        used = torch.get_num_threads()
        for model, given in runs.values():
            for _ in range(WARM_UP):
                _milliseconds(model, given)
        times = _rounds(runs, seconds)
    place = device_name(example.device)
    return {name: _summary(np.array(ms), place, used, example.shape[0]) for name, ms in times.items()}


def device_name(device: torch.device) -> str:
    """The processor behind a device as its maker calls it: 'NVIDIA H100 80GB HBM3', 'AMD EPYC 7B13 (cpu)'."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return str(device)
    return f"{_cpu_name()} (cpu)"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _ready(model: Runner, nhwc: bool) -> Runner:
    if not isinstance(model, nn.Module):
        return model
    ready = copy.deepcopy(model).eval()
    return ready.to(memory_format=torch.channels_last) if nhwc else ready  # type: ignore[call-overload]


def _rounds(runs: Mapping[str, tuple[Runner, Tensor]], seconds: float) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    names, order = list(runs), np.random.default_rng(0)
    start, done = time.perf_counter(), 0
    while done < MIN_ROUNDS or time.perf_counter() - start < seconds:
        for place in order.permutation(len(names)):
            name = names[place]
            times[name].append(_milliseconds(*runs[name]))
        done += 1
    return times


def _milliseconds(model: Runner, inputs: Tensor) -> float:
    _synchronize(inputs.device)
    start = time.perf_counter()
    model(inputs)
    _synchronize(inputs.device)
    return 1000 * (time.perf_counter() - start)


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _summary(ms: np.ndarray, device: str, threads: int, batch: int) -> Latency:
    p10, median, p90 = np.percentile(ms, [10, 50, 90])
    return Latency(float(median), float(p10), float(p90), device, threads, batch, len(ms))


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's garbage collector off: its pauses would land on whichever network runs at that moment."""
    running = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
