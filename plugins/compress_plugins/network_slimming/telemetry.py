"""Scales while they are trained in, gamma.jsonl, TensorBoard events and pictures out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
EVERY = 10
"""Steps between two records."""
CURVE = 101
"""Points of an epoch's distribution: the 0th to 100th percentile."""
NUMBERS = "gamma.jsonl"


class GammaTelemetry:
    """Keeps |gamma| of every scale that shrinks, in a folder, and draws it.

    gamma.jsonl holds a line every ten steps, {"step", "epoch", "quantiles": the five QUANTILES of all |gamma|, "first":
    |gamma| of each channel of the first scale, "strength": of the penalty}, and at an epoch's end one that has also
    "distribution": the 0th to 100th percentile, and "layers": {name: mean |gamma|}. TensorBoard events in the same
    folder: the quantiles as scalars, the first scale and, at an epoch's end, all scales as histograms.

    step: records of later steps are dropped, so that a run that was killed goes on as if it had not been.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / NUMBERS
        kept = [line for line in _lines(self._file) if line["step"] <= step]
        beside = self._file.with_suffix(".jsonl.part")
        beside.write_text("".join(f"{json.dumps(line)}\n" for line in kept))
        beside.replace(self._file)
        self._purge_step = step + 1
        self._events: SummaryWriter | None = None

    def record(
        self,
        step: int,
        epoch: int,
        ended: bool,
        watched: Callable[[], Mapping[str, Tensor]],
        strength: float | None = None,
    ) -> None:
        """Note the scales after `step`, every ten steps and at an epoch's end (ended).

        step, epoch: counted from 1. watched: gives name -> gamma (channels,); called only where a record is made.
        strength: of the penalty in this step, where it is known.
        """
        if step % EVERY and not ended:
            return
        scales = {name: gamma.detach().abs().float().cpu() for name, gamma in watched().items()}
        first, every = next(iter(scales.values())), torch.cat(list(scales.values()))
        line: dict[str, Any] = {
            "step": step,
            "epoch": epoch,
            "quantiles": _rounded(torch.quantile(every, torch.tensor(QUANTILES))),
            "first": _rounded(first),
        }
        if strength is not None:
            line["strength"] = strength
        if ended:
            line["distribution"] = _rounded(torch.quantile(every, torch.linspace(0, 1, CURVE)))
            line["layers"] = {name: round(float(gamma.mean()), 5) for name, gamma in scales.items()}
        with self._file.open("a") as file:
            file.write(f"{json.dumps(line)}\n")
        events = self._writer()
        if strength is not None:
            events.add_scalar("gamma/strength", strength, step)
        for quantile, value in zip(QUANTILES, line["quantiles"], strict=True):
            events.add_scalar(f"gamma/quantile {quantile:.2f}", value, step)
        events.add_histogram("gamma/first layer", first, step)
        if ended:
            events.add_histogram("gamma/all layers", every, step)

    def finish(self, folder: Path) -> list[Path]:
        """Close the events and draw the pictures into `folder` (made where missing); the files made."""
        from .pictures import draw  # matplotlib, which `compress.trace` should not wait for

        self.close()
        return draw(_lines(self._file), QUANTILES, folder)

    def close(self) -> None:
        """Write out what TensorBoard's writer still holds; a later record opens it again."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def _writer(self) -> SummaryWriter:
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self.folder), purge_step=self._purge_step)
        return self._events


def _lines(file: Path) -> list[dict[str, Any]]:
    """The records of a file, none where it does not exist; a line cut off by a kill is left out."""
    lines = []
    for text in file.read_text().splitlines() if file.exists() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def _rounded(values: Tensor) -> list[float]:
    return [round(v, 5) for v in values.tolist()]
