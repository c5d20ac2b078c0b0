"""Train in forked processes, one whole and one that is killed again and again: `python shoot.py FOLDER HOW`."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import toy
from lightning_fabric import Fabric  # imported before the fork, so that a process is soon at work  # noqa: F401
from torch import nn
from torch.utils.tensorboard import SummaryWriter  # noqa: F401

from compress.training.checkpoint import write_tensors
from compress.training.loop import CHECKPOINT, Job, train
from compress.training.optim import Settings
from compress.training.progress import Progress

HOW: dict[str, dict[str, Any]] = {
    "plain": {"lr": 0.05},
    "everything": {
        "optimizer": "adamw",
        "lr": 0.01,
        "schedule": "step",
        "accumulate": 2,
        "ema": 0.9,
        "validate_every": 1,
        "patience": 3,
        "keep": "best",
    },
}


def work(folder: Path, how: str) -> None:
    """Train to the end, from wherever the folder is, and leave the weights."""
    data = toy.ToyStripes(train=48, slow=0.0005, varied=how == "everything").open()
    torch.manual_seed(3)
    model = toy.ToyNet().build(4, data.image_size)
    settings = Settings(epochs=6, batch_size=8, checkpoint_seconds=0.02, **HOW[how])
    quiet = Progress(stream=open(os.devnull, "w"))  # noqa: SIM115
    whole = data.val.collate([data.val.sample(i, None) for i in range(len(data.val))])

    def validate(model: nn.Module) -> Mapping[str, float]:
        return toy.ToyTask().evaluate(model, [whole], data.classes).metrics

    train(Job("arm", model, data.train, toy.ToyTask(), settings, 3, folder, validate=validate, progress=quiet))
    write_tensors(folder / "weights.safetensors", model.state_dict())


def fork(folder: Path, how: str) -> int:
    child = os.fork()
    if child == 0:
        work(folder, how)
        os._exit(0)
    return child


def main(folder: Path, how: str) -> None:
    torch.set_num_threads(1)
    began = time.monotonic()
    assert os.waitpid(fork(folder / "whole", how), 0)[1] == 0
    took = time.monotonic() - began
    dice, killed, resumed_at, status = random.Random(1), 0, [], -1
    while status != 0:
        child = fork(folder / "shot", how)
        time.sleep(dice.uniform(0.02, 0.18) * took * (1 + killed / 8))  # later attempts live longer
        if killed < 8 or (len(set(resumed_at)) < 4 and killed < 40):
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        killed += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        checkpoint = folder / "shot" / CHECKPOINT
        resumed_at.append(checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0)
        if status not in (0, signal.SIGKILL):
            sys.exit(f"an attempt failed: {status}")
    print(json.dumps({"killed": killed, "resumed_at": resumed_at, "seconds": took}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
