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

CFG, WEIGHTS = "model.cfg", "model.weights"


class DarknetExporter(Exporter):
    """Darknet's own files, for OpenCV and for whatever else reads them; only networks that came from a cfg."""

    name = "darknet"

    def export(self, model: nn.Module, example: Tensor, folder: Path) -> Mapping[str, Any]:
        """Write model.cfg and model.weights, build the network again from them, compare, then move them into `folder`.

        Equal means: within 1e-4 of each map's largest value (1e-2 for 16-bit networks, whose arithmetic is coarser).
        """
        if not isinstance(model, Darknet):
            raise CompressError(
                f"export darknet: a {type(model).__name__} is not built from a cfg; expected the architecture 'darknet'"
            )
        acting = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.Dropout)
        if any(module.training for module in model.modules() if isinstance(module, acting)):
            raise CompressError("export darknet: the network is in train mode; call .eval() first")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".darknet-", dir=folder) as beside:
            cfg, weights = Path(beside, CFG), Path(beside, WEIGHTS)
            cfg.write_text(format_cfg(describe(model)), encoding="utf-8")
            save_weights(model, weights)
            again = Darknet(read_cfg(cfg))
            load_weights(again, weights)
            largest = _largest_difference(model, again, example)
            os.replace(cfg, folder / CFG)
            os.replace(weights, folder / WEIGHTS)
        return {"files": [CFG, WEIGHTS], "max_abs": largest}


@torch.no_grad()
def _largest_difference(model: Darknet, again: Darknet, example: Tensor) -> float:
    """max |difference| over all maps. Raises CompressError where a map differs by more than its tolerance."""
    weight = next(model.parameters())
    again = again.to(weight.device, weight.dtype).eval()
    tolerance = 1e-2 if weight.dtype in (torch.float16, torch.bfloat16) else 1e-4
    example = example.to(weight.device, weight.dtype)
    largest = 0.0
    for number, (mine, read) in enumerate(zip(model(example), again(example), strict=True)):
        difference, scale = (mine - read).abs().max().item(), mine.abs().max().item()
        if not difference <= tolerance * max(scale, 1e-6):
            raise CompressError(
                f"export darknet: output {number} read back from the files differs by {difference:.3g} where its"
                f" largest value is {scale:.3g}; expected at most {tolerance:g} of it; nothing was written"
            )
        largest = max(largest, difference)
    return largest


@hookimpl
def compress_register_exporters() -> Sequence[type[Exporter]]:
    """The `darknet` exporter."""
    return [DarknetExporter]
