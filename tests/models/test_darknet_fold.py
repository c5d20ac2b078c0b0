"""`fold-exact` on real trained detectors: the cut network equals the one with the removed gammas at zero."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compress_models.darknet import Darknet, load_weights, read_cfg
from torch import nn

import compress
from compress.pruning.fold import silence

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "darknet"


@pytest.mark.data
@pytest.mark.parametrize("name", ["yolo-fastest-1.1", "MobileNetV2-YOLOv3-Nano-coco"])
def test_the_cut_detector_is_the_one_without_gammas(name: str) -> None:
    if not DATA.is_dir():
        pytest.skip(f"no Darknet weights at {DATA}")
    model = Darknet(read_cfg(DATA / f"{name}.cfg"))
    load_weights(model, DATA / f"{name}.weights")
    model.eval()
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    graph = compress.trace(model, x)
    plan = compress.plan(graph, "bn-gamma", ratio=0.3)
    quiet = silence(model, graph, plan)
    nets = {how: compress.apply(model, graph, plan, compensate=how) for how in ("fold", "fold-exact")}
    kept = sum(map(len, nets["fold-exact"].plan.settings["constants"].values()))
    assert 0 < kept <= sum(isinstance(m, nn.Conv2d) for m in model.modules())
    with torch.no_grad():
        want = heads(quiet(x))
        gaps = {how: gap(want, heads(net.model.eval()(x))) for how, net in nets.items()}
    assert gaps["fold-exact"] < 1e-4 < 10 * gaps["fold-exact"] < gaps["fold"], gaps


def heads(outputs) -> list[torch.Tensor]:
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)


def gap(want: list[torch.Tensor], have: list[torch.Tensor]) -> float:
    """Largest difference as a fraction of the largest output."""
    return max(float((w - h).abs().max() / w.abs().max()) for w, h in zip(want, have, strict=True))
