"""A network in, model.pt2 - a graph of ATen operators that needs none of its Python - out."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress import CompressError, Exporter, hookimpl

from .comparing import check_still, largest_difference, other_batches, outputs, silence

FILE = "model.pt2"


class TorchExporter(Exporter):
    """torch.export's program, for AOTInductor, ExecuTorch and whatever loads a .pt2; the batch size stays free."""

    name = "torch-export"

    def export(self, model: nn.Module, example: Tensor, folder: Path) -> Mapping[str, Any]:
        """Write model.pt2, load it again, compare with the network, then move it into `folder`.

        Compared are the example and, where the batch is free, a batch of one and one of three random images: equal
        means within 1e-4 of each output's largest value. Returns besides: "dynamic_batch", whether the batch is free.
        """
        check_still(model, self.name)
        still = copy.deepcopy(model).cpu().eval().requires_grad_(False)
        example = example.detach().cpu().to(next(still.parameters(), example).dtype)
        folder.mkdir(parents=True, exist_ok=True)
        with torch.no_grad(), tempfile.TemporaryDirectory(prefix=".pt2-", dir=folder) as beside:
            others = other_batches(still, example)
            file = Path(beside, FILE)
            with silence():
                torch.export.save(_program(still, example, bool(others)), file)
                read = torch.export.load(file).module()
            largest = largest_difference(
                still, [example, *others], lambda images: outputs(read, images), self.name, "torch.export"
            )
            os.replace(file, folder / FILE)
        return {"files": [FILE], "max_abs": largest, "dynamic_batch": bool(others)}


def _program(model: nn.Module, example: Tensor, free: bool) -> torch.export.ExportedProgram:
    """The network as torch.export has it. Raises CompressError where that cannot say it."""
    if free and len(example) == 1:
        example = torch.cat([example, example])  # torch.export takes a 1 for a constant
    shapes = ({0: torch.export.Dim("batch")},) if free else None
    try:
        return torch.export.export(model, (example,), dynamic_shapes=shapes)
    except (RuntimeError, ValueError, TypeError) as error:  # what torch.export and dynamo raise is one of these
        reason = next(iter(str(error).strip().splitlines()), "")
        raise CompressError(
            f"export torch-export: {type(model).__name__} cannot be exported ({type(error).__name__}: {reason})"
        ) from error


@hookimpl
def compress_register_exporters() -> Sequence[type[Exporter]]:
    """The `torch-export` exporter."""
    return [TorchExporter]
