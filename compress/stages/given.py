"""A recipe's network as it is given in, its row of the report out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..training.progress import Progress
from .evaluation import FRESH, Candidate, assess, measure
from .network import build
from .run import find_device, open_data, reproducible
from .stage import Context

if TYPE_CHECKING:
    from ..recipes import Recipe


def measure_given(recipe: Recipe, batch_size: int = 16, seconds: float = 5.0) -> dict[str, Any]:
    """Metrics, size and speed of the network that the recipe's model builds, before any stage.

    batch_size: images at once for the metrics. seconds: how long to measure latency.
    """
    progress, device = Progress(), find_device(recipe.device)
    with reproducible(recipe.threads or torch.get_num_threads()):
        context = Context(FRESH, Path(), (), recipe, open_data(recipe, progress), device, progress)
        model = build(context)
        found = {FRESH: assess(context, model, batch_size, "evaluating")}
        return measure(context, [Candidate(FRESH, FRESH, model)], found, seconds)[0]
