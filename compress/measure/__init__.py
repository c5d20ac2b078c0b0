"""A network in, its parameters, multiply-adds, bytes and latency out, each with its unit."""

from .latency import Latency, device_name, measure_latency
from .macs import FvcoreMacs, fvcore_macs
from .runtime import onnx_runner
from .size import file_bytes, parameters

__all__ = [
    "FvcoreMacs",
    "Latency",
    "device_name",
    "file_bytes",
    "fvcore_macs",
    "measure_latency",
    "onnx_runner",
    "parameters",
]
