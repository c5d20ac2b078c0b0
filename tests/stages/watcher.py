"""A plugin file for tests: an observer that keeps what it was told, a criterion with gradients, an exporter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from compress import CompressError, Criterion, Exporter, Part, hookimpl

SEEN: list[tuple[Any, ...]] = []


class Salience(Criterion):
    """|weight * gradient|, the first-order change of the loss."""

    name = "salience"
    needs_gradients: ClassVar[bool] = True

    def score(self, part: Part) -> Tensor | None:
        if part.grad is None:
            return None
        return (part.tensor * part.grad).abs().movedim(part.dim, 0).flatten(1).sum(1)


class Names(Exporter):
    """The names of the parameters; refuses networks with fewer than `least`."""

    name = "names"
    least: int = 0

    def export(self, model: nn.Module, example: Tensor, folder: Path) -> Mapping[str, Any]:
        names = [name for name, _ in model.named_parameters()]
        (folder / "names.txt").write_text("\n".join(names))
        if len(names) < self.least:
            raise CompressError(f"names: {len(names)} parameters, expected {self.least}")
        return {"files": ["names.txt"], "max_abs": 0.0}


@hookimpl
def compress_register_criteria() -> list[type[Criterion]]:
    return [Salience]


@hookimpl
def compress_register_exporters() -> list[type[Exporter]]:
    return [Names]


@hookimpl
def compress_stage_started(run: Path, stage: str) -> None:
    SEEN.append(("started", stage))


@hookimpl
def compress_epoch_finished(run: Path, stage: str, epoch: int, metrics: dict[str, float]) -> None:
    SEEN.append(("epoch", stage, epoch, "loss" in metrics))


@hookimpl
def compress_stage_finished(run: Path, stage: str) -> None:
    SEEN.append(("finished", stage, (run / stage / "stage.json").exists()))


@hookimpl
def compress_run_finished(run: Path, report: dict[str, Any]) -> None:
    SEEN.append(("run", [row["role"] for row in report.get("rows", [])]))
