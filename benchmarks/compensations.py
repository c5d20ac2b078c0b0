"""Trained detectors in, the mAP that each compensation keeps after a cut - before any training - out.

    python benchmarks/compensations.py measure NET.cfg --data DIR data.names=FILE   # NET.weights lies beside it
    python benchmarks/compensations.py measure runs/NAME --stage sparse             # a network that a run has trained
    python benchmarks/compensations.py write                                        # docs/comparisons.md

Each network is cut to several budgets of multiply-adds by each criterion, scope `global`, once with nothing given back
and once with every compensation; what the recipe's policy keeps is left alone. `fold-exact` keeps channels, so it is
asked for a smaller budget until it meets the same one. Beside them stands Torch-Pruning's BNScalePruner on the same
weights, its ratio found by bisection so that it meets the same budget: as it comes, and without its normaliser, which
leaves |gamma| as it is. mAP@0.5 on the validation images as `compress eval` scores it. A compensation that looks at
data sees training images; where there are none, it sees one half of the validation images and is scored on the other
half, and the other way round.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_pruning
from compress_plugins.detection import score_detections
from kept import PAGE, REMOVED, RESULTS, WHOLE, Row, add_row, find_rows, read_rows
from torch import nn
from trained import Trained, of_files, of_run

import compress
from compress import CompressError, DependencyGraph
from compress.plugins import installed
from compress.training.loader import Order, TrainingOrders, load

NONE, PEER, OF_PEER = "none", "Torch-Pruning", "bn-gamma"
PEERS = {PEER: {}, f"{PEER}, no normaliser": {"normalizer": None}}
BATCH, BATCHES = 16, 8
"""Images in a calibration batch, and how many batches there are at most."""
TRIES, HALVINGS = 10, 8
SILENT = 0.01
"""A |gamma| below it counts as near zero."""


@dataclass(frozen=True)
class Fold:
    """Images that a compensation may see, as batches, and validation images that the result is scored on."""

    seen: Sequence[torch.Tensor]
    scored: range


@dataclass(frozen=True)
class Subject:
    """A trained detector, ready to be cut."""

    trained: Trained

    @cached_property
    def graph(self) -> DependencyGraph:
        """Of the whole network."""
        return compress.trace(self.trained.model, self.trained.example)

    @cached_property
    def folds(self) -> list[Fold]:
        """One, where there are training images; else two, each half of the validation images scored once."""
        data, whole = self.trained.data, range(len(self.trained.data.val))
        if len(data.train):
            orders = TrainingOrders(len(data.train), BATCH, 1, 0, "calibration")[:BATCHES]
            return [Fold([batch.images for batch in load(data.train, [Order(None, o.indices) for o in orders])], whole)]
        half = len(whole) // 2
        parts = (whole[:half], whole[half:])
        return [Fold(self._images(other), part) for part, other in (parts, parts[::-1])]

    def _images(self, numbers: range) -> list[torch.Tensor]:
        chosen = numbers[: BATCH * BATCHES]
        return [batch.images for batch in load(self.trained.data.val, in_order(chosen))]

    def score(self, models: Sequence[nn.Module]) -> dict[str, Any]:
        """mAP@0.5 of the detections of all folds together, each by its own network; and of each subset."""
        task, data = self.trained.recipe.task, self.trained.data
        found, truths = [], []
        for model, fold in zip(models, self.folds, strict=True):
            model = model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for batch in load(data.val, in_order(fold.scored)):
                found += task.detect(model, batch.images.contiguous(memory_format=torch.channels_last))
                truths += batch.targets
        subsets = tuple(sorted({truth["subset"] for truth in truths if truth.get("subset")}))
        metrics, by_subset, _ = score_detections(found, truths, data.classes, subsets)
        return {"map50": metrics["map50"], "subsets": {name: each["map50"] for name, each in by_subset.items()}}

    def cut(self, criterion: str, compensation: str, keep: float) -> tuple[list[nn.Module], float]:
        """A network for each fold and the fraction of the multiply-adds that is left, at most `keep`."""
        given = None if compensation == NONE else installed().make("compensations", compensation)
        needs = given is not None and given.needs_batches
        made = [self._cut(criterion, given, keep, fold.seen if needs else None) for fold in self.folds[: 1 + needs]]
        models = [pruned.model for pruned in made]
        left = made[0].after.macs / made[0].before.macs
        return (models if len(models) == len(self.folds) else models * len(self.folds)), left

    def _cut(self, criterion: str, given: Any, keep: float, seen: Any) -> compress.Pruned:
        model, policy, asked = self.trained.model, self.trained.recipe.policy, keep
        for _ in range(TRIES):
            plan = compress.plan(self.graph, criterion, keep={"macs": asked}, scope="global", policy=policy)
            pruned = compress.apply(model, self.graph, plan, compensate=given, calibration=seen)
            over = pruned.after.macs / pruned.before.macs - keep
            if over <= 0:
                return pruned
            asked -= over  # what the compensation keeps comes on top of the budget
        raise CompressError(f"{keep:.0%} of the multiply-adds cannot be met with what {given.name} keeps")

    def removed(self, keep: float) -> Row:
        """What `bn-gamma` takes for a budget: channels, and those of them whose |gamma| is near zero in every norm.

        And what `fold-exact` would keep of them: how many, and their share of the whole network's multiply-adds.
        """
        graph, policy = self.graph, self.trained.recipe.policy
        weights = dict(self.trained.model.named_parameters())
        plan = compress.plan(graph, OF_PEER, keep={"macs": keep}, scope="global", policy=policy)
        channels = silent = 0
        for name, units in plan.removed.items():
            largest = np.zeros(graph[name].size)
            for member in graph[name].members:
                if member.role == "norm" and member.name.endswith("weight"):
                    gamma = weights[member.name].detach().abs().numpy()[member.index]
                    np.maximum.at(largest, member.unit, gamma)
            channels, silent = channels + len(units), silent + int((largest[units] < SILENT).sum())
        reserved = installed().make("compensations", "fold-exact").reserve(self.trained.model, graph, plan)
        carriers = sum(map(len, plan.removed.values())) - sum(map(len, reserved.removed.values()))
        cost = (graph.cost(reserved).macs - graph.cost(plan).macs) / graph.cost().macs
        return {"channels": channels, "silent": silent, "carriers": carriers, "carriers_macs": cost}

    def cut_by_peer(self, options: dict[str, Any], keep: float) -> tuple[list[nn.Module], float]:
        """Torch-Pruning's largest network that meets the budget; same result as `cut`."""
        model, dense = self.trained.model, self.graph.cost().macs
        policy = self.trained.recipe.policy
        kept = set(policy.freeze(self.graph, model)) if policy else set()
        whole = [
            member.name.rpartition(".")[0]
            for group in self.graph.groups
            if group.name in kept or (group.frozen and "an output of the network" in group.frozen.reason)
            for member in group.members
            if member.role == "out"
        ]
        best, low, high = None, 0.0, 1.0
        for _ in range(HALVINGS):
            ratio, peer = (low + high) / 2, copy.deepcopy(model)
            torch_pruning.pruner.BNScalePruner(
                peer,
                self.trained.example,
                importance=torch_pruning.importance.BNScaleImportance(**options),
                global_pruning=True,
                pruning_ratio=ratio,
                ignored_layers=[peer.get_submodule(path) for path in whole],
            ).step()
            left = compress.trace(peer, self.trained.example).cost().macs / dense
            best, low, high = ((peer, left), low, ratio) if left <= keep else (best, ratio, high)
        if best is None:
            raise CompressError(f"{keep:.0%} of the multiply-adds cannot be met")
        return [best[0]] * len(self.folds), best[1]


