"""A network in, model.onnx that computes the same in ONNX Runtime out."""

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

FILE = "model.onnx"


class OnnxExporter(Exporter):
    """ONNX, for ONNX Runtime, TensorRT, OpenVINO and the rest; the batch size stays free where the network lets it."""

    name = "onnx"

    def export(self, model: nn.Module, example: Tensor, folder: Path) -> Mapping[str, Any]:
        """Write model.onnx, run it in ONNX Runtime, compare with PyTorch, then move it into `folder`.

        Input `images`, outputs `output0`, `output1`, ... in the order in which the network returns them. Compared are
        the example and, where the batch is free, a batch of one and one of three random images: equal means within
        1e-4 of each output's largest value. Weights above 2 GB stand in a second file, as the format demands.
        Returns besides: "dynamic_batch", whether the batch size is free.
        """
        check_still(model, self.name)
        still = copy.deepcopy(model).cpu().eval().requires_grad_(False)
        example = example.detach().cpu().to(next(still.parameters(), example).dtype)
        folder.mkdir(parents=True, exist_ok=True)
        with torch.no_grad(), tempfile.TemporaryDirectory(prefix=".onnx-", dir=folder) as beside:
            others = other_batches(still, example)
            _translate(still, example, bool(others), Path(beside, FILE))
            largest = _compare(still, [example, *others], Path(beside, FILE))
            files = sorted(os.listdir(beside))
            for name in files:
                os.replace(Path(beside, name), folder / name)
        return {"files": files, "max_abs": largest, "dynamic_batch": bool(others)}


def _translate(model: nn.Module, example: Tensor, free: bool, path: Path) -> None:
    """Write the ONNX file. Raises CompressError where torch.onnx cannot say the network in ONNX."""
    if free and len(example) == 1:
        example = torch.cat([example, example])  # torch.export takes a 1 for a constant
    names = [f"output{n}" for n in range(len(outputs(model, example)))]
    shapes = ({0: torch.export.Dim("batch")},) if free else None
    try:
        with silence():
            program = torch.onnx.export(
                model, (example,), input_names=["images"], output_names=names, dynamic_shapes=shapes, verbose=False
            )
    except torch.onnx.OnnxExporterError as error:
        cause = error.__cause__ or error
        reason = next(iter(str(cause).strip().splitlines()), "")
        raise CompressError(
            f"export onnx: {type(model).__name__} cannot be written as ONNX ({type(cause).__name__}: {reason})"
        ) from error
    assert program is not None  # it is None for the exporter before torch.export only
    program.save(path)


def _compare(model: nn.Module, inputs: Sequence[Tensor], path: Path) -> float:
    """max |difference| from what ONNX Runtime computes. Raises CompressError where it cannot run the file."""
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, NotImplemented

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.log_severity_level = 4  # its messages go to the terminal past Python; errors come as exceptions as well
    try:
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])

        def read(images: Tensor) -> list[Tensor]:
            return [torch.from_numpy(answer) for answer in session.run(None, {"images": images.numpy()})]

        return largest_difference(model, inputs, read, "onnx", "ONNX Runtime")
    except (Fail, InvalidArgument, InvalidGraph, NotImplemented) as error:
        raise CompressError(f"export onnx: ONNX Runtime cannot run what was written: {error}") from error


@hookimpl
def compress_register_exporters() -> Sequence[type[Exporter]]:
    """The `onnx` exporter."""
    return [OnnxExporter]
