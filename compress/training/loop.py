"""A network, data, a task and settings in, the trained network out: one loop to train, to sparsify and to fine-tune."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn, optim

from . import checkpoint
from .checkpoint import Standing
from .dataset import Split
from .interrupts import interrupts
from .journal import Journal
from .loader import TrainingOrders, load
from .optim import Settings, build_optimizer, learning_rate
from .progress import Progress, rate
from .randomness import step_seed
from .regularizers import Attached, Recorded
from .shrinkage import Shrinkage, complaint, shrinkage
from .step import TrainingError, all_finite, explained, set_learning_rate, start_fabric, take_step
from .task import Task

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LOG_EVERY = 10  # steps between two lines of metrics
CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Job:
    """All that decides what training does, and who wants to hear of it.

    stage: its name, part of where randomness comes from. folder: gets checkpoint and metrics. workers: processes that
    make batches, 0 for a thread. attach: hooks a regularizer to the optimizer. validate: a network -> its metrics.
    epoch_finished: told each epoch (from 1) and its metrics.
    """

    stage: str
    model: nn.Module
    split: Split
    task: Task
    settings: Settings
    seed: int
    folder: Path
    device: str = "cpu"
    workers: int = 0
    attach: Callable[[nn.Module, optim.Optimizer], Attached] | None = None
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None
    epoch_finished: Callable[[int, dict[str, float]], None] = lambda epoch, metrics: None
    progress: Progress = field(default_factory=Progress)


def train(job: Job) -> nn.Module:
    """Train job.model in place, going on from a checkpoint in job.folder where there is one, and return it.

    Two runs with one seed, device and thread count give the same weights, bit for bit, however often they are stopped.

    Raises: TrainingError at a loss or gradient that is not finite. KeyboardInterrupt at Ctrl-C, once the checkpoint is
    written. CompressError where the checkpoint does not fit.
    """
    fabric = start_fabric(job.device, job.settings.precision)
    model = job.model.to(fabric.device)
    if job.settings.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(model, job.settings)
    attached = job.attach(model, optimizer) if job.attach else None
    try:
        _run(job, fabric, model, optimizer, attached)
        if isinstance(attached, Recorded):
            attached.pictures(job.folder / "pictures")
    finally:
        if attached:
            attached.detach()
    return model


def _run(job: Job, fabric: Fabric, model: nn.Module, optimizer: optim.Optimizer, attached: Attached | None) -> None:
    settings, saved = job.settings, job.folder / CHECKPOINT
    untouched = shrinkage(attached.watched()) if attached else None  # of the stage's first network, also when resumed
    standing = checkpoint.restore(saved, model, optimizer) if saved.exists() else Standing()
    precision = fabric.strategy.precision
    if standing.scaler:
        precision.load_state_dict(dict(standing.scaler))
    if isinstance(attached, Recorded):
        attached.observe(job.folder / "gamma", standing.step)
    wrapped, stepper = fabric.setup(model, optimizer)
    orders = TrainingOrders(len(job.split), settings.batch_size, settings.epochs, job.seed, job.stage)
    steps = orders.steps
    batches = load(job.split, orders, seed=job.seed, stage=job.stage, first=standing.step, workers=job.workers)
    journal = Journal(job.folder, standing.step)
    bar = job.progress.bar(job.stage, len(orders), standing.step)
    sums, saved_at, images_per_second, shrunk = dict(standing.sums), time.monotonic(), rate(), ""
    try:
        with interrupts() as stop_asked, bar as advance:
            for step, batch in enumerate(batches, start=standing.step + 1):
                epoch, ended = 1 + (step - 1) // steps, step % steps == 0
                lr = learning_rate(settings, step - 1, steps)
                set_learning_rate(optimizer, lr)
                torch.manual_seed(step_seed(job.seed, job.stage, step))
                try:
                    losses = take_step(fabric, wrapped, stepper, job.task, settings, batch)
                except TrainingError as problem:
                    raise explained(problem, job.stage, step, batch, settings, saved) from None
                sums = {name: sums.get(name, 0.0) + loss for name, loss in losses.items()}
                if isinstance(attached, Recorded):
                    attached.record(step, epoch, ended)
                if step % LOG_EVERY == 0:
                    journal.write("step", step, epoch, {**losses, "lr": lr})
                    shrunk = f", {shrinkage(attached.watched())}" if attached else ""
                if ended:
                    means = {name: total / steps for name, total in sums.items()}
                    now = shrinkage(attached.watched()) if attached else None
                    _finish_epoch(job, journal, model, step, epoch, means, untouched, now)
                    sums = {}
                pace = f"{images_per_second(len(batch.indices)):.0f} images/s"
                advance(1, f"epoch {epoch}/{settings.epochs}, loss {losses['loss']:.3g}, {pace}{shrunk}")

                waited = time.monotonic() - saved_at
                due = waited > settings.checkpoint_seconds * (0.1 if ended else 1.0) and step < len(orders)
                if (due or stop_asked()) and all_finite(model):
                    journal.sync()
                    checkpoint.save(saved, model, optimizer, Standing(step, sums, precision.state_dict()))
                    saved_at = time.monotonic()
                if stop_asked():
                    raise KeyboardInterrupt
    finally:
        journal.close()
        batches.close()


def _finish_epoch(
    job: Job,
    journal: Journal,
    model: nn.Module,
    step: int,
    epoch: int,
    means: dict[str, float],
    untouched: Shrinkage | None,
    now: Shrinkage | None,
) -> None:
    """Report an epoch: its mean losses, how far the watched weights have shrunk, and the validation where it is due."""
    metrics = dict(means)
    if untouched and now:
        metrics |= {"gamma_small": now.share, "gamma_median": now.median}
        if epoch == 1 and (line := complaint(untouched, now, job.settings.epochs)):
            job.progress.say(f"{job.stage}: {line}")
    if job.validate and job.settings.validate_every and epoch % job.settings.validate_every == 0:
        metrics |= {f"val_{name}": value for name, value in job.validate(model).items()}
    journal.write("epoch", step, epoch, metrics)
    job.epoch_finished(epoch, metrics)
