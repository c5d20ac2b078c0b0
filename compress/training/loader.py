"""A split and the order of its samples in, batches out, made ahead of time so that the network is the limit."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from .dataset import Split
from .randomness import permutation, sample_rng

AHEAD = 4  # batches made before they are asked for


@dataclass(frozen=True)
class Order:
    """Which samples make up one batch. epoch: for augmentation, or None for samples as they are."""

    epoch: int | None
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """images: (B, 3, H, W) float32 in [0, 1]. targets: as the split's `collate` made them. indices: of its samples."""

    images: Tensor
    targets: Any
    indices: tuple[int, ...]


Batches = Generator[Batch, None, None]


class Kitchen:
    """Makes the ordered batches; a map-style dataset for worker processes. seed, stage: where randomness comes from."""

    def __init__(self, split: Split, orders: Sequence[Order], seed: int, stage: str) -> None:
        self.split, self.orders, self.seed, self.stage = split, orders, seed, stage

    def __len__(self) -> int:
        return len(self.orders)

    def __getitem__(self, number: int) -> Batch:
        order = self.orders[number]
        images, targets = self.split.collate([self.split.sample(i, self._rng(order, i)) for i in order.indices])
        return Batch(images, targets, order.indices)

    def _rng(self, order: Order, index: int) -> np.random.Generator | None:
        return None if order.epoch is None else sample_rng(self.seed, self.stage, order.epoch, index)


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """Whole batches in an epoch; the odd samples wait for another epoch's order. One, where there are fewer samples."""
    return max(1, samples // batch_size)


def training_orders(samples: int, batch_size: int, epochs: Iterable[int], seed: int, stage: str) -> list[Order]:
    """The batches of some epochs (counted from 0), each visiting the samples in its own random order."""
    steps = steps_per_epoch(samples, batch_size)
    orders = []
    for epoch in epochs:
        visited = permutation(seed, stage, epoch, samples).tolist()
        orders += [Order(epoch, tuple(visited[k * batch_size : (k + 1) * batch_size])) for k in range(steps)]
    return orders


def evaluation_orders(samples: int, batch_size: int) -> list[Order]:
    """Every sample once, in order, as it is."""
    return [Order(None, tuple(range(k, min(k + batch_size, samples)))) for k in range(0, samples, batch_size)]


def load(split: Split, orders: Sequence[Order], *, seed: int = 0, stage: str = "", workers: int = 0) -> Batches:
    """Yield the ordered batches. workers: processes that make them; 0 makes them in one thread beside the network.

    What is yielded does not depend on `workers`.
    """
    kitchen = Kitchen(split, orders, seed, stage)
    if workers:
        yield from DataLoader(
            kitchen,  # type: ignore[arg-type]
            batch_size=None,
            num_workers=workers,
            prefetch_factor=AHEAD,
            worker_init_fn=_leave_interrupts,
        )
        return
    with closing(_ahead(kitchen)) as batches:
        yield from batches


def _leave_interrupts(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process, but is for the loop alone


def _ahead(kitchen: Kitchen) -> Batches:
    cook = ThreadPoolExecutor(1, "loader", initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[Future[Batch]] = deque()
    try:
        for number in range(len(kitchen)):
            waiting.append(cook.submit(kitchen.__getitem__, number))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        cook.shutdown(cancel_futures=True)
