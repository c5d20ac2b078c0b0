"""The picture of a sensitivity analysis: one row a group, one cell a ratio, the same file for the same numbers."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from compress import Sensitivity
from compress.report import draw_sensitivity

SVG = "{http://www.w3.org/2000/svg}"


def analysis(groups: int) -> Sensitivity:
    rng = np.random.default_rng(groups)
    values = {
        (f"layers.{k}.conv", *(["layers.shared.conv"] if k == 1 else [])): tuple(0.8 - rng.uniform(0.001, 0.5, 3))
        for k in range(groups)
    }
    settings = {"images": 10, "of": 20, "split": "val"}
    return Sensitivity("map50", 0.8, (0.2, 0.4, 0.8), values, {"head": "an output"}, settings)


@pytest.mark.parametrize("groups", [0, 1, 75])
def test_every_group_has_its_row(groups: int, tmp_path: Path) -> None:
    found = analysis(groups)
    file = draw_sensitivity(found, tmp_path / "one.svg")
    root = ElementTree.fromstring(file.read_text())
    texts = [g for g in root.iter(f"{SVG}g") if g.get("id", "").startswith("text_")]
    assert len(texts) == groups + 3 * groups + 3 + 1 + 1  # names, cells, ratios, what they are, the title
    assert file.read_bytes() == draw_sensitivity(found, tmp_path / "two.svg").read_bytes()
    height = float(root.get("height", "").removesuffix("pt"))
    assert height == pytest.approx(72 * (0.9 + 0.2 * max(groups, 1)), abs=1)


def test_what_is_unchanged_has_no_number(tmp_path: Path) -> None:
    found = Sensitivity("accuracy", 0.5, (0.5,), {("a",): (0.5,), ("b",): (0.4999,), ("c",): (0.6,)})
    root = ElementTree.fromstring(draw_sensitivity(found, tmp_path / "x.svg").read_text())
    texts = [g for g in root.iter(f"{SVG}g") if g.get("id", "").startswith("text_")]
    assert len([text for text in texts if list(text)]) == 3 + 1 + 1 + 1 + 1  # the gain of c is the only cell
