"""A recipe in; what each criterion's cut costs its trained network, before and after the same fine-tuning, out.

    python benchmarks/criteria.py measure digits --keep 0.3 0.1
    python benchmarks/criteria.py measure yolov3_tiny_hand data.root=../my-hands --keep 0.5
    python benchmarks/criteria.py write                        # docs/comparisons.md

For each seed, the recipe's `train` stage makes a network. Each criterion cuts it to the same multiply-adds, with
nothing given back; the recipe's `finetune` stage, the same for all, trains what is left. Data for a criterion are the
128 training images that a recipe's prune stage would show it. Scope `local` takes the same number of channels from
every group whatever the criterion, so that only the order within a group counts. Under `global`, with scores divided by
their group's mean (`bn-gamma` and `lamp`, which are made for it, are left as they are), criteria also say from where.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from kept import PAGE, RESULTS, WHOLE, Row, add_row, find_rows, read_rows
from torch import nn
from trained import context_of, quiet

import compress
from compress import CompressError
from compress.plugins import installed
from compress.recipes import Recipe, load
from compress.stages import run as runs
from compress.stages.evaluation import assess
from compress.stages.network import PLAN, read
from compress.stages.stage import Context
from compress.stages.training import Finetune, Train
from compress.training.loop import Job, train

OF_PEERS = ("GroupMagnitudeImportance", "FPGMImportance", "GroupTaylorImportance", "OBDCImportance")
VARIANTS: dict[str, dict[str, Any]] = {
    "l1, filters alone": {"uses": "l1", "aggregate": "first"},
    "l2, filters alone": {"uses": "l2", "aggregate": "first"},
    "l2, largest place": {"uses": "l2", "aggregate": "max"},
    "taylor, weight by weight": {"uses": "taylor", "joint": False},
}
MADE_FOR_GLOBAL = ("bn-gamma", "lamp")
SCORED = 64
"""Images at once for the metrics."""


def criteria(scope: str, seed: int) -> dict[str, dict[str, Any]]:
    """Every registered criterion of the project's own, variants, and some of Torch-Pruning's, with their options."""
    names = [name for name in installed().criteria if "." not in name] + [f"torch-pruning.{name}" for name in OF_PEERS]
    found = {**{name: {"uses": name} for name in names}, **VARIANTS}
    found["random"]["seed"] = seed
    if scope == "global":
        for name, options in found.items():
            if name not in MADE_FOR_GLOBAL and not name.startswith("torch-pruning."):  # those normalise by themselves
                options = options | {"normalize": "mean"}
            found[name] = options
    return found


@dataclass(frozen=True)
class Subject:
    """The network that one seed's training made. context: of a stage after it."""

    context: Context
    model: nn.Module

    @property
    def recipe(self) -> Recipe:
        return self.context.recipe

    def score(self, model: nn.Module) -> float:
        """The headline metric on the validation images."""
        return float(assess(self.context, model, SCORED, "scoring").metrics[self.recipe.task.headline])

    def tuned(self, model: nn.Module) -> nn.Module:
        """A copy of the network after the recipe's fine-tuning; the order of the images is the same for all."""
        settings = next(stage for _, stage in self.recipe.stages if isinstance(stage, Finetune))
        with tempfile.TemporaryDirectory() as folder:
            return train(
                Job(
                    stage="finetuned",
                    model=copy.deepcopy(model),
                    split=self.context.data.train,
                    task=self.recipe.task,
                    settings=settings,
                    seed=self.recipe.seed,
                    folder=Path(folder),
                    progress=quiet(),
                )
            ).eval()

    def cut(self, criterion: dict[str, Any], scope: str, keep: float) -> compress.Pruned:
        """As a prune stage of the recipe would cut it."""
        stage = {"uses": "prune", "criterion": criterion, "scope": scope, "keep_macs": keep}
        prune = self.recipe.registry.make("stages", stage)
        graph = prune.trace(self.model, self.context.example(), self.recipe.registry)
        return compress.apply(self.model, graph, prune.plan(graph, self.recipe, self.context.data))


