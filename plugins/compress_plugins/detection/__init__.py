"""Pictures with boxes in, samples and mAP out: the detection datasets, their transforms and their score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compress import Dataset, hookimpl

from .score import score_detections

__all__ = ["score_detections"]


@hookimpl
def compress_register_datasets() -> Sequence[type[Dataset]]:
    from .coco import Coco
    from .darknet_lists import DarknetLists
    from .drawn_hands import DrawnHands
    from .voc import Voc
    from .yolo_folders import YoloFolders

    return [Coco, DarknetLists, DrawnHands, Voc, YoloFolders]


@hookimpl
def compress_register_commands() -> Sequence[Any]:
    from .command import app

    return [app]
