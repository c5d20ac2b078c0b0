"""A checked recipe in, a finished run folder out - at once, or going on from wherever an earlier attempt was killed."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import CompressError
from ..files import claimed, replaced_folder, write_json
from ..training import processes
from ..training.progress import Progress, clock
from . import expect, lock
from .evaluation import Candidate, assess, measure
from .network import artifact_files, read
from .rehearsal import rehearse
from .report import Report
from .stage import DONE, Context, Stage, find_start

if TYPE_CHECKING:
    from ..recipes import Recipe
    from ..training.dataset import Data

RECIPE = "recipe.yaml"
MODEL = "model"
LOG = "log.txt"


@dataclass(frozen=True)
class Finished:
    """A run that ended well. report: the content of report.json, empty where the recipe has no report stage."""

    folder: Path
    report: Mapping[str, Any]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; the run in `folder` can be resumed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"stopped; go on with: compress run --resume {folder}")
        self.folder = folder


def start(recipe: Recipe, out: Path | None = None) -> Finished:
    """Run a recipe into `out`, or into runs/<name>-<time> under the working directory.

    Raises: CompressError for a user's mistake, ExpectationError where the results miss the recipe's `expect`,
    Interrupted at Ctrl-C.
    """
    from ..recipes import dump

    device, threads = find_device(recipe.device), recipe.threads or torch.get_num_threads()
    processes.join(device)
    folder = processes.told(out or Path("runs") / f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CompressError(f"{folder}: already there; `compress run --resume {folder}` goes on, --out names another")
    _check(recipe)
    progress = _progress()
    for note in recipe.notes:
        progress.say(note)
    data = open_data(recipe, progress)
    rehearse(recipe, data)  # what cannot be cut as the recipe says comes out now, not after the training
    processes.meet()  # every process has found the folder free
    if processes.leads():
        with replaced_folder(folder) as beside:
            (beside / RECIPE).write_text(dump(recipe.resolved), encoding="utf-8")
            write_json(beside / lock.NAME, lock.make_lock(recipe, data, device, threads))
    progress.say(f"run: {folder}")
    return _go(folder, recipe, data, device, threads)


def resume(folder: Path) -> Finished:
    """Go on with the run in `folder`: finished stages stay, the one that was killed goes on from its checkpoint.

    The end is the same, bit for bit, as that of a run never stopped (same machine, same threads).
    Raises: as `start`; CompressError where the folder is no run's, or data or plugin files changed since.
    """
    recipe, kept = load_recipe(folder), lock.read_lock(folder)
    progress, device = _progress(folder / LOG), find_device(kept["device"])
    processes.join(device)
    data = open_data(recipe, progress)
    for line in lock.hold(kept, lock.make_lock(recipe, data, device, kept["threads"])):
        progress.say(line)
    return _go(folder, recipe, data, device, kept["threads"])


def evaluate(folder: Path, stage: str | None = None, seconds: float = 5.0) -> dict[str, Any]:
    """The report's row of one network of a run, measured anew.

    stage: its id; None: the last that left one. seconds: how long to measure latency.
    """
    recipe, kept = load_recipe(folder), lock.read_lock(folder)
    done = tuple((id, s) for id, s in recipe.stages if (folder / id / DONE).exists())
    id = find_start(stage or "previous", done)
    if id is None:
        raise CompressError(f"{folder}: no stage has left a network yet; `compress run --resume {folder}` goes on")
    progress, device = Progress(), find_device(kept["device"])
    with reproducible(kept["threads"]):
        context = Context(id, folder, done, recipe, open_data(recipe, progress), device, progress)
        candidate = Candidate(id, dict(done)[id].role or id, read(context, id).model)
        found = {candidate.role: assess(context, candidate.model, 16, f"evaluating {id}")}
        return measure(context, [candidate], found, seconds)[0]


def load_recipe(folder: Path) -> Recipe:
    """The resolved recipe of a run. Raises CompressError where the folder is no run's."""
    from ..recipes import load

    lock.read_lock(folder)
    return load(folder / RECIPE)


