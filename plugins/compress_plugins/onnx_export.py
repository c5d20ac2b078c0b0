"""A network in, model.onnx that computes the same in ONNX Runtime out."""

from __future__ import annotations

import copy
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compress import CompressError, Exporter, hookimpl

FILE = "model.onnx"
TOLERANCE = 1e-4
ACTING = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
"""What computes something else in train mode."""


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
        if any(module.training for module in model.modules() if isinstance(module, ACTING)):
            raise CompressError("export onnx: the network is in train mode; call .eval() first")
        still = copy.deepcopy(model).cpu().eval().requires_grad_(False)
        example = example.detach().cpu().to(next(still.parameters(), example).dtype)
        folder.mkdir(parents=True, exist_ok=True)
        with torch.no_grad(), tempfile.TemporaryDirectory(prefix=".onnx-", dir=folder) as beside:
            others = _other_batches(still, example)
            _translate(still, example, bool(others), Path(beside, FILE))
            largest = _largest_difference(still, [example, *others], Path(beside, FILE))
            files = sorted(os.listdir(beside))
            for name in files:
                os.replace(Path(beside, name), folder / name)
        return {"files": files, "max_abs": largest, "dynamic_batch": bool(others)}


def _other_batches(model: nn.Module, example: Tensor) -> list[Tensor]:
    """Random inputs of batch one and three; none where the network itself does not take another batch than its own."""
    random = torch.Generator().manual_seed(0)
    others = [torch.rand(n, *example.shape[1:], generator=random).to(example.dtype) for n in (1, 3)]
    try:
        for images in others:
            model(images)
    except RuntimeError:  # a batch size written into a view or an expand
        return []
    return others


def _translate(model: nn.Module, example: Tensor, free: bool, path: Path) -> None:
    """Write the ONNX file. Raises CompressError where torch.onnx cannot say the network in ONNX."""
    if free and len(example) == 1:
        example = torch.cat([example, example])  # torch.export takes a 1 for a constant
    names = [f"output{n}" for n in range(len(_outputs(model, example)))]
    shapes = ({0: torch.export.Dim("batch")},) if free else None
    try:
        with _silence():
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


@contextmanager
def _silence() -> Iterator[None]:
    """No warnings, log lines or prints: torch.export speaks of its own internals; the file is compared afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    unread = io.StringIO()
    try:
        with warnings.catch_warnings(), redirect_stdout(unread), redirect_stderr(unread):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _largest_difference(model: nn.Module, inputs: Sequence[Tensor], path: Path) -> float:
    """max |difference| over all inputs and outputs. Raises CompressError where one differs by more than 1e-4 of it."""
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, NotImplemented

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.log_severity_level = 4  # its messages go to the terminal past Python; errors come as exceptions as well
    try:
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        answers = [session.run(None, {"images": images.numpy()}) for images in inputs]
    except (Fail, InvalidArgument, InvalidGraph, NotImplemented) as error:
        raise CompressError(f"export onnx: ONNX Runtime cannot run what was written: {error}") from error
    largest = 0.0
    for images, answer in zip(inputs, answers, strict=True):
        for number, (mine, read) in enumerate(zip(_outputs(model, images), answer, strict=True)):
            difference = (mine.double() - torch.from_numpy(read).double()).abs().max().item()
            scale = mine.abs().max().item()
            if not difference <= TOLERANCE * max(scale, 1e-6):
                raise CompressError(
                    f"export onnx: output {number} computed by ONNX Runtime differs by {difference:.3g} where its "
                    f"largest value is {scale:.3g}; expected at most {TOLERANCE:g} of it; nothing was written"
                )
            largest = max(largest, difference)
    return largest


def _outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """The network's output tensors in the order that ONNX gives them, whatever tuples or dicts they stand in."""
    return [leaf for leaf in pytree.tree_leaves(model(images)) if isinstance(leaf, Tensor)]


@hookimpl
def compress_register_exporters() -> Sequence[type[Exporter]]:
    """The `onnx` exporter."""
    return [OnnxExporter]
