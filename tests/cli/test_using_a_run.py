"""What is done with a finished run: detect, bench, export, report, compare - each against another's reading of it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from compress_models.darknet import DarknetArchitecture
from compress_plugins.detection.hand_scene import draw_scene
from PIL import Image

import compress
from compress.cli import main

SIDE = 96


def photos(folder: Path) -> dict[str, np.ndarray]:
    """Drawn hands that fill the network's input in one direction, so that fitting them only adds grey."""
    made = {}
    sizes = {"square.png": (SIDE, SIDE), "wide.png": (64, SIDE), "in/tall.png": (SIDE, 50)}
    for name, (height, width) in sizes.items():
        made[name] = draw_scene(np.random.default_rng(len(made)), (height, width))[0].transpose(1, 2, 0).copy()
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(made[name]).save(folder / name)
    return made


def by_opencv(files: Path, picture: np.ndarray, floor: float) -> list[tuple[np.ndarray, float]]:
    """(box xyxy in pixels of the picture, score) of all that score `floor`, best first: OpenCV reads the files."""
    cfg = (files / "model.cfg").read_text().replace("[yolo]", "[yolo]\nthresh=0")  # it drops low scores by itself
    (files / "low.cfg").write_text(cfg)
    net = cv2.dnn.readNetFromDarknet(str(files / "low.cfg"), str(files / "model.weights"))
    height, width = picture.shape[:2]
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    framed = np.full((SIDE, SIDE, 3), 114, np.uint8)
    framed[top : top + height, left : left + width] = picture
    net.setInput(cv2.dnn.blobFromImage(framed, 1 / 255))
    rows = np.concatenate(net.forward(net.getUnconnectedOutLayersNames()))  # (n, 5 + 1): cx cy w h objectness hand
    centre, size = rows[:, :2] * SIDE, rows[:, 2:4] * SIDE
    corners = np.clip(np.concatenate([centre - size / 2, centre + size / 2], 1), 0, SIDE)
    kept = np.flatnonzero(rows[:, 5] >= floor)
    limits = [width, height, width, height]
    found = [(np.clip(corners[i] - [left, top, left, top], 0, limits), float(rows[i, 5])) for i in kept]
    return sorted((each for each in found if (each[0][2:] > each[0][:2]).all()), key=lambda each: -each[1])


