"""A Darknet network, pruned or not, in; model.cfg and model.weights that compute the same out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from compress_models.darknet import Darknet, describe, format_cfg, load_weights, read_cfg, save_weights
from torch import Tensor, nn

from compress import CompressError, Exporter, hookimpl

from .comparing import check_still, largest_difference

CFG, WEIGHTS = "model.cfg", "model.weights"


class DarknetExporter(Exporter):
    """Darknet's own files, for OpenCV and for whatever else reads them; only networks that came from a cfg."""

    name = "darknet"

    def export(self, model: nn.Module, example: Tensor, folder: Path) -> Mapping[str, Any]:
        """Write model.cfg and model.weights, build the network again from them, compare, then move them into `folder`.

        Equal means: within 1e-4 of each map's largest value (1e-2 for 16-bit networks, whose arithmetic is coarser).
        Raises VerificationError where it is not.
        """
        if not isinstance(model, Darknet):
            raise CompressError(
                f"export darknet: a {type(model).__name__} is not built from a cfg; expected the architecture 'darknet'"
            )
        check_still(model, self.name)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".darknet-", dir=folder) as beside:
            cfg, weights = Path(beside, CFG), Path(beside, WEIGHTS)
            cfg.write_text(format_cfg(describe(model)), encoding="utf-8")
            save_weights(model, weights)
            again = Darknet(read_cfg(cfg))
            load_weights(again, weights)
            weight = next(model.parameters())
            again = again.to(weight.device, weight.dtype).eval()
            with torch.no_grad():
                shown = [example.to(weight.device, weight.dtype)]
                largest = largest_difference(model, shown, again, self.name, "the files read back")
            os.replace(cfg, folder / CFG)
            os.replace(weights, folder / WEIGHTS)
        return {"files": [CFG, WEIGHTS], "max_abs": largest}


@hookimpl
def compress_register_exporters() -> Sequence[type[Exporter]]:
    """The `darknet` exporter."""
    return [DarknetExporter]
