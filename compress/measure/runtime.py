"""An ONNX file in, something that can be timed beside a network out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor


def onnx_runner(file: Path, threads: int) -> Callable[[Tensor], list[Any]]:
    """ONNX Runtime on the CPU with that many threads: images (B, 3, H, W) float32 -> the outputs as numpy arrays.

    Its threads sleep between two calls instead of spinning, which would take the processor from whoever is timed next.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
    (first, *_) = session.get_inputs()

    def run(images: Tensor) -> list[Any]:
        return session.run(None, {first.name: images.numpy()})

    return run
