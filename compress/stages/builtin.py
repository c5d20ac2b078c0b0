"""The stages that come with the project, registered through the same door as anyone's."""

from __future__ import annotations

from collections.abc import Sequence

from ..hookspecs import hookimpl
from .evaluation import Evaluate
from .export import Export
from .prune import Prune
from .report import Report
from .sensitivity import Sensitivity
from .stage import Stage
from .training import Finetune, Sparsify, Train


@hookimpl
def compress_register_stages() -> Sequence[type[Stage]]:
    """train, sparsify, sensitivity, prune, finetune, evaluate, export, report."""
    return [Train, Sparsify, Sensitivity, Prune, Finetune, Evaluate, Export, Report]
