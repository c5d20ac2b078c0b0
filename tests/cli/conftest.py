"""A finished run of a small detector, made once, for the commands that use one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from compress.cli import main

RECIPE = """\
version: 1
name: small
model: {uses: darknet, cfg: yolov3-tiny-hand, width: 0.25}
data: {uses: drawn-hands, image_size: 96, train: 16, val: 8}
policy: {uses: yolov3}
task: {uses: yolov3, score_floor: 0, nms_iou: 1, max_boxes: 1000}  # every box, so that none depends on a near tie
threads: 1
stages:
  - {id: dense, uses: train, epochs: 20, batch_size: 8, optimizer: adamw, lr: 5e-3}
  - {id: cut, uses: prune, criterion: bn-gamma, ratio: 0.5}
  - {id: measured, uses: evaluate, seconds: 0.1}
  - {id: report, uses: report}
"""


@pytest.fixture(scope="session", autouse=True)
def drawn_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Drawn pictures are kept in a folder of this session's tests, not in the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run; it must not be changed."""
    home = tmp_path_factory.mktemp("small")
    (home / "small.yaml").write_text(RECIPE)
    assert main(["run", str(home / "small.yaml"), "--out", str(home / "run")]) == 0
    return home / "run"
