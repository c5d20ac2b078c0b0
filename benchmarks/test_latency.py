"""One forward pass, dense against pruned: the time that a cut saves.

pytest-benchmark times the two one after the other; `latency_ms` in extra_info comes from timing them in turns, as every
latency of this project does, and is the figure to compare.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import Pair


@pytest.mark.parametrize("which", ["dense", "pruned"])
def test_forward(benchmark: Any, request: pytest.FixtureRequest, pair: Pair, which: str) -> None:
    device = torch.device(request.config.getoption("--bench-device"))
    model = (pair.network.model if which == "dense" else pair.pruned.model).to(device)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = pair.network.example.to(device).contiguous(memory_format=torch.channels_last)
    benchmark.group = f"{pair.network.name}: forward"
    benchmark.extra_info.update(pair.facts(which))

    def forward() -> Any:
        found = model(images)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return found

    with torch.inference_mode():
        outputs = benchmark(forward)
    model.cpu()
    assert all(torch.isfinite(output).all() for output in (outputs if isinstance(outputs, tuple) else (outputs,)))
