"""Network slimming: channels whose BatchNorm scale is driven to zero by an L1 penalty are the ones that go."""

from collections.abc import Sequence

from compress import Criterion, Regularizer, hookimpl

from .criterion import BNGamma
from .regularizer import NetworkSlimming
from .telemetry import GammaTelemetry

__all__ = [
    "BNGamma",
    "GammaTelemetry",
    "NetworkSlimming",
    "compress_register_criteria",
    "compress_register_regularizers",
]


@hookimpl
def compress_register_criteria() -> Sequence[type[Criterion]]:
    """The criterion `bn-gamma`."""
    return [BNGamma]


@hookimpl
def compress_register_regularizers() -> Sequence[type[Regularizer]]:
    """The regularizer `network-slimming`."""
    return [NetworkSlimming]