def find_device(wanted: str) -> str:
    """`cpu` or `cuda`, for `auto` what is there. Raises CompressError where it is not there."""
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise CompressError("device: cuda is asked for, but torch sees no GPU; say device=cpu or device=auto")
    return ("cuda" if there else "cpu") if wanted == "auto" else wanted


def open_data(recipe: Recipe, progress: Progress) -> Data:
    """Open the recipe's data and say what there is and what is wrong with it."""
    began = time.monotonic()
    data = recipe.dataset.open()
    made = ", SYNTHETIC (drawn, not photographed)" if data.synthetic else ""
    count = f"{len(data.train)} images to train on, {len(data.val)} to validate"
    progress.say(f"data: {data.name}, {count}{made}, opened in {clock(time.monotonic() - began)}")
    for problem in data.problems:
        progress.say(f"data: {problem}")
    return data


@contextmanager
def reproducible(threads: int) -> Iterator[None]:
    """Torch with that many threads and kernels that give the same result each time; it warns of an op without one."""
    before, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS wants for it
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(strict)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def _progress(file: Path | None = None) -> Progress:
    """What this process says; only the first of several is heard."""
    return Progress(file=file) if processes.leads() else Progress(stream=open(os.devnull, "w"))


def _check(recipe: Recipe) -> None:
    if recipe.expect and not any(isinstance(stage, Report) for _, stage in recipe.stages):
        raise CompressError("expect: is held against the report, but no stage says `uses: report`; add one at the end")


def _go(folder: Path, recipe: Recipe, data: Data, device: str, threads: int) -> Finished:
    progress, hook, leads = _progress(folder / LOG), recipe.registry.hook, processes.leads()
    try:
        with claimed(folder / LOG) if leads else nullcontext(True) as mine, reproducible(threads):
            if not mine:
                raise CompressError(f"{folder}: another process is at work on this run; wait for it or stop it")
            for number, (id, stage) in enumerate(recipe.stages):
                context = Context(id, folder, recipe.stages[:number], recipe, data, device, progress)
                if processes.told((context.folder / DONE).exists()):
                    progress.say(f"{id}: done already")
                    continue
                if leads:
                    hook.compress_stage_started(run=folder, stage=id)
                    _run(stage, context)
                    hook.compress_stage_finished(run=folder, stage=id)
                elif stage.everywhere:
                    stage.run(context)
                processes.meet()
            if leads:
                _leave_model(folder, recipe)
    except KeyboardInterrupt as stopped:
        raise Interrupted(folder) from stopped
    if not leads:
        return Finished(folder, {})
    written = folder / "report.json"
    report = json.loads(written.read_text(encoding="utf-8")) if written.exists() else {}
    hook.compress_run_finished(run=folder, report=report)
    if recipe.expect:
        expect.hold(report, recipe.expect)
    return Finished(folder, report)


def _run(stage: Stage, context: Context) -> None:
    began = time.monotonic()
    context.folder.mkdir(exist_ok=True)
    number, total = len(context.earlier) + 1, len(context.recipe.stages)
    context.progress.say(f"{context.id}: {stage.name}, stage {number} of {total}")
    facts = stage.run(context)
    seconds = time.monotonic() - began
    write_json(context.folder / DONE, {"uses": stage.name, "seconds": round(seconds, 1), "facts": dict(facts or {})})
    context.progress.say(f"{context.id}: done in {clock(seconds)}")


def _leave_model(folder: Path, recipe: Recipe) -> None:
    """The last network's artifact once more, where a user looks for it."""
    last = find_start("previous", recipe.stages)
    if last is not None:
        with replaced_folder(folder / MODEL) as beside:
            for file in artifact_files(folder / last):
                shutil.copy2(file, beside)
