"""Networks to try plugins on, and the checks of what builds and what writes networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..graph.trace import trace
from ..stages.exporter import Exporter
from ..training.architecture import Architecture
from .options import check_plugin, expect

CLOSE = 1e-3
"""Largest difference that an exporter may report, as a fraction of the largest output."""


class SmallNetwork(nn.Module):
    """(B, 3, H, W) -> (B, 5): two branches that are concatenated, a shortcut, BatchNorm everywhere, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _block(3, 12)
        self.left, self.right = _block(12, 8), _block(12, 10)
        self.inner = nn.Sequential(_block(18, 14), _block(14, 18))
        self.head = nn.Linear(18, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)  # (B, 3, H, W) -> (B, 12, H, W)
        x = torch.cat((self.left(x), self.right(x)), dim=1)  # -> (B, 18, H, W)
        return self.head((x + self.inner(x)).mean((2, 3)))  # -> (B, 18) -> (B, 5)


def small_network(seed: int = 0) -> tuple[nn.Module, Tensor]:
    """A network in eval mode with weights and norm statistics from the seed, and an input for it, (2, 3, 12, 12)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SmallNetwork().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.data.uniform_(0.2, 1.5)
                module.bias.data.normal_(0, 0.3)
                module.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        return model, torch.rand(2, 3, 12, 12)


def unchanged(model: nn.Module) -> Callable[[], bool]:
    """A function that says whether the model's parameters and buffers are what they are now, bit for bit."""
    before = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def same() -> bool:
        now = model.state_dict()
        return now.keys() == before.keys() and all(torch.equal(now[name], tensor) for name, tensor in before.items())

    return same


def check_architecture(architecture: Architecture, classes: int, image_size: tuple[int, int]) -> None:
    """The same seed builds the same network; it runs in both modes, learns, and can be traced.

    image_size: (height, width) in pixels.
    """
    check_plugin(architecture)
    kind = type(architecture).__name__
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = architecture.build(classes, image_size)
        torch.manual_seed(0)
        again = architecture.build(classes, image_size)
    expect(_equal(model, again), f"{kind}.build gives different networks for one seed")
    images = torch.rand(2, 3, *image_size)
    outputs = [out for out in _tensors(model.train()(images)) if out.requires_grad]
    expect(bool(outputs), f"{kind}: no output of the network, in training mode, has a gradient")
    torch.stack([out.float().square().mean() for out in outputs]).sum().backward()
    idle = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    expect(not idle, f"{kind}: no gradient reaches {', '.join(idle[:3])}")
    graph = trace(model.eval(), images[:1])
    expect(any(group.frozen is None for group in graph.groups), f"{kind}: no group of the network may be cut")


def check_exporter(exporter: Exporter, model: nn.Module, example: Tensor, folder: Path) -> None:
    """The files that it names are there, their outputs are within 1e-3 of the largest one, the model is as it was.

    example: (B, 3, H, W). folder: empty.
    """
    check_plugin(exporter)
    kind, same = type(exporter).__name__, unchanged(model)
    written = exporter.export(model.eval(), example, folder)
    expect({"files", "max_abs"} <= set(written), f"{kind}.export returned {dict(written)}; expected files and max_abs")
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    named = set(written["files"])
    expect(named == there, f"{kind}.export names {sorted(named)}, and {sorted(there)} are there")
    expect(bool(named), f"{kind}.export wrote nothing")
    with torch.no_grad():
        largest = max(float(out.abs().max()) for out in _tensors(model(example)))
    difference = f"{written['max_abs']:.3g} where the largest output is {largest:.3g}"
    expect(0 <= written["max_abs"] <= CLOSE * largest, f"{kind}.export: outputs read back differ by {difference}")
    expect(same(), f"{kind}.export changed the model")


def _block(ins: int, outs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(ins, outs, 3, padding=1, bias=False), nn.BatchNorm2d(outs), nn.ReLU())


def _equal(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _tensors(output: object) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output if isinstance(output, list | tuple) else ()
    return [tensor for value in values for tensor in _tensors(value)]
