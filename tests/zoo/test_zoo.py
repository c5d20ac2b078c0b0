"""Every model of the zoo, in a process of its own: cut, right by the value oracle, nothing frozen by verification."""

from __future__ import annotations

import importlib

import pytest
from zoo import SOURCES, attempt, line, passed

SHARD = {"torchvision": ("resnet18", "shufflenet_v2_x0_5", "mobilenet_v3_small")}
"""What the plain suite tries; everything else is slow."""

LARGE = ("regnet_y_128gf", "vit_h_14")
"""Above 600 million parameters: 10 GiB are not enough."""


def cases() -> list[object]:
    """(source, name) of every model whose source is installed."""
    found = []
    for source in SOURCES:
        try:
            names = importlib.import_module(f"{source}_models").names()
        except ImportError as missing:
            skip = pytest.mark.skip(reason=f"{missing.name} is not installed")
            found.append(pytest.param(source, "*", marks=[skip, pytest.mark.slow]))
            continue
        for name in names:
            slow = () if name in SHARD.get(source, ()) else pytest.mark.slow
            found.append(pytest.param(source, name, marks=slow))
    return found


@pytest.mark.parametrize(("source", "name"), cases())
def test_model(source: str, name: str):
    found = attempt(source, name, "compress", seconds=900, gib=20 if name in LARGE else 10)
    assert passed(found), line(found)
