"""The name of a network description that ships with Ultralytics in, the network with random weights out."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import torch
from torch import nn

with contextlib.redirect_stdout(io.StringIO()):  # the first import announces where it keeps its settings
    from ultralytics.nn.tasks import DetectionModel

NAMES = (
    "yolov3-tiny",
    "yolov3",
    "yolov5n",
    "yolov8n",
    "yolov9t",
    "yolov9c",
    "yolov10n",
    "yolov10m",
    "yolo11n",
    "yolo11m",
)


def names() -> list[str]:
    """The smallest of each generation, and a larger one where it has other blocks."""
    return list(NAMES)


def build(name: str) -> tuple[nn.Module, Any]:
    """The detector in eval mode, built from its YAML without weights, and its example input."""
    model = DetectionModel(f"{name}.yaml", verbose=False).eval()
    return model, torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
