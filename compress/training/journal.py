"""What training says of itself in, metrics.jsonl and TensorBoard events out, both cut back to where a run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import replaced

NAME = "metrics.jsonl"


class Journal:
    """Writes one line of JSON a report. Opening it at `step` drops every line that speaks of a later step.

    The lines hold nothing that differs between two runs of one seed (no times), so whole files can be compared.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._cut(folder / NAME, step)
        self._lines = open(folder / NAME, "a", buffering=1, encoding="utf-8")  # noqa: SIM115
        self._events = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    @staticmethod
    def _cut(path: Path, step: int) -> None:
        if not path.exists():
            return
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("}\n")]  # a kill may leave half of the last line
        with replaced(path) as beside:
            beside.write_text("".join(line for line in whole if json.loads(line)["step"] <= step), encoding="utf-8")

    def write(self, kind: str, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Report numbers of one kind (`step`, `epoch`, `validation`) after `step` steps, in `epoch` (from 1)."""
        self._lines.write(json.dumps({"kind": kind, "step": step, "epoch": epoch, **values}) + "\n")
        for name, value in values.items():
            self._events.add_scalar(f"{kind}/{name}", value, step)

    def sync(self) -> None:
        """Put everything said so far on the disk: a checkpoint is about to rely on it."""
        self._lines.flush()
        os.fsync(self._lines.fileno())
        self._events.flush()

    def close(self) -> None:
        self.sync()
        self._lines.close()
        self._events.close()


def read(folder: Path) -> list[dict[str, Any]]:
    """The lines of a stage's metrics.jsonl, in order; empty where there is none."""
    path = folder / NAME
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
