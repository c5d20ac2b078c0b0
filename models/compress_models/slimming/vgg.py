"""A depth and a width in, a VGG for small images out."""

from __future__ import annotations

from torch import Tensor, nn

CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Depth -> 3 x 3 convolutions in each of the five stages (Simonyan, Zisserman, ICLR 2015, table 1)."""
CHANNELS = (64, 128, 256, 512, 512)


class Vgg(nn.Module):
    """(B, 3, H, W) -> (B, classes): stages of convolution, BatchNorm and ReLU with max-pooling between them.

    side: the images' shorter side in pixels; there is no pooling below 2 pixels. The linear layer takes the mean over
    what is left of the image, as network slimming has it (Liu et al., ICCV 2017, section 4.1).
    """

    def __init__(self, depth: int, width: float, classes: int, side: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for stage, (count, channels) in enumerate(zip(CONVOLUTIONS[depth], CHANNELS, strict=True)):
            if stage and side >= 4:
                layers.append(nn.MaxPool2d(2))
                side //= 2
            outputs = max(1, round(width * channels))
            for _ in range(count):
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
                inputs = outputs
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).mean((2, 3)))  # (B, C, h, w) -> (B, C) -> (B, classes)
