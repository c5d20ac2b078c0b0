"""torchrun's environment in, what one process of several must know and do out; alone, all of it is trivial."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

T = TypeVar("T")

PATIENCE = timedelta(hours=24)
"""How long processes wait for each other: one alone prunes, evaluates and writes while the others wait."""


def count() -> int:
    """How many processes `torchrun` (or `python -m torch.distributed.run`) started; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if distributed.is_torchelastic_launched() else 1


def count_here() -> int:
    """How many of them run on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if count() > 1 else 1


def rank() -> int:
    """This process's number among them, from 0."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def leads() -> bool:
    """Whether this process is the one that writes, says and decides."""
    return rank() == 0


def join(device: str) -> None:
    """Meet the others for the first time. device: `cpu` (gloo) or `cuda` (nccl)."""
    if count() > 1 and not distributed.is_initialized():
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)


def meet() -> None:
    """Wait until all are here."""
    if count() > 1:
        distributed.barrier()


def told(value: T) -> T:
    """The leader's value, in every process; anything that can be pickled."""
    if count() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def any_of(yes: bool, device: torch.device) -> bool:
    """Whether any process says yes."""
    if count() == 1:
        return yes
    votes = torch.tensor(int(yes), device=device)
    distributed.all_reduce(votes)
    return bool(votes.item())
