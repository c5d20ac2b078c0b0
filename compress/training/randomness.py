"""A seed and a place in the run in, randomness out: nothing random has a state that would have to be stored."""

from __future__ import annotations

import zlib
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=2)
def permutation(seed: int, stage: str, epoch: int, n: int) -> np.ndarray:
    """The order, (n,) int64, in which an epoch visits n samples. epoch counts from 0."""
    order = np.random.default_rng([seed, zlib.crc32(stage.encode()), epoch]).permutation(n)
    order.flags.writeable = False  # it is kept for the epoch's other batches
    return order


def sample_rng(seed: int, stage: str, epoch: int, index: int) -> np.random.Generator:
    """The generator that augments sample `index` in `epoch`."""
    return np.random.default_rng([seed, zlib.crc32(stage.encode()), epoch, 1 + index])


def batch_rng(seed: int, stage: str, step: int) -> np.random.Generator:
    """The generator that changes what a step (counted from 0) learns from as a whole, e.g. its size in pixels."""
    return np.random.default_rng([seed, zlib.crc32(stage.encode()), step, 0])  # samples have 1 and more there


def step_seed(seed: int, stage: str, step: int, rank: int = 0) -> int:
    """The seed for torch's global generator before a step (dropout and the like), in [0, 2^63).

    rank: of the process, so that no two of them drop the same.
    """
    place = [seed, zlib.crc32(stage.encode()), step, *([rank] if rank else [])]
    words = np.random.SeedSequence(place).generate_state(1, np.uint64)
    return int(words[0] >> 1)
