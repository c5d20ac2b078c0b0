"""What removed channels used to do, given back: a cut network in, the same with corrected weights out."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import nn

from ..graph.graph import DependencyGraph
from ..options import Plugin
from .plan import Plan
from .surgery import Edits

if TYPE_CHECKING:
    from .calibration import Calibration


class Compensation(Plugin):
    """Corrects a cut network for what the removed channels contributed. Hook: `compress_register_compensations`."""

    needs_batches: ClassVar[bool] = False
    """True where `compensate` looks at data: then `apply` must be given `calibration` batches."""

    def reserve(self, model: nn.Module, graph: DependencyGraph, plan: Plan) -> Plan:
        """The plan with fewer units removed, where the compensation needs some of them; called before the cut."""
        return plan

    def compensate(
        self,
        original: nn.Module,
        cut: nn.Module,
        graph: DependencyGraph,
        plan: Plan,
        edits: Edits,
        calibration: Calibration | None = None,
    ) -> nn.Module:
        """The corrected network; `cut` may be changed and returned, `original` may not be touched.

        edits: what turned the original into `cut`; a parameter that did not exist (a bias) may be added to a layer.
        calibration: given where `needs_batches`, and only there: others may leave the argument out.
        """
        raise NotImplementedError


def make_compensation(chosen: str | Compensation) -> Compensation:
    """A registered compensation by name, or the object itself. Raises CompressError with the nearest name."""
    if isinstance(chosen, Compensation):
        return chosen
    from ..plugins import installed

    return installed().make("compensations", chosen)
