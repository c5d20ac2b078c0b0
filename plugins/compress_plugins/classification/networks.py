"""A name that torchvision or timm knows in, an untrained network for a number of classes out."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from compress import Architecture, CompressError, nearest


class Torchvision(Architecture):
    """torchvision's classification networks by name, untrained: torchvision/resnet18."""

    name = "torchvision/"
    task: ClassVar[str | None] = "classify"

    def __post_init__(self) -> None:
        """Raises CompressError where torchvision knows no such network."""
        from torchvision import models

        called = self.name.partition("/")[2]
        known = models.list_models(module=models)
        if called not in known:
            raise CompressError(f"torchvision has no classification network '{called}'{nearest(called, known)}")

    def build(self, classes: int, image_size: tuple[int, int]) -> nn.Module:
        from torchvision import models

        called = self.name.partition("/")[2]
        options: dict[str, Any] = {"num_classes": classes}
        if called.startswith("vit_"):
            options["image_size"] = image_size[0]
        if called in ("googlenet", "inception_v3"):  # one output, in training too
            options |= {"aux_logits": False, "init_weights": True}
        return models.get_model(called, weights=None, **options)


class Timm(Architecture):
    """timm's networks by name, untrained: timm/resnet18. Needs `pip install timm`."""

    name = "timm/"
    task: ClassVar[str | None] = "classify"

    def __post_init__(self) -> None:
        """Raises CompressError where timm is missing or knows no such network."""
        called, timm = self.name.partition("/")[2], _timm()
        if not timm.is_model(called):
            raise CompressError(f"timm has no network '{called}'{nearest(called, timm.list_models())}")

    def build(self, classes: int, image_size: tuple[int, int]) -> nn.Module:
        called, timm = self.name.partition("/")[2], _timm()
        settings = timm.get_pretrained_cfg(called)
        fixed = {"img_size": image_size} if settings is not None and settings.fixed_input_size else {}
        return timm.create_model(called, pretrained=False, num_classes=classes, **fixed)


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise CompressError("timm is not installed: pip install timm, or take a network torchvision/NAME") from None
    return timm
