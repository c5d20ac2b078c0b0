"""`fold-exact` on real trained detectors: the cut network equals the one with the removed gammas at zero."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compress_models.darknet import Darknet, load_weights, read_cfg

import compress
from compress.pruning.fold import silence

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "darknet"


@pytest.mark.data
@pytest.mark.parametrize("name", ["yolo-fastest-1.1", "MobileNetV2-YOLOv3-Nano-coco"])
def test_the_cut_detector_is_the_one_without_gammas(name: str) -> None:
    """Their padded layers are depthwise: inputs go with their outputs, so folding is exact and no channel stays."""
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
    with torch.no_grad():
        want = heads(quiet(x))
        gaps = {how: gap(want, heads(net.model.eval()(x))) for how, net in nets.items()}
    assert max(gaps.values()) < 1e-5, gaps
    assert "constants" not in nets["fold-exact"].plan.settings


def heads(outputs) -> list[torch.Tensor]:
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)


def gap(want: list[torch.Tensor], have: list[torch.Tensor]) -> float:
    """Largest difference as a fraction of the largest output."""
    return max(float((w - h).abs().max() / w.abs().max()) for w, h in zip(want, have, strict=True))