def in_order(numbers: range) -> list[Order]:
    """Batches of these images, as they are."""
    return [Order(None, tuple(numbers[k : k + BATCH])) for k in range(0, len(numbers), BATCH)]


def questions(criteria: Sequence[str], keeps: Sequence[float]) -> Iterator[Row]:
    """What is asked of one network, budget by budget."""
    for keep in keeps:
        for criterion in criteria:
            more = (*PEERS, REMOVED) if criterion == OF_PEER else ()
            for compensation in (NONE, *installed().compensations, *more):
                yield {"criterion": criterion, "compensation": compensation, "keep": keep}


def measure(trained: Trained, criteria: Sequence[str], keeps: Sequence[float], file: Path) -> None:
    """Answer what has no answer yet, one row at a time."""
    subject = Subject(trained)
    whole = {"network": trained.name, "compensation": WHOLE, "keep": 1.0}
    if not find_rows(read_rows(file), whole):
        cost = subject.graph.cost()
        add_row(file, {**whole, "macs": cost.macs, **subject.score([trained.model] * len(subject.folds))})
    for question in questions(criteria, keeps):
        question = {"network": trained.name, **question}
        if find_rows(read_rows(file), question):
            continue
        row = question | answer(subject, question)
        add_row(file, row)
        print(", ".join(f"{key} {value}" for key, value in row.items() if key != "subsets"), flush=True)


