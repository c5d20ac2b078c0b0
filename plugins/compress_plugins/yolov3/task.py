"""A YOLOv3 network and a batch in, its loss out; a network and a split in, its mAP out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.ops import batched_nms, clip_boxes_to_image

from compress import CompressError, Evaluation, Task

from ..detection import score_detections
from .assignment import assign, gather
from .loss import losses
from .predictions import Predictions, decode

EXAMPLES = 6
CANDIDATES = 1000
"""Boxes of an image that enter non-maximum suppression, the best ones."""

Share = Annotated[float, Field(ge=0, le=1)]


class YOLOv3(Task):
    """Detection with YOLOv3 heads: CIoU, objectness and class losses; mAP after batched non-maximum suppression.

    Works on any network whose forward gives one raw map a head and whose `heads` describe them (`anchors`, `classes`,
    `ignore_thresh`, `scale_x_y`, `new_coords`). Targets: a dict an image, {"boxes": (n, 4) xyxy pixels,
    "labels": (n,)}.

    extra_iou: a truth also trains every anchor whose shape overlaps its own by more than this; 1 leaves only the best
        anchor, as published. The network learns from scratch in far fewer steps with more.
    box_gain: weight of the box loss beside objectness and class.
    score_floor: boxes scored below do not count in evaluation.
    nms_iou: of two boxes of a class that overlap by more, the lower scored goes.
    max_boxes: boxes kept an image, as COCO counts.
    """

    name = "yolov3"

    extra_iou: Share = 0.3
    box_gain: Annotated[float, Field(ge=0)] = 5.0
    score_floor: Share = 0.005
    nms_iou: Share = 0.5
    max_boxes: Annotated[int, Field(ge=1)] = 100

    def loss(self, model: nn.Module, images: Tensor, targets: Any) -> Mapping[str, Tensor]:
        """{"loss", "box", "objectness", "class"}: scalars; loss = box_gain * box + objectness + class."""
        found = _predict(model, images)
        truths = gather(targets, images.device)
        parts = losses(found, truths, assign(truths, found.slots, self.extra_iou))
        return {"loss": self.box_gain * parts["box"] + parts["objectness"] + parts["class"], **parts}

    @torch.no_grad()
    def evaluate(
        self,
        model: nn.Module,
        batches: Iterable[tuple[Tensor, Any]],
        classes: tuple[str, ...],
        progress: Callable[[int], None] | None = None,
    ) -> Evaluation:
        """mAP and its like over the batches, by subset where targets name one, AP@0.5 by class where there are several.

        Six images spread evenly are the examples.
        """
        detections: list[dict[str, Tensor]] = []
        truths: list[dict[str, Any]] = []
        kept: list[tuple[int, Tensor]] = []
        every = 1
        training = model.training
        model.eval()
        try:
            for images, targets in batches:
                for i, image in enumerate(images):
                    if (len(truths) + i) % every == 0:
                        kept.append((len(truths) + i, (image * 255).round().byte().permute(1, 2, 0).cpu()))
                    if len(kept) == 2 * EXAMPLES:  # thinned as it grows: the number of images is not known beforehand
                        kept, every = kept[::2], 2 * every
                detections += self.detect(model, images)
                truths += [{k: v.cpu() if isinstance(v, Tensor) else v for k, v in t.items()} for t in targets]
                if progress is not None:
                    progress(len(images))
        finally:
            model.train(training)
        if not truths:
            raise CompressError("nothing to evaluate: the split has no images; check the dataset's val folder")
        subsets = tuple(sorted({t["subset"] for t in truths if t.get("subset")}))
        metrics, by_subset, curves = score_detections(detections, truths, classes, subsets)
        shown = [kept[i * len(kept) // EXAMPLES] for i in range(EXAMPLES)] if len(kept) > EXAMPLES else kept
        examples = tuple(_example(image, detections[i], truths[i]) for i, image in shown)
        of_one = {name.partition("/")[2]: curve["y"] for name, curve in curves.items() if "/" in name}
        by_class = {name: {"ap50": sum(precision) / len(precision)} for name, precision in of_one.items()}
        return Evaluation(metrics=metrics, subsets=by_subset, classes=by_class, curves=curves, examples=examples)

    @torch.no_grad()
    def detect(self, model: nn.Module, images: Tensor) -> list[dict[str, Tensor]]:
        """What the network finds, best first, one dict an image, on the CPU.

        images: (B, 3, H, W) float in [0, 1]. Each dict: "boxes" (n, 4) xyxy pixels inside the image, "scores" (n,),
        objectness times class probability, "labels" (n,).
        """
        found = _predict(model, images)
        scores = found.objectness.sigmoid()[..., None] * found.classes.sigmoid()  # (B, N, C)
        best, place = scores.flatten(1).topk(min(CANDIDATES, scores[0].numel()))  # (B, n)
        image, column = (best > self.score_floor).nonzero(as_tuple=True)
        label = place[image, column] % scores.shape[2]
        score = best[image, column]
        boxes = found.boxes[image, place[image, column] // scores.shape[2]]
        boxes = clip_boxes_to_image(boxes, (images.shape[2], images.shape[3]))
        kept = batched_nms(boxes, score, image * scores.shape[2] + label, self.nms_iou)  # best first
        image, boxes, score, label = (v[kept].cpu() for v in (image, boxes, score, label))
        return [
            {"boxes": boxes[mine], "scores": score[mine], "labels": label[mine]}
            for mine in ((image == i).nonzero().flatten()[: self.max_boxes] for i in range(len(images)))
        ]


def _predict(model: nn.Module, images: Tensor) -> Predictions:
    heads = getattr(model, "heads", None)
    if heads is None:
        raise CompressError(
            f"task yolov3 needs a network with YOLO heads, and {type(model).__name__} has no `heads`; "
            "use model darknet with a cfg that has [yolo] sections"
        )
    maps: Sequence[Tensor] = model(images)
    return decode(maps, heads, (images.shape[2], images.shape[3]))


def _example(image: Tensor, found: Mapping[str, Tensor], truth: Mapping[str, Any]) -> dict[str, Any]:
    sure = found["scores"] > 0.25
    return {
        "image": image.numpy(),
        **{key: found[key][sure].numpy() for key in ("boxes", "scores", "labels")},
        "truth": truth["boxes"].numpy(),
    }
