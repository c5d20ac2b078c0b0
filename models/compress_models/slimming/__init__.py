"""The networks of network slimming's experiments on small images: VGG, pre-activation ResNet, DenseNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import nn

from compress import Architecture, CompressError, hookimpl

from .densenet import DenseNet
from .preresnet import PreResNet
from .vgg import Vgg

__all__ = ["DenseNet", "DenseNetCifar", "PreResNet", "PreResNetCifar", "Vgg", "VggCifar", "compress_register_models"]

GAMMA = 0.5
"""What every BatchNorm's scale begins with (Liu et al., ICCV 2017, section 4.2)."""

Width = Annotated[float, Field(gt=0)]


class VggCifar(Architecture):
    """VGG with BatchNorm and one linear layer, for small images (network slimming's VGGNet).

    It halves the image at most four times and not below 2 x 2 pixels.
    depth: layers, as the VGG paper counts them. width: multiplies every layer's channels.
    """

    name = "vgg-cifar"
    task: ClassVar[str | None] = "classify"
    depth: Literal[11, 13, 16, 19] = 19
    width: Width = 1.0

    def build(self, classes: int, image_size: tuple[int, int]) -> nn.Module:
        return initialised(Vgg(self.depth, self.width, classes, min(image_size)))


class PreResNetCifar(Architecture):
    """Pre-activation ResNet with bottlenecks, for small images (network slimming's ResNet-164).

    depth: layers, 9 n + 2 for n blocks in each of the three stages. width: multiplies every layer's channels.
    """

    name = "preresnet-cifar"
    task: ClassVar[str | None] = "classify"
    depth: Annotated[int, Field(ge=11)] = 164
    width: Width = 1.0

    def __post_init__(self) -> None:
        """Raises CompressError where no number of blocks gives the depth."""
        if (self.depth - 2) % 9:
            raise CompressError(f"depth: {self.depth} is not 9 n + 2; try {9 * round((self.depth - 2) / 9) + 2}")

    def build(self, classes: int, image_size: tuple[int, int]) -> nn.Module:
        return initialised(PreResNet((self.depth - 2) // 9, self.width, classes))


class DenseNetCifar(Architecture):
    """DenseNet without bottlenecks or compression, for small images (network slimming's DenseNet-40).

    depth: layers, 3 n + 4 for n layers in each of the three blocks. growth: channels that each layer adds.
    """

    name = "densenet-cifar"
    task: ClassVar[str | None] = "classify"
    depth: Annotated[int, Field(ge=7)] = 40
    growth: Annotated[int, Field(ge=1)] = 12

    def __post_init__(self) -> None:
        """Raises CompressError where no number of layers gives the depth."""
        if (self.depth - 4) % 3:
            raise CompressError(f"depth: {self.depth} is not 3 n + 4; try {3 * round((self.depth - 4) / 3) + 4}")

    def build(self, classes: int, image_size: tuple[int, int]) -> nn.Module:
        return initialised(DenseNet((self.depth - 4) // 3, self.growth, classes))


def initialised(model: nn.Module) -> nn.Module:
    """The network with first weights as published: convolutions as He et al. (2015, equation 10), gamma at 0.5."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, GAMMA)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
    return model


@hookimpl
def compress_register_models() -> Sequence[type[Architecture]]:
    """vgg-cifar, preresnet-cifar, densenet-cifar."""
    return [VggCifar, PreResNetCifar, DenseNetCifar]
