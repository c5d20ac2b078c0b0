"""A plugin file for tests: a small network, pictures of stripes, and telling the stripes apart by direction."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress import Architecture, Data, Dataset, Evaluation, GroupPolicy, Task, hookimpl

SIZE = 16


class Net(nn.Module):
    """(B, 3, H, W) -> (B, classes): three convolutions with a shortcut, dropout, and a linear layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.outer = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(12, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.inner(self.stem(images))
        x = x + self.outer(x)
        return self.head(self.drop(x.mean((2, 3))))


class Calm(nn.Module):
    """A network whose norms and dropout stay in eval mode: what it does to an image depends on that image alone."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images)


class ToyNet(Architecture):
    """The tests' network."""

    name = "toy-net"
    task: ClassVar[str | None] = "toy-task"

    def build(self, classes: int, image_size: tuple[int, int]) -> nn.Module:
        return Net(classes)


class Stripes:
    """Stripes of one of four directions under noise.

    poison: an index whose picture is NaN. slow: seconds a sample. varied: batches have a size of their own.
    """

    def __init__(
        self, length: int, salt: int, poison: int | None = None, slow: float = 0.0, varied: bool = False
    ) -> None:
        self.length, self.salt, self.poison, self.slow, self.varied = length, salt, poison, slow, varied

    def __len__(self) -> int:
        return self.length

    def sample(self, index: int, rng: np.random.Generator | None) -> tuple[Tensor, Any]:
        own = np.random.default_rng([self.salt, index])
        kind = int(own.integers(4))
        y, x = np.mgrid[:SIZE, :SIZE]
        along = [x, y, x + y, x - y][kind] * own.uniform(0.8, 1.6) + own.uniform(0, 6)
        image = 0.5 + 0.3 * np.sin(along) + own.normal(0, 0.3, (3, SIZE, SIZE))
        if rng is not None:
            image = image * rng.uniform(0.8, 1.2)
        if self.slow:
            time.sleep(self.slow)
        pixels = torch.from_numpy((image.clip(0, 1) * 255).astype(np.uint8))  # (3, SIZE, SIZE)
        return pixels, {"kind": kind, "id": f"stripes-{index:03}", "subset": "even" if index % 2 == 0 else "odd"}

    def collate(self, samples: list[tuple[Tensor, Any]]) -> tuple[Tensor, Any]:
        targets = [target for _, target in samples]
        images = torch.stack([image for image, _ in samples]).float() / 255
        if self.poison is not None and any(t["id"] == f"stripes-{self.poison:03}" for t in targets):
            images = images * float("nan")
        return images, targets

    def vary(self, images: Tensor, targets: Any, rng: np.random.Generator) -> tuple[Tensor, Any]:
        side = 2 * int(rng.integers(SIZE // 4, SIZE // 2 + 1)) if self.varied else SIZE
        return images[..., :side, :side], targets


class ToyStripes(Dataset):
    """The tests' pictures. train, val: how many. poison, slow, varied: as Stripes has them."""

    name = "toy-stripes"
    train: int = 64
    val: int = 32
    poison: int | None = None
    slow: float = 0.0
    varied: bool = False

    def open(self) -> Data:
        classes = ("across", "down", "rising", "falling")
        train, val = Stripes(self.train, 1, self.poison, self.slow, self.varied), Stripes(self.val, 2)
        fingerprint = f"stripes-{self.train}-{self.val}"
        return Data("stripes", classes, train, val, (SIZE, SIZE), fingerprint, synthetic=True, subsets=("even", "odd"))


class ToyTask(Task):
    """The direction of the stripes."""

    name = "toy-task"
    headline: ClassVar[str] = "accuracy"

    def loss(self, model: nn.Module, images: Tensor, targets: Any) -> Mapping[str, Tensor]:
        kinds = torch.tensor([target["kind"] for target in targets], device=images.device)
        loss = functional.cross_entropy(model(images), kinds)
        return {"loss": loss, "entropy": loss.detach()}

    @torch.no_grad()
    def evaluate(
        self,
        model: nn.Module,
        batches: Iterable[tuple[Tensor, Any]],
        classes: tuple[str, ...],
        progress: Callable[[int], None] | None = None,
    ) -> Evaluation:
        model.eval()
        right: dict[str, list[bool]] = {}
        for images, targets in batches:
            found = model(images).argmax(1).tolist()
            for kind, target in zip(found, targets, strict=True):
                right.setdefault(target["subset"], []).append(kind == target["kind"])
            if progress:
                progress(len(targets))
        everything = [r for part in right.values() for r in part]
        curve = {"x": [0.0, 1.0], "y": [1.0, float(np.mean(everything))], "xlabel": "share", "ylabel": "accuracy"}
        return Evaluation(
            {"accuracy": float(np.mean(everything))},
            {name: {"accuracy": float(np.mean(part))} for name, part in right.items()},
            {"curve": curve},
        )


class ToyPolicy(GroupPolicy):
    """Keeps the groups whose names start with a text. keep: that text."""

    name = "toy-policy"
    keep: str = "stem"

    def freeze(self, graph: Any, model: nn.Module) -> Mapping[str, str]:
        return {g.name: f"the policy keeps {self.keep}" for g in graph.groups if g.name.startswith(self.keep)}


@hookimpl
def compress_register_models() -> list[type[Architecture]]:
    return [ToyNet]


@hookimpl
def compress_register_datasets() -> list[type[Dataset]]:
    return [ToyStripes]


@hookimpl
def compress_register_tasks() -> list[type[Task]]:
    return [ToyTask]


@hookimpl
def compress_register_group_policies() -> list[type[GroupPolicy]]:
    return [ToyPolicy]
