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

from ..errors import CompressError
from .dataset import Split, Varied
from .randomness import batch_rng, permutation, sample_rng

AHEAD = 4  # batches made before they are asked for


@dataclass(frozen=True)
class Order:
    """Which samples make up one batch.

    epoch: for augmentation, or None for samples as they are. step: that learns from it, counted from 0.
    """

    epoch: int | None
    indices: tuple[int, ...]
    step: int = 0


@dataclass(frozen=True)
class Batch:
    """images: (B, 3, H, W) float32 in [0, 1]. targets: as the split's `collate` made them. indices: of its samples."""

    images: Tensor
    targets: Any
    indices: tuple[int, ...]


Batches = Generator[Batch, None, None]


@dataclass(frozen=True)
class TrainingOrders(Sequence[Order]):
    """The batches of all epochs, each epoch visiting the samples in its own random order; made as they are asked for.

    samples: how many there are. seed, stage: where the randomness comes from. parts: of each batch, one order a part.
    rank, ranks: a process's number and how many share the work: every `ranks`-th part is this one's.
    """

    samples: int
    batch_size: int
    epochs: int
    seed: int
    stage: str
    parts: int = 1
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        """Raises CompressError where a batch does not make equal parts."""
        if self.batch_size % self.parts:
            below = self.batch_size - self.batch_size % self.parts
            raise CompressError(
                f"batch_size: {self.batch_size} images do not make {self.parts} equal parts (`accumulate` times the "
                f"number of processes); try {below or self.parts}"
            )
        if self.samples < self.parts:
            raise CompressError(f"{self.samples} training images are too few for {self.parts} parts a step")

    @property
    def steps(self) -> int:
        """Whole batches in an epoch; odd samples wait for another epoch's order. One, where there are fewer samples."""
        return max(1, self.samples // self.batch_size)

    def __len__(self) -> int:
        return self.epochs * self.steps * (self.parts // self.ranks)

    def __getitem__(self, number):  # type: ignore[no-untyped-def]
        if isinstance(number, slice):
            return [self[k] for k in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(number)
        step, turn = divmod(number, self.parts // self.ranks)
        epoch, k = divmod(step, self.steps)
        visited = permutation(self.seed, self.stage, epoch, self.samples)[k * self.batch_size :]
        size = min(self.batch_size, self.samples) // self.parts
        first = (turn * self.ranks + self.rank) * size
        return Order(epoch, tuple(visited[first : first + size].tolist()), step)


class Kitchen:
    """Makes the ordered batches; a map-style dataset for worker processes. seed, stage: where randomness comes from."""

    def __init__(self, split: Split, orders: Sequence[Order], seed: int, stage: str) -> None:
        self.split, self.orders, self.seed, self.stage = split, orders, seed, stage

    def __getitem__(self, number: int) -> Batch:
        order = self.orders[number]
        images, targets = self.split.collate([self.split.sample(i, self._rng(order, i)) for i in order.indices])
        if order.epoch is not None and isinstance(self.split, Varied):
            images, targets = self.split.vary(images, targets, batch_rng(self.seed, self.stage, order.step))
        return Batch(images, targets, order.indices)

    def _rng(self, order: Order, index: int) -> np.random.Generator | None:
        return None if order.epoch is None else sample_rng(self.seed, self.stage, order.epoch, index)


def evaluation_orders(samples: int, batch_size: int) -> list[Order]:
    """Every sample once, in order, as it is."""
    return [Order(None, tuple(range(k, min(k + batch_size, samples)))) for k in range(0, samples, batch_size)]


def load(
    split: Split, orders: Sequence[Order], *, seed: int = 0, stage: str = "", first: int = 0, workers: int = 0
) -> Batches:
    """Yield the ordered batches. seed, stage: of their augmentation.

    first: how many of them to leave out, as a run that goes on does. workers: processes that make them; 0 makes them in
    one thread beside the network. What is yielded does not depend on it.
    """
    kitchen, numbers = Kitchen(split, orders, seed, stage), range(first, len(orders))
    if workers:
        yield from DataLoader(
            kitchen,  # type: ignore[arg-type]
            batch_size=None,
            sampler=numbers,
            num_workers=workers,
            prefetch_factor=AHEAD,
            worker_init_fn=_leave_interrupts,
        )
        return
    with closing(_ahead(kitchen, numbers)) as batches:
        yield from batches


def _leave_interrupts(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process, but is for the loop alone


def _ahead(kitchen: Kitchen, numbers: Iterable[int]) -> Batches:
    cook, threads = ThreadPoolExecutor(1, "loader"), torch.get_num_threads()
    for prepare in (torch.get_num_threads, lambda: torch.set_num_threads(1)):  # asking first, or torch resets it later
        cook.submit(prepare).result()
    torch.set_num_threads(threads)  # OpenMP's number is the thread's own, but MKL's is the process's
    waiting: deque[Future[Batch]] = deque()
    try:
        for number in numbers:
            waiting.append(cook.submit(kitchen.__getitem__, number))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        cook.shutdown(cancel_futures=True)
