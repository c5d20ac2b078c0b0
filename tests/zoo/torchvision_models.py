"""The name of a torchvision model in, the network with random weights and small example inputs out."""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from torch import nn

IMAGE = {"inception_v3": 96, "maxvit_t": 224, "vit_h_14": 70, "raft_large": 128, "raft_small": 128}
"""Height and width of the images, pixels; 64 where nothing is said. RAFT and MaxViT take no less."""

OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False},
    **{name: {"image_size": 64} for name in ("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32")},
    "vit_h_14": {"image_size": 70},
}

CLIPS = {"mvit_v1_b": (16, 224), "mvit_v2_s": (16, 224), "s3d": (16, 224)}
"""Frames, height and width of a clip; (8, 64) where nothing is said. These three take no other."""


def names() -> list[str]:
    """Every model that is not quantised."""
    return [name for name in torchvision.models.list_models() if not name.startswith("quantized_")]


def build(name: str) -> tuple[nn.Module, Any]:
    """The model in eval mode, and its example inputs."""
    builder = torchvision.models.get_model_builder(name)
    options = OPTIONS.get(name, {})
    detects = builder.__module__.startswith("torchvision.models.detection")
    if detects or builder.__module__.startswith("torchvision.models.segmentation"):
        options = {"weights_backbone": None}
    if detects and not name.startswith("ssd"):  # which have a size of their own
        options |= {"min_size": 128, "max_size": 192}
    return builder(weights=None, **options).eval(), _inputs(name, builder.__module__)


def _inputs(name: str, module: str) -> Any:
    generator = torch.Generator().manual_seed(0)
    if module.startswith("torchvision.models.detection"):
        return ([torch.rand(3, 96, 128, generator=generator)],)
    if module.startswith("torchvision.models.video"):
        frames, size = CLIPS.get(name, (8, 64))
        return torch.rand(1, 3, frames, size, size, generator=generator)
    size = IMAGE.get(name, 64)
    images = torch.rand(2, 1, 3, size, size, generator=generator)
    return tuple(images) if module.startswith("torchvision.models.optical_flow") else images[0]
