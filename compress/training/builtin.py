"""The regularizers that need nothing but the graph, registered through the same door as anyone's."""

from __future__ import annotations

from collections.abc import Sequence

from ..hookspecs import hookimpl
from .group_lasso import GroupLasso
from .growing import Growing
from .regularizers import Regularizer


@hookimpl
def compress_register_regularizers() -> Sequence[type[Regularizer]]:
    """group-lasso, growing."""
    return [GroupLasso, Growing]
