"""A number of layers and a growth rate in, a DenseNet for small images out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FIRST = 16
"""Channels that the first convolution makes (Huang et al., CVPR 2017, section 3, for networks without bottlenecks)."""


class Layer(nn.Module):
    """(B, inputs, H, W) -> (B, inputs + growth, H, W): what came in, and what a 3 x 3 convolution makes of it."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.conv(self.norm(x).relu())), dim=1)


class Transition(nn.Module):
    """(B, channels, H, W) -> (B, channels, H / 2, W / 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(channels), nn.Conv2d(channels, channels, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(self.norm(x).relu()))


class DenseNet(nn.Module):
    """(B, 3, H, W) -> (B, classes): three blocks of `layers` layers with transitions between them.

    Source: Huang et al. (CVPR 2017), section 3; network slimming's DenseNet-40 has 12 layers a block and growth 12.
    """

    def __init__(self, layers: int, growth: int, classes: int) -> None:
        super().__init__()
        channels = FIRST
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        parts: list[nn.Module] = []
        for block in range(3):
            if block:
                parts.append(Transition(channels))
            for _ in range(layers):
                parts.append(Layer(channels, growth))
                channels += growth
        self.features = nn.Sequential(*parts)
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.features(self.stem(images))).relu()
        return self.classifier(x.mean((2, 3)))  # (B, C, h, w) -> (B, C) -> (B, classes)
