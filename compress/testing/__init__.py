"""A plugin in, nothing out - or what in it breaks its contract: the conformance kit for plugin authors.

    from compress.testing import check_criterion

    def test_my_criterion():
        check_criterion(Smallest())

Each check raises Unfit, an AssertionError, which says what was found and what is expected.
"""

from .data import check_dataset, check_task
from .networks import check_architecture, check_exporter, small_network
from .options import Unfit, check_plugin
from .selection import check_compensation, check_criterion, check_policy, check_regularizer
from .teaching import check_distillation

__all__ = [
    "Unfit",
    "check_architecture",
    "check_compensation",
    "check_criterion",
    "check_dataset",
    "check_distillation",
    "check_exporter",
    "check_plugin",
    "check_policy",
    "check_regularizer",
    "check_task",
    "small_network",
]
