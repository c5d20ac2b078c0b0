"""A network in, a file in some format out - written only if what was written computes the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..options import Plugin


class Exporter(Plugin):
    """Writes a network to files of one format and proves, by reading them back, that they compute the same."""

    def export(self, model: nn.Module, example: Tensor, folder: Path) -> Mapping[str, Any]:
        """Write into `folder`; return {"files": [names], "max_abs": the largest difference of the outputs read back}.

        model: in eval mode. example: (B, 3, H, W). Raises CompressError, leaving no file, where the format cannot hold
        this network or the outputs differ.
        """
        raise NotImplementedError
