"""A network that was cut in, what the cut is worth on this machine - by runtime, batch and threads - out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import CompressError
from ..training.task import Task
from .named import Named, Origin, finished, open_named

if TYPE_CHECKING:
    from ..measure import Latency

DENSE, PRUNED = "dense", "pruned"
TORCH, ONNX = "PyTorch", "ONNX Runtime"


@dataclass(frozen=True)
class Timed:
    """One figure. network: `dense` or `pruned`. nms: with what follows the network. speedup: against dense."""

    network: str
    runtime: str
    nms: bool
    latency: Latency
    speedup: float

    def as_plain(self) -> dict[str, Any]:
        """Plain JSON values."""
        latency = self.latency.as_report()
        each = 1000 * self.latency.batch / self.latency.median
        return {"network": self.network, "runtime": self.runtime, "nms": self.nms, "latency_ms": latency,
                "images_per_second": each, "speedup": self.speedup}  # fmt: skip


def find_dense(where: str, named: Named) -> nn.Module:
    """The network to compare with: the run's trained baseline, or the whole architecture, untrained."""
    if Path(where).is_file():
        raise CompressError(f"{where}: a file holds one network, nothing to time it against; see `compress eval`")
    if named.origin.recipe is None:
        return named.origin.whole()
    run = Path(where) if (Path(where) / "recipe.yaml").is_file() else Path(where).resolve().parent
    _, done = finished(run)
    baseline = [id for id, stage in done if stage.role == "baseline"]
    return open_named(run, baseline[-1]).model if baseline else named.origin.whole()


def bench(
    networks: Mapping[str, nn.Module],
    named: Named,
    threads: Sequence[int],
    batches: Sequence[int],
    seconds: float,
    pictures: Sequence[Tensor],
    onnx: bool,
    device: str,
    say: Callable[[str], None],
) -> list[Timed]:
    """Time the networks `dense` and `pruned` against each other, all that shares threads and batch in turns.

    pictures: samples (3, H, W) uint8 to find something in, for the time of non-maximum suppression; none: that is not
    measured. onnx: ONNX Runtime as well, on the CPU. seconds: for each number of threads and batch.
    """
    from ..measure import measure_latency, onnx_runner

    found = []
    with tempfile.TemporaryDirectory(prefix="compress-bench-") as folder:
        files = _write_onnx(networks, named, Path(folder)) if onnx else {}
        for count, batch in product(threads, batches):
            say(f"{count} thread{'s' if count != 1 else ''}, batch {batch}: measuring for {seconds:g} s")
            runners: dict[tuple[str, str, bool], Any] = {}
            for name, model in networks.items():
                runners[name, TORCH, False] = model.to(device)
                if pictures:
                    runners[name, TORCH, True] = _Whole(model, named.origin.task)
                if onnx:
                    runners[name, ONNX, False] = onnx_runner(files[name], count)
            images = _batch(pictures, batch) if pictures else named.origin.example(batch)
            keys = {" ".join(map(str, key)): key for key in runners}
            named_runners = {text: runners[key] for text, key in keys.items()}
            taken = measure_latency(named_runners, images.to(device), count, seconds)
            latencies = {keys[text]: latency for text, latency in taken.items()}
            for (name, runtime, nms), latency in latencies.items():
                dense = latencies[DENSE, runtime, nms].median
                found.append(Timed(name, runtime, nms, latency, dense / latency.median))
    return found


def find_pictures(origin: Origin, count: int, say: Callable[[str], None]) -> list[Tensor]:
    """The first validation samples of the network's data set, (3, H, W) uint8; none, and why, where that cannot be."""
    if type(origin.task).detect is Task.detect:
        say(f"task {origin.task.name} finds no boxes; there is no non-maximum suppression to measure")
        return []
    missing = origin.dataset.available() if origin.dataset else "nothing says which"
    if missing is not None:
        say(f"without non-maximum suppression, whose time depends on the images: {missing}")
        return []
    assert origin.dataset is not None
    val = origin.dataset.open().val
    return [val.sample(index, None)[0] for index in range(min(count, len(val)))]


class _Whole(nn.Module):
    """The network with what comes after it: decoding and non-maximum suppression."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        return self.task.detect(self.model, images)


def _write_onnx(networks: Mapping[str, nn.Module], named: Named, folder: Path) -> dict[str, Path]:
    exporter, files = named.origin.registry.make("exporters", "onnx"), {}
    for name, model in networks.items():
        facts = exporter.export(model, named.origin.example(), folder / name)
        if not facts["dynamic_batch"]:
            raise CompressError("bench: this network takes one batch size only; leave ONNX Runtime out: --no-onnx")
        files[name] = next(folder / name / file for file in facts["files"] if file.endswith(".onnx"))
    return files


def _batch(pictures: Sequence[Tensor], batch: int) -> Tensor:
    """The first `batch` samples, over again where there are fewer: (batch, 3, H, W) float32 in [0, 1]."""
    return torch.stack([pictures[i % len(pictures)] for i in range(batch)]).float().div_(255)