def trained(recipe: Recipe, folder: Path) -> Subject:
    """The network of the recipe's `train` stage, made in the folder or read from there."""
    name, stage = next((name, stage) for name, stage in recipe.stages if isinstance(stage, Train))
    context = context_of(name, folder, recipe, runs.open_data(recipe, quiet()))
    if not (context.folder / PLAN).exists():
        context.folder.mkdir(parents=True, exist_ok=True)
        stage.run(context)
    return Subject(context, read(context, name).model.eval())


def check_settings(rows: Sequence[Row], recipe: Recipe, settings: Sequence[str]) -> None:
    """Raise CompressError where rows of a recipe of that name were measured with other settings."""
    for row in find_rows(rows, {"recipe": recipe.name, "seed": recipe.seed, "criterion": WHOLE}):
        if row["settings"] != list(settings):
            before = " ".join(row["settings"]) or "none"
            other = "go on with those, or give the recipe another name with name=NAME"
            raise CompressError(f"{recipe.name} was measured with other settings ({before}); {other}")


def measure(subject: Subject, asked: Sequence[Row], file: Path) -> None:
    """Answer what has no answer yet, one row at a time."""
    for question in asked:
        if find_rows(read_rows(file), question):
            continue
        row = question | answer(subject, question)
        add_row(file, row)
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)


def answer(subject: Subject, question: Row) -> Row:
    """The share of the multiply-adds left, the score before and after fine-tuning; or why there is none."""
    if question["criterion"] == WHOLE:
        found = compress.trace(subject.model, subject.context.example()).cost()
        model, left = subject.model, {"left": 1.0, "macs": found.macs, "params": found.params}
    else:
        criterion = criteria(question["scope"], question["seed"])[question["criterion"]]
        try:
            pruned = subject.cut(criterion, question["scope"], question["keep"])
        except CompressError as error:
            return {"failed": str(error).splitlines()[0]}
        model, left = pruned.model, {"left": pruned.after.macs / pruned.before.macs}
        silent = [name for name, why in pruned.plan.frozen.items() if "says nothing about it" in why]
        left |= {"silent": len(silent)} if silent else {}
    return {**left, "before": subject.score(model), "after": subject.score(subject.tuned(model))}


def questions(recipe: Recipe, settings: Sequence[str], scopes: Sequence[str], keeps: Sequence[float]) -> list[Row]:
    """What is asked of one seed's network."""
    seed, head = recipe.seed, {"recipe": recipe.name, "seed": recipe.seed}
    asked: list[Row] = [{**head, "criterion": WHOLE, "settings": list(settings)}]
    for scope in scopes:
        for keep in keeps:
            asked += [{**head, "criterion": name, "scope": scope, "keep": keep} for name in criteria(scope, seed)]
    return asked


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file and the networks")
    commands = parser.add_subparsers(required=True)
    measuring = commands.add_parser("measure", help="measure one recipe, or what is still missing of it")
    measuring.add_argument("recipe", help="name or path")
    measuring.add_argument("settings", nargs="*", help="KEY=VALUE, as `compress run` takes them")
    measuring.add_argument("--keep", type=float, nargs="+", default=[0.5], help="fractions of the multiply-adds kept")
    measuring.add_argument("--scope", nargs="+", default=["local", "global"], choices=["local", "global"])
    measuring.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    measuring.set_defaults(do=measure_recipe)
    writing = commands.add_parser("write", help="put the tables and the picture on docs/comparisons.md")
    writing.set_defaults(do=write)
    options = parser.parse_args()
    try:
        options.do(options)
    except CompressError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def measure_recipe(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    file = options.results / "criteria.json"
    settings = [each for each in options.settings if not each.startswith("data.root=")]  # a place says nothing
    for seed in options.seeds:
        recipe = load(options.recipe, [*options.settings, f"seed={seed}"])
        check_settings(read_rows(file), recipe, settings)
        with runs.reproducible(1):
            subject = trained(recipe, options.results / recipe.name / f"seed-{seed}")
            measure(subject, questions(recipe, settings, options.scope, options.keep), file)


def write(options: argparse.Namespace) -> None:
    from tables import criteria_picture, criteria_tables, put_on_page

    rows = read_rows(options.results / "criteria.json")
    if not rows:
        raise CompressError(f"{options.results}: nothing was measured yet; `criteria.py measure` does")
    put_on_page("criteria", criteria_tables(rows))
    criteria_picture(rows, PAGE.parent / "images" / "criteria.png")


if __name__ == "__main__":
    sys.exit(main())
