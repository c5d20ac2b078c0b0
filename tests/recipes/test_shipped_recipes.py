"""The recipes of shipped detectors: what they would cut, that they run, that what comes out is read elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from compress.cli import main
from compress.recipes import Recipe, load
from compress.recipes.find import shipped
from compress.stages.rehearsal import rehearse

DETECTORS = sorted(name for name in shipped() if name.startswith("yolo"))  # the others have no profiles
QUICK = "yolov4_tiny_hand"  # the others: `pytest -m slow`
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a cache of drawn pictures of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def with_drawn_hands(name: str, profile: str, size: int) -> Recipe:
    return load(name, [f"data={{uses: drawn-hands, train: 2, val: 1, image_size: {size}}}"], profile)


@pytest.mark.parametrize("profile", ["full", "quick"])
@pytest.mark.parametrize("name", DETECTORS)
def test_it_is_planned_and_cuts_as_much_as_it_expects(name: str, profile: str) -> None:
    """On an untrained network; sparse training moves the cut from layer to layer, so within a tenth."""
    recipe = with_drawn_hands(name, profile, 128)
    (cut,) = rehearse(recipe, recipe.dataset.open()).cuts
    if profile == "full":
        assert cut.after.params < 1.1 * recipe.expect["params"]["max"] < 0.3 * cut.before.params
    else:
        gone = {"params": 1 - cut.after.params / cut.before.params, "macs": 1 - cut.after.macs / cut.before.macs}
        assert all(share > 0.9 * recipe.expect[f"{key}_removed"]["min"] > 0.5 for key, share in gone.items()), gone


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == QUICK else pytest.mark.slow) for name in DETECTORS]
)
def test_it_goes_all_the_way(name: str, folder: Path) -> None:
    """The whole of `quick` with few and small images; its Darknet files are read by OpenCV."""
    small = ["model.width=0.125", "stages.pruned.min_keep=1", "stages.evaluate.seconds=0.5", "expect=null"]
    epochs = [f"stages.{stage}.epochs=1" for stage in ("baseline", "sparse", "finetuned")]
    drawn = [f"fallback_data.{setting}" for setting in ("train=16", "val=8", "image_size=96")]
    assert main(["run", name, "--profile", "quick", "--out", "out", *small, *epochs, *drawn]) == 0
    report = json.loads(Path("out/report.json").read_text())
    assert [row["role"] for row in report["rows"]] == ["baseline", "sparse", "pruned", "finetuned"]
    assert report["name"] == name.replace("_", "-") and report["verification"]["passed"]
    params = [row["params"] for row in report["rows"]]
    assert params[0] == params[1] > 2 * params[2] == 2 * params[3]
    net = cv2.dnn.readNetFromDarknet("out/export/darknet/model.cfg", "out/export/darknet/model.weights")
    assert len(net.getUnconnectedOutLayersNames()) == (2 if "tiny" in name else 3)
    assert Path("out/export/onnx").is_dir() and Path("out/report.html").is_file()


def test_a_recipe_that_extends_one_by_name_keeps_its_own_paths() -> None:
    """The data of a recipe in a folder `recipes` is looked for beside that folder, whoever wrote the path down."""
    for name in ("yolov3_hand", "yolov3_tiny_hand"):
        notes = "\n".join(load(ROOT / f"recipes/{name}.yaml", profile="quick").notes)
        assert (ROOT / "data/oxford-hand").is_dir() or f"in place of yolo: {ROOT / 'data/oxford-hand'}: " in notes
