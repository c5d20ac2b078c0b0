"""A network, data, a task and settings in, the trained network out: one loop to train, to sparsify and to fine-tune."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn, optim

from . import checkpoint, processes
from .average import Average
from .checkpoint import Standing
from .dataset import Split
from .interrupts import interrupts
from .journal import Journal
from .loader import TrainingOrders, load
from .optim import Settings, build_optimizer, learning_rate
from .progress import Progress, rate
from .randomness import step_seed
from .regularizers import Attached, Recorded, Scheduled
from .shrinkage import Shrinkage, complaint, shrinkage
from .step import TrainingError, all_finite, compiled, explained, set_learning_rate, start_fabric, take_step
from .task import Task

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from ..graph.graph import Cost
    from .distiller import Distiller

LOG_EVERY = 10  # steps between two lines of metrics
CHECKPOINT = "checkpoint.safetensors"
BEST = "best.safetensors"


@dataclass(frozen=True)
class Job:
    """All that decides what training does, and who wants to hear of it.

    stage: its name, part of where randomness comes from. folder: gets checkpoint and metrics. workers: processes that
    make batches, 0 for a thread. attach: hooks a regularizer to the optimizer. distiller: of `model`; adds what it
    learns from a teacher to the task's loss. foresee: what would be left of a network if it were pruned now, None where
    that is unknown. validate: a network -> its metrics, the task's headline among them. epoch_finished: told each epoch
    (from 1) and its metrics. Under torchrun only the first process writes, validates and tells.
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
    distiller: Distiller | None = None
    foresee: Callable[[nn.Module], Cost | None] | None = None
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None
    epoch_finished: Callable[[int, dict[str, float]], None] = lambda epoch, metrics: None
    progress: Progress = field(default_factory=Progress)


def train(job: Job) -> nn.Module:
    """Train job.model in place, going on from a checkpoint in job.folder where there is one, and return it.

    Two runs with one seed, device, thread count and number of processes give the same weights, bit for bit, however
    often they are stopped.

    Raises: TrainingError at a loss or gradient that is not finite. KeyboardInterrupt at Ctrl-C, once the checkpoint is
    written. CompressError where the checkpoint does not fit.
    """
    settings = job.settings
    fabric = start_fabric(job.device, settings.precision)
    model = job.model.to(fabric.device)
    if settings.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(model, settings)
    attached = job.attach(model, optimizer) if job.attach else None
    average = Average(model, settings.ema) if settings.ema is not None else None
    try:
        standing = _run(job, fabric, _Trainee(model, optimizer, attached, average))
        if average:
            average.put(model)
        if settings.keep == "best" and standing.best is not None:
            processes.meet()  # the first one has written it
            checkpoint.read_weights(job.folder / BEST, model)
            job.progress.say(f"{job.stage}: keeps the network of epoch {standing.best_epoch}, the best one validated")
        if isinstance(attached, Recorded) and processes.leads():
            attached.pictures(job.folder / "pictures")
    finally:
        if attached:
            attached.detach()
    return model


@dataclass(frozen=True)
class _Trainee:
    """What changes with every step: the network, and all that goes with it."""

    model: nn.Module
    optimizer: optim.Optimizer
    attached: Attached | None
    average: Average | None

    def shrinkage(self) -> Shrinkage | None:
        return shrinkage(self.attached.watched()) if self.attached else None


