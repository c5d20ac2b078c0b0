"""A run's surroundings in, lock.json out: what a result depends on beside the recipe - and whether it is still so."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import CompressError
from ..training import processes

if TYPE_CHECKING:
    from ..recipes import Recipe
    from ..training.dataset import Data

NAME = "lock.json"
PACKAGES = ("torch-compress", "torch", "torchvision", "numpy", "safetensors", "lightning-fabric")


def make_lock(recipe: Recipe, data: Data, device: str, threads: int) -> dict[str, Any]:
    """Versions, seed, data, hardware, threads and the hashes of the recipe's own plugin files."""
    from ..measure import device_name

    return {
        "schema": 1,
        "command": " ".join([Path(sys.argv[0]).name, *map(shlex.quote, sys.argv[1:])]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seed": recipe.seed,
        "notes": list(recipe.notes),
        "device": device,
        "threads": threads,
        "processes": processes.count(),
        "data": {"name": data.name, "fingerprint": data.fingerprint, "train": len(data.train), "val": len(data.val)},
        "plugins": {str(path): sha256 for path, sha256 in recipe.plugin_files.items()},
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "hardware": {
            "device": device_name(torch.device(device)),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
        },
    }


def read_lock(run: Path) -> dict[str, Any]:
    """The lock of a run. Raises CompressError where the folder is no run's."""
    try:
        return json.loads((run / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise CompressError(f"{run}: not the folder of a run ({problem}); `compress run RECIPE` makes one") from None


def hold(lock: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Compare a run's lock with the surroundings it goes on in; lines about what differs and may move its results.

    Raises CompressError where the data or a plugin file changed: what comes would not belong to what is there.
    """
    if lock["data"] != now["data"]:
        raise CompressError(
            f"the data changed since the run began (was {lock['data']}, is {now['data']}); start a new run"
        )
    began, here = (each.get("processes", 1) for each in (lock, now))
    if began != here:
        raise CompressError(
            f"the run was begun by {began} processes, not {here}, and its result depends on that; go on with: "
            f"torchrun --nproc-per-node {began} -m compress run --resume RUN"
        )
    changed = [path for path, sha256 in lock["plugins"].items() if now["plugins"].get(path) != sha256]
    if changed:
        raise CompressError(f"plugin file {', '.join(changed)} changed since the run began; start a new run")
    return [
        f"{kind} {name}: was {was}, is {now[kind].get(name)}; results may differ from an uninterrupted run's"
        for kind in ("versions", "hardware")
        for name, was in lock[kind].items()
        if now[kind].get(name) != was
    ]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
