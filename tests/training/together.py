"""What each of torchrun's processes does in a test: `torchrun --nproc-per-node 2 together.py FOLDER`."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import toy
from compress_plugins.network_slimming import NetworkSlimming
from torch import nn, optim

from compress import Distiller, Kept, apply, plan
from compress.graph.trace import trace
from compress.training import processes
from compress.training.checkpoint import write_tensors
from compress.training.loop import CHECKPOINT, Job, train
from compress.training.optim import Settings
from compress.training.progress import Progress


class Idle(toy.ToyTask):
    """A loss whose gradient is zero everywhere, so that only a regularizer moves anything."""

    name = "idle"

    def loss(self, model: nn.Module, images: torch.Tensor, targets: Any) -> dict[str, torch.Tensor]:
        return {"loss": 0 * super().loss(model, images, targets)["loss"]}


def shrinking(strength: float) -> Any:
    def attach(model: nn.Module, optimizer: optim.Optimizer) -> Any:
        graph = trace(model, torch.zeros(1, 3, toy.SIZE, toy.SIZE))
        return NetworkSlimming(strength=strength).attach(graph, model, optimizer, {})

    return attach


def job(folder: Path, stage: str, calm: bool = True, **settings: Any) -> Job:
    """Two epochs of five steps of eight images."""
    data = toy.ToyStripes(train=40).open()
    torch.manual_seed(0)
    model = toy.ToyNet().build(4, data.image_size)
    options = {"epochs": 2, "batch_size": 8, "lr": 0.05, **settings}
    quiet = Progress(stream=open(os.devnull, "w"))  # noqa: SIM115
    given = toy.Calm(model) if calm else model
    return Job(stage, given, data.train, toy.ToyTask(), Settings(**options), 0, folder / stage, progress=quiet)


def taught(folder: Path, stage: str, **settings: Any) -> Job:
    """Half of a network, which learns from the whole."""
    plain = job(folder, stage, calm=False, **settings)
    graph = trace(plain.model, torch.zeros(1, 3, toy.SIZE, toy.SIZE))
    pruned = apply(plain.model, graph, plan(graph, "l1", 0.5))
    both = ["logits", {"uses": "features", "points": ["inner"]}]
    student = toy.Calm(pruned.model)
    distiller = Distiller(pruned.model, plain.model, both, kept=Kept(graph, pruned.edits))
    return replace(plain, model=student, distiller=distiller)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    processes.join("cpu")
    rank = processes.rank()
    jobs = {
        "calm": job(folder, "calm"),
        "average": job(folder, "average", ema=0.5),
        "norms": job(folder, "norms", calm=False, accumulate=2),
        "taught": taught(folder, "taught"),
        "idle": replace(job(folder, "idle", momentum=0.5), task=Idle(), attach=shrinking(0.2)),
    }
    for name, each in jobs.items():
        model = train(each)
        write_tensors(folder / f"{name}-{rank}.safetensors", model.state_dict())
    stopped = job(folder / "stopped", "norms", calm=False, accumulate=2)

    def press(epoch: int, metrics: dict[str, float]) -> None:  # the first process alone hears of epochs
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)

    try:
        train(replace(stopped, epoch_finished=press))
    except KeyboardInterrupt:
        processes.meet()
        (folder / f"interrupted-{rank}.txt").write_text(str((stopped.folder / CHECKPOINT).exists()))
    for parameter in stopped.model.parameters():  # whatever the network was, the checkpoint decides
        parameter.data.zero_()
    write_tensors(folder / f"resumed-{rank}.safetensors", train(stopped).state_dict())
    poisoned = replace(job(folder, "poisoned"), split=toy.Stripes(40, 1, poison=7))
    try:
        train(poisoned)
    except Exception as error:
        (folder / f"error-{rank}.txt").write_text(f"{type(error).__name__}: {error}")
    np.save(folder / f"done-{rank}.npy", np.array([processes.count()]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