def answer(subject: Subject, question: Row) -> Row:
    """The share of the multiply-adds left and the score; or why there is none."""
    compensation, keep = question["compensation"], question["keep"]
    try:
        if compensation == REMOVED:
            return subject.removed(keep)
        if compensation in PEERS:
            models, left = subject.cut_by_peer(PEERS[compensation], keep)
        else:
            models, left = subject.cut(question["criterion"], compensation, keep)
    except Exception as error:
        if compensation not in PEERS and not isinstance(error, CompressError):
            raise
        said = str(error).splitlines()[0] if str(error) else ""
        return {"failed": said if isinstance(error, CompressError) else f"{type(error).__name__}: {said}"}
    return {"left": left, **subject.score(models)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file")
    commands = parser.add_subparsers(required=True)
    measuring = commands.add_parser("measure", help="measure one network, or what is still missing of it")
    measuring.add_argument("network", type=Path, help="a Darknet cfg, or the folder of a run")
    measuring.add_argument("settings", nargs="*", help="KEY=VALUE of a cfg's recipe, as `compress eval` takes them")
    measuring.add_argument("--data", type=Path, help="the images to score a cfg on")
    measuring.add_argument("--stage", default="sparse", help="the stage of a run whose network to cut")
    measuring.add_argument("--keep", type=float, nargs="+", default=[0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    measuring.add_argument("--criteria", nargs="+", default=["bn-gamma", "lamp"], help="what chooses the channels")
    measuring.set_defaults(do=measure_one)
    writing = commands.add_parser("write", help="put the tables and the picture on docs/comparisons.md")
    writing.set_defaults(do=write)
    options = parser.parse_args()
    try:
        options.do(options)
    except CompressError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def measure_one(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    if options.network.is_dir():
        trained = of_run(options.network, options.stage)
    elif options.data is None:
        raise CompressError(f"{options.network}: say what to score it on: --data DIR")
    else:
        trained = of_files(options.network, options.data, options.settings)
    measure(trained, options.criteria, options.keep, options.results / "compensations.json")


def write(options: argparse.Namespace) -> None:
    from tables import compensation_picture, compensation_tables, put_on_page

    rows = read_rows(options.results / "compensations.json")
    if not rows:
        raise CompressError(f"{options.results}: nothing was measured yet; `compensations.py measure` does")
    put_on_page("compensations", compensation_tables(rows))
    compensation_picture(rows, PAGE.parent / "images" / "compensations.png")


if __name__ == "__main__":
    sys.exit(main())