def _run(job: Job, fabric: Fabric, trainee: _Trainee) -> Standing:
    """Every step that is left; where training stands then."""
    settings, saved, leads = job.settings, job.folder / CHECKPOINT, processes.leads()
    model, optimizer, attached, average = trainee.model, trainee.optimizer, trainee.attached, trainee.average
    untouched = trainee.shrinkage()  # of the stage's first network, also when resumed
    averaged = average.tensors if average else {}
    standing = checkpoint.restore(saved, model, optimizer, averaged) if saved.exists() else Standing()
    precision = fabric.strategy.precision
    if standing.scaler:
        precision.load_state_dict(dict(standing.scaler))
    if isinstance(attached, Recorded) and leads:
        attached.observe(job.folder / "gamma", standing.step)
    orders, learn = _orders(job), partial(job.distiller.loss, job.task) if job.distiller else job.task.loss
    steps, total = orders.steps, orders.steps * settings.epochs
    wrapped, stepper = fabric.setup(compiled(model, job.device) if settings.compile else model, optimizer)
    first = standing.step * settings.accumulate
    batches = load(job.split, orders, seed=job.seed, stage=job.stage, first=first, workers=job.workers)
    journal = Journal(job.folder, standing.step) if leads else None
    bar = job.progress.bar(job.stage, total, standing.step)
    saved_at, images_per_second, shrunk, left = time.monotonic(), rate(), "", ""
    try:
        with interrupts() as stop_asked, bar as advance:
            for step, parts in enumerate(zip(*[batches] * settings.accumulate, strict=True), start=standing.step + 1):
                epoch, ended = 1 + (step - 1) // steps, step % steps == 0
                if (step - 1) % steps == 0 and _out_of_patience(settings, epoch - 1, standing):
                    since = f"no better {job.task.headline} since epoch {standing.best_epoch}"
                    job.progress.say(f"{job.stage}: ends after epoch {epoch - 1}, {since}")
                    break
                lr = learning_rate(settings, step - 1, steps)
                set_learning_rate(optimizer, lr)
                if isinstance(attached, Scheduled):
                    attached.begin(step - 1, total)
                torch.manual_seed(step_seed(job.seed, job.stage, step, processes.rank()))
                try:
                    losses = take_step(fabric, wrapped, stepper, learn, settings, parts)
                except TrainingError as problem:
                    raise explained(problem, job.stage, step, parts, settings, saved) from None
                if average:
                    average.update(model, step)
                sums = {name: standing.sums.get(name, 0.0) + loss for name, loss in losses.items()}
                standing = replace(standing, step=step, sums=sums)
                if isinstance(attached, Recorded) and leads:
                    attached.record(step, epoch, ended)
                if step % LOG_EVERY == 0:
                    if journal:
                        journal.write("step", step, epoch, {**losses, "lr": lr})
                    shrunk = f", {trainee.shrinkage()}" if attached else ""
                if ended:
                    cost = job.foresee(model) if job.foresee and leads else None
                    left = f", pruned now {cost}" if cost else ""
                    standing = replace(standing, sums={})
                    standing = _finish_epoch(job, trainee, journal, standing, epoch, sums, untouched, cost)
                images = sum(len(part.indices) for part in parts) * processes.count()
                pace = f"{images_per_second(images):.0f} images/s"
                advance(1, f"epoch {epoch}/{settings.epochs}, loss {losses['loss']:.3g}, {pace}{shrunk}{left}")

                waited, stop = time.monotonic() - saved_at, processes.any_of(stop_asked(), fabric.device)
                due = waited > settings.checkpoint_seconds * (0.1 if ended else 1.0) and step < total
                if journal and (due or stop) and all_finite(model):
                    journal.sync()
                    now = replace(standing, scaler=precision.state_dict())
                    checkpoint.save(saved, model, optimizer, now, averaged)
                    saved_at = time.monotonic()
                if stop:
                    raise KeyboardInterrupt
    finally:
        if journal:
            journal.close()
        batches.close()
    return standing


def _out_of_patience(settings: Settings, epoch: int, standing: Standing) -> bool:
    """Whether training shall end after so many epochs."""
    if settings.patience is None or not settings.validate_every or epoch % settings.validate_every:
        return False
    return epoch - standing.best_epoch >= settings.patience


def _orders(job: Job) -> TrainingOrders:
    """The batches of this process. Raises CompressError where they do not make equal parts."""
    settings, count = job.settings, processes.count()
    return TrainingOrders(
        samples=len(job.split),
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        seed=job.seed,
        stage=job.stage,
        parts=settings.accumulate * count,
        rank=processes.rank(),
        ranks=count,
    )


def _finish_epoch(
    job: Job,
    trainee: _Trainee,
    journal: Journal | None,
    standing: Standing,
    epoch: int,
    sums: Mapping[str, float],
    untouched: Shrinkage | None,
    cost: Cost | None,
) -> Standing:
    """Report an epoch: mean losses, how far the watched weights have shrunk, and the validation where it is due.

    sums: of the epoch's losses. cost: of the network if it were pruned now. The standing after it says whether the
    validation was the best one; such a network is written to BEST where that is the one to keep.
    """
    settings, now, model = job.settings, trainee.shrinkage(), trainee.model
    metrics = {name: total / (len(job.split) // settings.batch_size or 1) for name, total in sums.items()}
    if untouched and now:
        metrics |= {"gamma_small": now.share, "gamma_median": now.median}
        risen = trainee.attached.rises if isinstance(trainee.attached, Scheduled) else 0.0
        judged = min(1 + int(risen * settings.epochs), settings.epochs)
        if epoch == judged and (line := complaint(untouched, now, settings.epochs, judged)):
            job.progress.say(f"{job.stage}: {line}")
    if cost:
        metrics |= {"pruned_params": cost.params, "pruned_macs": cost.macs}
    if job.validate and settings.validate_every and epoch % settings.validate_every == 0:
        with trainee.average.lent(model) if trainee.average else nullcontext():
            found = processes.told(dict(job.validate(model)) if journal else {})
            metrics |= {f"val_{name}": value for name, value in found.items()}
            reached = found.get(job.task.headline)
            if reached is not None and (standing.best is None or reached > standing.best):
                standing = replace(standing, best=reached, best_epoch=epoch)
                if journal and settings.keep == "best":
                    checkpoint.write_tensors(job.folder / BEST, model.state_dict())
    if journal:
        journal.write("epoch", standing.step, epoch, metrics)
        job.epoch_finished(epoch, metrics)
    return standing
