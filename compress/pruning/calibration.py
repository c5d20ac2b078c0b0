"""Batches and a loss in, a network run on them - counted, with its progress shown - out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import CompressError
from ..graph.inputs import call_model, collect_tensors


class Bars(Protocol):
    """What shows how far long work has come: `with bars.bar(label, total) as advance: advance(1)`."""

    def bar(self, label: str, total: int) -> AbstractContextManager[Callable[[int], None]]: ...


@dataclass(frozen=True)
class Calibration:
    """The data that a criterion or a compensation looks at.

    batches: whatever `loss` takes; without a loss, the network's inputs (a tuple: positional; a dict: keywords). A list
    can be gone through again, a generator once. loss: (model, batch) -> scalar. bars: where progress is shown, if
    anywhere. seen: samples of each batch that the last pass took.
    """

    batches: Iterable[Any]
    loss: Callable[[nn.Module, Any], Tensor] | None = None
    bars: Bars | None = None
    seen: list[int] = field(default_factory=list)

    def passes(self, label: str) -> Iterator[Any]:
        """The batches, one after the other. Raises CompressError where there is none."""
        total = len(self.batches) if isinstance(self.batches, Sized) else 0
        self.seen.clear()
        bar: AbstractContextManager[Callable[[int], None]] = nullcontext(_ignore)
        with bar if self.bars is None else self.bars.bar(label, total) as advance:
            for batch in self.batches:
                yield batch
                self.seen.append(_samples(batch))
                advance(1)
        if not self.seen:
            raise CompressError("calibration holds no batches")

    def forward(self, model: nn.Module, batch: Any) -> None:
        """Run the model on a batch without gradients, the way the loss does where there is one."""
        with torch.no_grad():
            call_model(model, batch) if self.loss is None else self.loss(model, batch)

    def loss_of(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss of a batch, with gradients. Raises CompressError where it is not one finite number."""
        if self.loss is None:
            raise CompressError("calibration has no loss; pass loss=function(model, batch)")
        with torch.enable_grad():
            value = self.loss(model, batch)
        if value.numel() != 1 or not torch.isfinite(value).all():
            where = f"loss of calibration batch {len(self.seen) + 1}"
            raise CompressError(f"{where}: expected one finite number, found {value}")
        return value.sum()

    @property
    def used(self) -> dict[str, int]:
        """How many batches and samples the last pass took."""
        return {"batches": len(self.seen), "samples": sum(self.seen)}


def gradients(model: nn.Module, calibration: Calibration) -> dict[str, Tensor]:
    """The loss's gradient for each parameter that it reaches, mean over the batches, at the weights of the model."""
    sums: dict[str, Tensor] = {}
    for batch in calibration.passes("gradients"):
        for name, gradient in batch_gradients(model, calibration, batch).items():
            sums[name] = sums[name] + gradient if name in sums else gradient
    return {name: total / len(calibration.seen) for name, total in sums.items()}


def batch_gradients(model: nn.Module, calibration: Calibration, batch: Any, again: bool = False) -> dict[str, Tensor]:
    """One batch's gradient for each parameter that the loss reaches. again: they can be differentiated once more."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    value = calibration.loss_of(model, batch)
    found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True, create_graph=again)
    return {name: g for name, g in zip(parameters, found, strict=True) if g is not None}


def _samples(batch: Any) -> int:
    """Length of the first tensor that has one; of a batch without tensors: 1."""
    return next((len(tensor) for tensor in collect_tensors(batch) if tensor.dim()), 1)


def _ignore(n: int) -> None:
    """Where progress goes that nobody watches."""
