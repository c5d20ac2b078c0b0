"""What a network is trained for: batches in, a loss out; a network and a split in, metrics out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from ..errors import CompressError
from ..options import Plugin


@dataclass(frozen=True)
class Evaluation:
    """What evaluation found.

    metrics: name -> value in [0, 1], e.g. {"map50": 0.91, "precision": ..., "recall": ...}.
    subsets: subset name -> the same metrics on that part of the data, e.g. {"ego": {"map50": 0.8}}.
    curves: name -> {"x": [...], "y": [...], "xlabel": str, "ylabel": str}, e.g. precision over recall; that of one
    class is called `name/class`.
    examples: a few results for the report: {"image": (H, W, 3) uint8 array, "boxes": (n, 4) xyxy pixels,
    "scores": (n,), "labels": (n,), "truth": (m, 4)} or whatever the task's own pictures need.
    classes: class name -> what can be said of it alone, e.g. {"screw": {"ap50": 0.7}}; {} where there is but one.
    """

    metrics: Mapping[str, float]
    subsets: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    curves: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    examples: tuple[Mapping[str, Any], ...] = ()
    classes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


class Task(Plugin):
    """Loss and metrics for one kind of network. Stateless: everything it needs comes as an argument."""

    headline: ClassVar[str] = "map50"
    """The metric, higher is better, by which checkpoints and networks are compared."""

    def loss(self, model: nn.Module, images: Tensor, targets: Any) -> Mapping[str, Tensor]:
        """One training step's scalar losses: {"loss": the sum to descend, other names: its parts, for the log}.

        images: (B, 3, H, W) float in [0, 1]. targets: what the dataset's `collate` made of the samples' targets.
        The model is called here, in the mode it is in.
        """
        raise NotImplementedError

    def detect(self, model: nn.Module, images: Tensor) -> list[dict[str, Tensor]]:
        """What the network finds, best first, one dict an image, on the CPU; for tasks that find boxes.

        images: (B, 3, H, W) float in [0, 1]. Each dict: "boxes" (n, 4) xyxy pixels inside the image, "scores" (n,) in
        [0, 1], "labels" (n,) int64. Raises CompressError where the task finds none.
        """
        raise CompressError(f"task {self.name} finds no boxes; `compress eval` measures what it does")

    def evaluate(
        self,
        model: nn.Module,
        batches: Iterable[tuple[Tensor, Any]],
        classes: tuple[str, ...],
        progress: Callable[[int], None] | None = None,
    ) -> Evaluation:
        """Metrics over the batches of a split, model in eval mode, no gradients.

        Each batch is (images, targets) on the model's device; `progress(n)` is told after each batch how many images
        it held.
        """
        raise NotImplementedError