def test_detect_finds_what_opencv_finds(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = photos(tmp_path / "photos")
    (tmp_path / "photos/broken.jpg").write_bytes(b"no picture")
    assert main(["export", str(run), "darknet", "--out", str(tmp_path / "exported")]) == 0
    capsys.readouterr()
    floor = 0.001
    arguments = ["detect", str(run), str(tmp_path / "photos"), "--confidence", str(floor), "--batch", "2"]
    assert main([*arguments, "--out", str(tmp_path / "out"), "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found == json.loads((tmp_path / "out/detections.json").read_text())
    assert f"1 files cannot be read and are left out: {tmp_path / 'photos/broken.jpg'}" in printed.err
    assert found["classes"] == ["hand"] and found["network"] == "cut" and len(found["pictures"]) == len(pictures)
    total = 0
    for each in found["pictures"]:
        name = str(Path(each["file"]).relative_to(tmp_path / "photos"))
        theirs = by_opencv(tmp_path / "exported/darknet", pictures[name], floor)
        mine = each["boxes"]
        assert (each["height"], each["width"]) == pictures[name].shape[:2]
        for box, (_, score) in zip(mine[:5], theirs[:5], strict=True):
            assert box["class"] == "hand" and abs(box["score"] - score) < 2e-4
        assert len(mine) == len(theirs)
        for box in mine:
            near = [s for c, s in theirs if np.abs(c - box["box"]).max() < 0.1]
            assert min(abs(s - box["score"]) for s in near) < 2e-4
        drawn = np.array(Image.open(each["drawn"]))
        assert drawn.shape == pictures[name].shape and (drawn != pictures[name]).any()
        total += len(theirs)
        assert each["boxes"][0]["score"] > 0.02
    assert total > 20


def test_a_network_taken_away_from_its_run_finds_the_same(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos(tmp_path / "photos")
    shutil.copytree(run / "model", tmp_path / "elsewhere")
    found = []
    for network in ([str(run)], [str(run), "--stage", "cut"], [str(run / "cut")], [str(tmp_path / "elsewhere")]):
        call = ["detect", *network, str(tmp_path / "photos"), "--confidence", "0.001", "--out", str(tmp_path / "out")]
        assert main([*call, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["pictures"])
    assert found[0] == found[1] == found[2] == found[3] and any(each["boxes"] for each in found[0])
    dense = ["detect", str(run), str(tmp_path / "photos"), "--stage", "dense", "--confidence", "0.001", "--json"]
    assert main([*dense, "--out", str(tmp_path / "dense")]) == 0
    assert json.loads(capsys.readouterr().out)["pictures"][0]["boxes"] != found[0][0]["boxes"]


def test_a_darknet_network_by_its_files_finds_the_same(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos(tmp_path / "photos")
    assert main(["export", str(run), "darknet", "--out", str(tmp_path)]) == 0
    files = tmp_path / "darknet"
    (tmp_path / "hand.names").write_text("hand\n")
    options = ["--weights", str(files / "model.weights"), "--names", str(tmp_path / "hand.names")]
    by_file = [str(files / "model.cfg"), *options]
    found = []
    for network in ([str(run)], by_file):
        call = ["detect", *network, str(tmp_path / "photos"), "--confidence", "0.01", "--out", str(tmp_path / "out")]
        capsys.readouterr()
        assert main([*call, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["pictures"])
    assert sum(len(each["boxes"]) for each in found[1]) > 3
    for mine, theirs in zip(*found, strict=True):  # of near ones the files keep one
        boxes = np.array([box["box"] for box in mine["boxes"]]).reshape(-1, 4)
        for box in theirs["boxes"]:
            assert np.abs(boxes - box["box"]).max(1).min() < 0.05


def test_every_exported_file_computes_what_the_artifact_computes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "exported"
    assert main(["export", str(run), "darknet", "onnx", "torch-export", "--out", str(out), "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert list(written) == ["darknet", "onnx", "torch-export"]
    architecture = DarknetArchitecture(cfg="yolov3-tiny-hand", width=0.25)
    model = compress.load(run / "model", lambda: architecture.build(1, (SIDE, SIDE))).eval()
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        expected = [each.numpy() for each in model(images)]
    read = torch.export.load(out / "torch-export/model.pt2").module()
    session = onnxruntime.InferenceSession(out / "onnx/model.onnx", providers=["CPUExecutionProvider"])
    for found in (session.run(None, {"images": images.numpy()}), [each.detach().numpy() for each in read(images)]):
        for mine, theirs in zip(expected, found, strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-3)
    assert main(["export", str(run), "onnx", "--out", str(out)]) == 2
    assert "onnx: is there already" in capsys.readouterr().err


def test_a_file_that_computes_something_else_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = torch.export.load

    def spoilt(file: Any) -> Any:
        program = load(file)
        name = next(name for name in program.state_dict if name.endswith("conv.weight"))
        program.state_dict[name] += 1
        return program

    monkeypatch.setattr(torch.export, "load", spoilt)
    assert main(["export", str(run), "torch-export", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and re.match(r"export torch-export: output 0 computed by torch.export differs by .*", said[0])
    assert not list((tmp_path / "out").glob("torch-export/*"))


def test_bench_times_all_that_is_asked_for(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["bench", str(run), "--threads", "1", "--batch", "1", "--batch", "2", "--seconds", "0.1"]
    assert main([*call, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    kinds = [("PyTorch", False), ("PyTorch", True), ("ONNX Runtime", False)]
    expected = [(b, runtime, nms, net) for b in (1, 2) for net in ("dense", "pruned") for runtime, nms in kinds]
    found = {(r["latency_ms"]["batch"], r["runtime"], r["nms"], r["network"]): r for r in rows}
    assert len(rows) == len(found) and set(found) == set(expected)
    for (batch, runtime, nms, _), row in found.items():
        latency = row["latency_ms"]
        assert 0 < latency["p10"] <= latency["median"] <= latency["p90"] and latency["threads"] == 1
        assert row["images_per_second"] == pytest.approx(1000 * batch / latency["median"])
        dense = found[batch, runtime, nms, "dense"]["latency_ms"]["median"]
        assert row["speedup"] == pytest.approx(dense / latency["median"])
    assert main([*call[:4], "--seconds", "0.1", "--no-onnx", "--no-nms"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and [line.split()[-1] for line in lines[:3]] == ["speed-up", "1.00x", lines[2].split()[-1]]


def test_report_makes_the_page_again(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = shutil.copytree(run, tmp_path / "run")
    page = (again / "report.html").read_text()
    (again / "report.html").unlink()
    assert main(["report", str(again)]) == 0
    assert "Pruned" in capsys.readouterr().out and (again / "report.html").read_text() == page
    before = json.loads((again / "report.json").read_text())
    (again / "report.json").unlink()
    assert main(["report", str(again), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((again / "report.json").read_text()) == before
    (again / "measured/stage.json").unlink()
    assert main(["report", str(again)]) == 2
    assert "no stage with `uses: evaluate` has finished there" in capsys.readouterr().err


def test_compare_shows_what_differs(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    recipe = (other / "recipe.yaml").read_text()
    assert "ratio: 0.5" in recipe
    (other / "recipe.yaml").write_text(recipe.replace("ratio: 0.5", "ratio: 0.25"))
    report = json.loads((other / "report.json").read_text())
    report["rows"][1]["params"] *= 2
    report["rows"][1]["metrics"]["map50"] += 0.25
    report["data"]["fingerprint"] = "other"
    (other / "report.json").write_text(json.dumps(report))
    assert main(["compare", str(run), str(other), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["settings"] for each in found["runs"]] == [{"stages.cut.ratio": 0.5}, {"stages.cut.ratio": 0.25}]
    assert found["runs"][1]["rows"] == report["rows"]
    assert found["caveats"] == ["other was measured on other data than run; their accuracies are not comparable"]
    assert main(["compare", str(run), str(other)]) == 0
    printed = capsys.readouterr()
    lines = {" ".join(line.split()[:2]): line for line in printed.out.splitlines() if line.strip()}
    assert lines["stages.cut.ratio 0.5"].split()[-1] == "0.25"
    assert lines["pruned params"].endswith("(+100.0%)") and lines["pruned map50"].endswith("(+0.2500)")
    assert lines["baseline params"].endswith("(+0.0%)") and "warning: other was measured on other data" in printed.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["detect", "nowhere", "."], "nowhere: neither the folder of a run"),
        (["detect", "RUN", "nothing.png"], "nothing.png: no such file or folder"),
        (["detect", "RUN", "notes.txt"], "notes.txt: neither a picture nor a video"),
        (["detect", "RUN", "empty"], "empty: no picture or video in it"),
        (["detect", "RUN", "broken.png"], "broken.png: cannot be read"),
        (["detect", "RUN", "broken.mp4"], "broken.mp4: cannot be read"),
        (["detect", "RUN", "photo.png", "--confidence", "30"], "--confidence 30.0: expected a score from 0 to 1"),
        (["detect", "RUN", "photo.png", "--stage", "cat"], "did you mean 'cut'?"),
        (["detect", "RUN/cut", "photo.png", "--stage", "cut"], "--stage is for the folder of a run"),
        (["detect", "RUN", "photo.png", "empty/../photo.png"], "two files would become photo.png"),
        (["detect", "RUN", "photo.png", "--device", "cuda"], "torch sees no GPU"),
        (["detect", "net.cfg", "photo.png"], "net.cfg: needs its weights; --weights FILE"),
        (["detect", "net.cfg", "photo.png", "--weights", "notes.txt"], "its classes, one name a line; --names FILE"),
        (["detect", "photo.png", "photo.png"], "photo.png: no architecture reads such files; expected .cfg"),
        (["detect", "RUN", "photo.png", "--weights", "notes.txt"], "are for a network's file"),
        (["export", "RUN", "onyx"], "no exporter is called 'onyx'; did you mean 'onnx'?"),
        (["export", "RUN"], "Missing argument 'FORMAT...'"),
        (["bench", "RUN", "--batch", "0"], "--batch 0: expected more than 0"),
        (["bench", "RUN", "--seconds", "x"], "Invalid value for '--seconds'"),
        (["report", "empty"], "empty: not the folder of a run"),
        (["compare", "RUN"], "give two runs or more"),
        (["compare", "RUN", "empty"], "empty: no report.json there"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_ends_with_2(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Image.new("RGB", (40, 30)).save("photo.png")
    for name in ("broken.png", "broken.mp4", "notes.txt", "net.cfg"):
        Path(name).write_text("nothing of the kind")
    assert main([each.replace("RUN", str(run)) for each in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.strip().splitlines()) == 1, printed.err
    assert said in printed.err and not Path("detected").exists() and not Path("exported").exists()
