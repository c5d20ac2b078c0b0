"""A number of blocks and a width in, a pre-activation ResNet for small images out."""

from __future__ import annotations

from torch import Tensor, nn

INNER = (16, 32, 64)
"""Channels inside the bottlenecks of each stage; outside there are four times as many."""


class Bottleneck(nn.Module):
    """(B, inputs, H, W) -> (B, 4 inner, H / stride, W / stride): x + f(x), BatchNorm and ReLU before each layer."""

    def __init__(self, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * inner
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, inner, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(inner), nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.norm3, self.conv3 = nn.BatchNorm2d(inner), nn.Conv2d(inner, outputs, 1, bias=False)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.norm1(x).relu())
        y = self.conv2(self.norm2(y).relu())
        return self.shortcut(x) + self.conv3(self.norm3(y).relu())


class PreResNet(nn.Module):
    """(B, 3, H, W) -> (B, classes): three stages of `blocks` bottlenecks, the second and third at half the size each.

    Source: He et al., Identity Mappings in Deep Residual Networks (ECCV 2016); ResNet-164 has 18 blocks a stage.
    """

    def __init__(self, blocks: int, width: float, classes: int) -> None:
        super().__init__()
        inner = [max(1, round(width * channels)) for channels in INNER]
        self.stem = nn.Conv2d(3, inner[0], 3, padding=1, bias=False)
        layers: list[nn.Module] = []
        inputs = inner[0]
        for stage, channels in enumerate(inner):
            for block in range(blocks):
                layers.append(Bottleneck(inputs, channels, 2 if stage and not block else 1))
                inputs = 4 * channels
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(inputs)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.stem(images))).relu()
        return self.classifier(x.mean((2, 3)))  # (B, C, h, w) -> (B, C) -> (B, classes)
