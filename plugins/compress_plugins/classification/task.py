"""A network and a batch in, cross-entropy out; a network and a split in, its accuracy out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from compress import CompressError, Evaluation, Task

EXAMPLES = 6


class Classify(Task):
    """One class an image: cross-entropy, and the share of images whose class is found.

    Metrics: `accuracy`; `accuracy5`, the class is among the five that score highest, where there are more than five;
    `recall`, the mean over classes of the share of their images that are found, which counts a rare class like any.
    Targets: a dict an image, {"label": int}, or a tensor (B,) of class numbers. Works on any network (B, 3, H, W) ->
    (B, classes).

    smoothing: label smoothing (Szegedy et al., CVPR 2016, section 7).
    """

    name = "classify"
    headline: ClassVar[str] = "accuracy"

    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def loss(self, model: nn.Module, images: Tensor, targets: Any) -> Mapping[str, Tensor]:
        scores = _scores(model, images)
        return {"loss": cross_entropy(scores, _labels(targets, scores.device), label_smoothing=self.smoothing)}

    @torch.no_grad()
    def evaluate(
        self,
        model: nn.Module,
        batches: Iterable[tuple[Tensor, Any]],
        classes: tuple[str, ...],
        progress: Callable[[int], None] | None = None,
    ) -> Evaluation:
        ranks: list[Tensor] = []
        truths: list[Tensor] = []
        kept: list[dict[str, Any]] = []
        seen, every = 0, 1
        training = model.training
        model.eval()
        try:
            for images, targets in batches:
                scores = _scores(model, images)
                labels = _labels(targets, scores.device)
                own = scores.gather(1, labels[:, None])
                ranks.append((scores > own).sum(1).cpu())  # (B,) how many classes score higher than the true one
                truths.append(labels.cpu())
                for image, chances in zip(images, scores.softmax(1), strict=True):
                    if seen % every == 0:
                        kept.append(_example(image, chances))
                    if len(kept) == 2 * EXAMPLES:  # thinned as it grows: the number of images is not known beforehand
                        kept, every = kept[::2], 2 * every
                    seen += 1
                if progress is not None:
                    progress(len(images))
        finally:
            model.train(training)
        if not ranks:
            raise CompressError("nothing to evaluate: the split has no images; check the dataset")
        metrics = _metrics(torch.cat(ranks), torch.cat(truths), len(classes))
        return Evaluation(metrics=metrics, examples=tuple(kept[:EXAMPLES]))


def _metrics(ranks: Tensor, truths: Tensor, classes: int) -> dict[str, float]:
    """ranks: (n,) classes that score higher than the true one. truths: (n,) the true ones."""
    found = (ranks == 0).double()
    counts = torch.bincount(truths, minlength=classes)
    recalls = torch.bincount(truths, found, minlength=classes) / counts.clamp_min(1)
    metrics = {"accuracy": found.mean().item(), "recall": recalls[counts > 0].mean().item()}
    if classes > 5:
        metrics["accuracy5"] = (ranks < 5).double().mean().item()
    return metrics


def _scores(model: nn.Module, images: Tensor) -> Tensor:
    scores = model(images)
    if not isinstance(scores, Tensor) or scores.ndim != 2:
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise CompressError(f"task classify needs a network that gives scores (images, classes), and it gave {found}")
    return scores


def _example(image: Tensor, chances: Tensor) -> dict[str, Any]:
    """For the report: the image (3, H, W), and a frame around it with the likeliest class of chances (classes,)."""
    best = chances.max(0)
    return {
        "image": (image * 255).round().byte().permute(1, 2, 0).cpu().numpy(),  # (H, W, 3)
        "boxes": [[0, 0, image.shape[2], image.shape[1]]],
        "scores": [best.values.item()],
        "labels": [best.indices.item()],
    }


def _labels(targets: Any, device: torch.device) -> Tensor:
    """(B,) int64 class numbers."""
    if isinstance(targets, Tensor):
        return targets
    return torch.tensor([target["label"] for target in targets], device=device)
