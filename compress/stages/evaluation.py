"""Networks in, the numbers of the report out: metrics, parameters, multiply-adds, bytes, latency."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ..files import replaced_folder, write_json
from ..graph.trace import trace
from ..training.loader import Batch, evaluation_orders, load
from ..training.task import Evaluation
from .network import WEIGHTS, build, read
from .stage import Context, Stage

ROLES = ("baseline", "sparse", "pruned", "finetuned")
FRESH = "fresh"


@dataclass(frozen=True)
class Candidate:
    """A network of the report. stage: the id of the stage that left it, or `fresh`. role: its row."""

    stage: str
    role: str
    model: nn.Module


class Evaluate(Stage):
    """Every network of the recipe on the validation split, with its size and its speed.

    batch_size: images at once for the metrics. seconds: how long to measure latency, all networks in turns.
    """

    name = "evaluate"

    batch_size: Annotated[int, Field(ge=1)] = 16
    seconds: Annotated[float, Field(gt=0)] = 10.0

    def run(self, context: Context) -> Mapping[str, Any]:
        from ..report import draw_examples

        candidates = find_candidates(context)
        found = {c.role: assess(context, c.model, self.batch_size, f"{context.id}: {c.role}") for c in candidates}
        rows = measure(context, candidates, found, self.seconds)
        with replaced_folder(context.folder / "examples") as examples:
            for role, evaluation in found.items():
                draw_examples(evaluation.examples, examples, role, context.data.classes)
        write_json(context.folder / "curves.json", {role: dict(e.curves) for role, e in found.items()})
        return {"rows": rows}


def find_candidates(context: Context) -> list[Candidate]:
    """The last network of each role before this stage; the fresh one is the baseline where none was trained."""
    stages = {stage.role: id for id, stage in context.earlier if stage.role}
    trained = bool(stages.keys() & {"baseline", "sparse"})
    candidates = [] if trained else [Candidate(FRESH, "baseline", build(context))]
    for role in filter(stages.get, ROLES):
        candidates.append(Candidate(stages[role], role, read(context, stages[role]).model))
    return candidates


def assess(context: Context, model: nn.Module, batch_size: int, label: str) -> Evaluation:
    """The task's metrics of a network on the validation split. The model moves to the run's device."""
    split = context.data.val
    batches = load(split, evaluation_orders(len(split), batch_size))
    with context.progress.bar(label, len(split)) as advance:
        return scored(context, model, batches, lambda n: advance(n))


def scored(
    context: Context, model: nn.Module, batches: Iterable[Batch], progress: Callable[[int], None] | None = None
) -> Evaluation:
    """The task's metrics of a network on batches. The model moves to the run's device; progress: as the task tells."""
    from lightning_fabric.utilities import move_data_to_device

    device = context.device
    model = model.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    with torch.no_grad():
        ready = ((_ready(b.images, device), move_data_to_device(b.targets, device)) for b in batches)
        return context.recipe.task.evaluate(model, ready, context.data.classes, progress)


def measure(
    context: Context, candidates: list[Candidate], found: Mapping[str, Evaluation], seconds: float
) -> list[dict[str, Any]]:
    """The report's rows: each candidate's evaluation, size and speed (latency: one image, on the run's device)."""
    from ..measure import file_bytes, measure_latency

    example = context.example()
    models = {c.role: c.model.to(context.device).eval() for c in candidates}
    context.progress.say(f"{context.id}: measuring latency for {seconds:g} s")
    latency = measure_latency(models, example.to(context.device), seconds=seconds)
    rows = []
    for c in candidates:
        cost = trace(c.model.cpu(), example, rules=context.registry.op_rules).cost()
        weights = context.run / c.stage / WEIGHTS
        rows.append(
            {
                "stage": c.stage,
                "role": c.role,
                "params": cost.params,
                "macs": cost.macs,
                "bytes": weights.stat().st_size if weights.exists() else file_bytes(c.model),
                "latency_ms": latency[c.role].as_report(),
                "metrics": dict(found[c.role].metrics),
                "subsets": {name: dict(metrics) for name, metrics in found[c.role].subsets.items()},
                "classes": {name: dict(metrics) for name, metrics in found[c.role].classes.items()},
            }
        )
    return rows


def _ready(images: Tensor, device: str) -> Tensor:
    return images.to(device).contiguous(memory_format=torch.channels_last)
