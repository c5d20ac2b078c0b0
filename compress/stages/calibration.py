"""A recipe's training images in, the batches and the loss that a criterion or a compensation looks at out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..errors import CompressError
from ..pruning.calibration import Calibration
from ..training.loader import TrainingOrders, load

if TYPE_CHECKING:
    from ..pruning.criteria import Criterion
    from ..recipes import Recipe
    from ..training.dataset import Data
    from ..training.progress import Progress

BATCH = 16
"""Images in a calibration batch."""


def calibrate(
    who: str, batches: int, recipe: Recipe, data: Data, progress: Progress | None, by_sample: bool = False
) -> Calibration:
    """As many batches of 16 training images, or the same images one by one. who: looks at them, for messages."""
    if not len(data.train):
        raise CompressError(f"{who} looks at training images, and {data.name} has none")
    size = 1 if by_sample else BATCH
    orders = TrainingOrders(len(data.train), size, 1, recipe.seed, "calibration")
    loaded = load(data.train, orders[: batches * BATCH // size], seed=recipe.seed, stage="calibration")

    def loss(model: nn.Module, batch: tuple[Tensor, Any]) -> Tensor:
        return recipe.task.loss(model, *batch)["loss"]

    return Calibration([(batch.images, batch.targets) for batch in loaded], loss, progress)


def calibrate_criterion(
    criterion: Criterion, batches: int, recipe: Recipe, data: Data, progress: Progress | None
) -> Calibration | None:
    """The images that a criterion looks at; None for one that looks at none."""
    if not (criterion.needs_gradients or criterion.needs_batches):
        return None
    return calibrate(f"criterion {criterion.name}", batches, recipe, data, progress, criterion.by_sample)
