"""Run a recipe in forked processes, once whole and once killed again and again: `python shoot_run.py RECIPE FOLDER`."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from lightning_fabric import Fabric  # imported before the fork, so that a process is soon at work  # noqa: F401
from torch.utils.tensorboard import SummaryWriter  # noqa: F401

from compress import plugins, report  # noqa: F401
from compress.recipes import load
from compress.stages import run


def fork(recipe: Path, folder: Path) -> int:
    child = os.fork()
    if child == 0:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        try:
            run.resume(folder) if folder.exists() else run.start(load(recipe), folder)
        except BaseException as problem:
            print(f"{type(problem).__name__}: {problem}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return child


def main(recipe: Path, folder: Path, seed: int, shots: int) -> None:
    torch.set_num_threads(1)
    plugins.installed()
    began = time.monotonic()
    if os.waitpid(fork(recipe, folder / "whole"), 0)[1]:
        sys.exit("the run that nobody stopped failed")
    took = time.monotonic() - began
    dice, killed, found, status = random.Random(seed), 0, [], -1
    while status != 0:
        child = fork(recipe, folder / "shot")
        if killed < shots:
            time.sleep(dice.uniform(0.02, 0.22) * took * (1 + killed / shots))  # later attempts live longer
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        killed += status == signal.SIGKILL
        if status not in (0, signal.SIGKILL):
            sys.exit(f"an attempt failed after {killed} kills")
        stages = sorted(path.parent.name for path in (folder / "shot").glob("*/stage.json"))
        unfinished = sorted(path.parent.name for path in (folder / "shot").glob("*/checkpoint.safetensors"))
        found.append({"done": stages, "inside": unfinished})
    print(json.dumps({"killed": killed, "found": found, "seconds": took}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
