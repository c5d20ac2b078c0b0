"""A report is refused with every mistake named, and shown with every figure on one page that needs nothing else."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compress import CompressError
from compress.report import draw_examples, gather, table, validate, write
from compress.report.charts import channel_chart, curve_chart, short_names
from compress.report.figures import lines, number, percent, scientific


def row(role: str, params: int, ms: float, score: float) -> dict[str, Any]:
    subsets = {"ego": {"map50": score - 0.1}}
    latency = {"median": ms, "p10": 0.9 * ms, "p90": 1.2 * ms, "device": "a <fast> cpu", "threads": 2, "batch": 1}
    return {
        "stage": f"{role}-stage", "role": role, "params": params, "macs": 40 * params, "bytes": 4 * params,
        "latency_ms": latency, "metrics": {"map50": score, "map": score / 2}, "subsets": subsets,
    }  # fmt: skip


@pytest.fixture
def report() -> dict[str, Any]:
    return {
        "schema": 1, "name": "hand & foot", "profile": "quick", "seed": 3,
        "data": {"name": "drawn-hands", "synthetic": True, "train": 1500, "val": 320, "fingerprint": "f" * 64},
        "rows": [
            row("baseline", 4_000_000, 20.0, 0.80), row("sparse", 4_000_000, 20.2, 0.79),
            row("pruned", 1_000_000, 9.0, 0.6), row("finetuned", 1_000_000, 8.0, 0.81),
        ],
        "channels": [{"layer": f"layers.{n}.conv", "before": 64, "after": 16 + n} for n in (0, 1, 48)],
        "frozen": [{"group": "layers.48.conv", "reason": "its channels <meet> a shortcut", "by": "policy"}],
        "verification": {
            "passed": True, "max_abs": 3.2e-6, "rel": 1e-7, "tolerance": 1e-4, "dtype": "float32",
            "randomised": {"rel": 2e-7},
        },
        "command": "compress run 'my recipe.yaml'", "versions": {"torch": "2.15.0"}, "image_size": [160, 160],
    }  # fmt: skip


BROKEN = {
    "missing key": (lambda r: r.pop("seed"), "report.json: seed: Field required"),
    "wrong type": (lambda r: r["rows"][2]["latency_ms"].update(median="fast"), "rows[2].latency_ms.median: .* 'fast'"),
    "fraction": (lambda r: r["rows"][0].update(params=1.5), "rows[0].params: .* found 1.5"),
    "not a number": (lambda r: r["rows"][1]["metrics"].update(map50=float("nan")), "rows[1].metrics.map50: .* nan"),
    "spread": (lambda r: r["rows"][0]["latency_ms"].update(p10=99.0), "rows[0].latency_ms: expected p10 <= median"),
    "role": (lambda r: r["rows"][3].update(role="tuned"), "rows[3].role: .*'finetuned'.* found 'tuned'"),
    "two of a role": (lambda r: r["rows"][1].update(role="baseline"), "one row a role, found several for baseline"),
    "grown": (lambda r: r["channels"][1].update(after=99), "channels[1]: expected after <= before, found 99 > 64"),
    "unverified": (lambda r: r.update(verification=None), "verification: expected the result"),
    "no headline": (lambda r: r["rows"][3]["metrics"].pop("map50"), "metrics of finetuned lack .*'map50'"),
    "no rows": (lambda r: r["rows"].clear(), "rows: "),
    "schema": (lambda r: r.update(schema=2), "schema: .* found 2"),
    "by": (lambda r: r["frozen"][0].update(by="magic"), "frozen[0].by: .* found 'magic'"),
}


def test_validate_takes_a_right_report_and_keys_of_later_versions(report) -> None:
    validate(report)
    validate(report | {"later": 1})


@pytest.mark.parametrize("kind", BROKEN)
def test_validate_names_place_and_value(report, kind: str) -> None:
    spoil, expected = BROKEN[kind]
    spoil(report)
    with pytest.raises(CompressError) as caught:
        validate(report)
    pattern = expected.replace("[", r"\[").replace("]", r"\]")
    assert re.search(pattern, str(caught.value)), caught.value


def test_validate_names_all_mistakes_at_once(report) -> None:
    del report["seed"]
    report["rows"][0]["bytes"] = "many"
    report["data"]["val"] = -1
    with pytest.raises(CompressError) as caught:
        validate(report)
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(61_523_734, "", "61.5 M"), (246_400_000, "B", "246 MB"), (32_644_937_728, "", "32.6 G"), (999_600, "", "1.00 M"),
     (999, "B", "999 B"), (99.96, "", "100"), (0, "", "0")],
)  # fmt: skip
def test_number_has_three_digits_and_a_prefix(value: float, unit: str, text: str) -> None:
    assert number(value, unit) == text


def test_number_takes_the_prefix_of_its_column() -> None:
    assert number(812_455, "", 61_523_734) == "0.812 M"


def test_percent_and_scientific() -> None:
    assert percent(1, 4) == "−75.0\u202f%" and percent(5, 4) == "+25.0\u202f%" and percent(4, 4) == "±0.0\u202f%"
    assert percent(1, 0) == ""
    assert scientific(3.2e-6) == "3.2 × 10⁻⁶" and scientific(0.0) == "0"


def test_lines_judge_changes_by_what_is_better(report) -> None:
    finetuned = {figure.column: figure for figure in lines(report)[3].figures}
    assert finetuned["Parameters"].change == "−75.0\u202f%" and finetuned["Parameters"].better
    assert finetuned["Latency"].text == "8.00 ms" and finetuned["Latency"].note == "7.20–9.60"
    assert finetuned["mAP@0.5"].change == "+0.0100" and finetuned["mAP@0.5"].better
    sparse = {figure.column: figure for figure in lines(report)[1].figures}
    assert sparse["Latency"].change == "+1.0\u202f%" and sparse["Latency"].better is None  # within the spread
    pruned = {figure.column: figure for figure in lines(report)[2].figures}
    assert pruned["ego"].text == "0.5000" and pruned["ego"].better is False
    assert all(figure.change == "" for figure in lines(report)[0].figures)


def test_table_holds_every_figure_and_marks_synthetic_data(report) -> None:
    text = table(report)
    for shown in ("4.00 M", "1.00 M", "−75.0", "20.0 ms (18.0–24.0)", "0.8100", "+0.0100", "2 threads", "160 × 160 px"):
        assert shown in text
    assert "!! Synthetic data (drawn-hands)" in text
    assert len({len(line) for line in text.splitlines() if line.startswith("─")}) == 1
    report["data"]["synthetic"] = False
    assert "ynthetic" not in table(report)


def test_table_of_one_network_has_no_changes(report) -> None:
    report.update(rows=report["rows"][:1], verification=None, channels=[], frozen=[])
    validate(report)
    assert "%" not in table(report)


@pytest.mark.parametrize(
    ("names", "short"),
    [(["layers.0.conv", "layers.12.conv"], ["0", "12"]), (["a.b", "a"], ["a.b", "a"]), (["x.y"], ["x.y"]), ([], []),
     (["layer1.0.conv1", "layer1.1.conv2"], ["0.conv1", "1.conv2"])],
)  # fmt: skip
def test_short_names_drop_what_all_share(names: list[str], short: list[str]) -> None:
    assert short_names(names) == short


def test_curve_chart_draws_to_scale() -> None:
    line = {"x": [0, 250], "y": [10.0, 2.5], "xlabel": "step", "ylabel": "loss"}
    svg = curve_chart({"sparse": line})
    (points,) = re.findall(r'points="([^"]+)"', svg)
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in points.split())
    ticks = [float(text) for text in re.findall(r'<text class="tick"[^>]*>([^<]+)<', svg)]
    assert ticks == [0, 2, 4, 6, 8, 10, 0, 50, 100, 150, 200, 250]
    assert (x1 - x0, y1 - y0) == pytest.approx((420.0, 0.75 * 280.0))


def test_channel_chart_draws_to_scale() -> None:
    svg = channel_chart([{"layer": "a", "before": 64, "after": 16}, {"layer": "b<", "before": 32, "after": 32}])
    heights = [float(h) for h in re.findall(r'<rect [^>]*height="([\d.]+)"', svg)]
    assert heights == pytest.approx([230.0, 57.5, 115.0, 115.0])
    assert svg.count('<g class="whole">') == 1 and "b&lt;" in svg and "b<" not in svg.replace("b&lt;", "")


class Checked(HTMLParser):
    """Collects what a page would load, and that its elements are closed in order."""

    VOID = frozenset({"meta", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "data", "poster")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with everything that stages may leave for the page."""
    rng = np.random.default_rng(0)
    example = {
        "image": rng.integers(0, 255, (60, 80, 3), dtype=np.uint8), "boxes": np.array([[5.0, 5, 40, 50], [1, 1, 9, 9]]),
        "scores": np.array([0.9, 0.1]), "labels": np.array([0, 1]), "truth": np.array([[6.0, 4, 42, 49]]),
    }  # fmt: skip
    for role in ("baseline", "pruned", "finetuned"):
        draw_examples([example, example], tmp_path / "scores" / "examples", role)
    curve = {"x": [0.0, 0.5, 1.0], "y": [1.0, 0.9, 0.2], "xlabel": "recall", "ylabel": "precision"}
    curves = {role: {"precision-recall": curve} for role in ("baseline", "finetuned")}
    (tmp_path / "scores" / "curves.json").write_text(json.dumps(curves))
    pictures = tmp_path / "sparse-stage" / "pictures"
    pictures.mkdir(parents=True)
    (pictures / "gamma-quantiles.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"/>')
    Image.fromarray(rng.integers(0, 255, (300, 400, 3), dtype=np.uint8)).save(pictures / "first_layer.png")
    losses = [{"kind": "step", "step": n, "loss": 12 - n / 100} for n in range(10, 900, 10)]
    losses += [{"kind": "step", "step": 900, "loss": float("nan")}, {"kind": "epoch", "step": 900, "loss": 4.0}]
    (tmp_path / "sparse-stage" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in losses))
    (tmp_path / "recipe.yaml").write_text("name: x # <script>alert(1)</script>\n")
    return tmp_path


def test_write_makes_one_page_that_loads_nothing(report, run: Path) -> None:
    before = copy.deepcopy(report)
    path = write(run, report)
    assert path == run / "report.html" and report == before
    assert json.loads((run / "report.json").read_text()) == report
    html = path.read_text(encoding="utf-8")
    page = Checked()
    page.feed(html)
    assert page.open == [] and "script" not in page.tags and "link" not in page.tags and "iframe" not in page.tags
    assert page.loads and all(load.startswith("data:image/") for load in page.loads)
    assert not re.search(r"@import|url\(|https?://(?!www\.w3\.org)", html)
    assert len(html.encode()) < 3_000_000
    shown = " ".join(page.text)
    for text in ("hand & foot", "4.00 M", "1.00 M", "0.8100", "Synthetic data", "✓ verified", "a <fast> cpu",
                 "its channels <meet> a shortcut", "layers.48.conv", "compress run 'my recipe.yaml'", "2.15.0",
                 "Gamma quantiles", "First layer", "Precision over recall",
                 "Training loss over step", "<script>alert(1)</script>", "4.0× fewer",
                 "2.5× faster", "3.2 × 10⁻⁶"):  # fmt: skip
        assert text in shown, text
    assert page.tags.count("img") == 2 * 2 + 2  # two examples before and after, two pictures
    assert page.tags.count("polyline") == 3


def test_write_refuses_a_broken_report_and_writes_nothing(report, tmp_path: Path) -> None:
    del report["rows"]
    with pytest.raises(CompressError, match="rows"):
        write(tmp_path, report)
    assert list(tmp_path.iterdir()) == []


def test_write_shows_one_network_without_pictures(report, tmp_path: Path) -> None:
    report.update(rows=report["rows"][:1], verification=None, channels=[], frozen=[])
    report["data"]["synthetic"] = False
    page = Checked()
    page.feed(write(tmp_path, report).read_text(encoding="utf-8"))
    shown = " ".join(page.text)
    assert "0.8000" in shown and "ynthetic" not in shown and "verified" not in shown and "img" not in page.tags


def test_a_failed_verification_is_said_aloud(report, tmp_path: Path) -> None:
    report["verification"]["passed"] = False
    html = write(tmp_path, report).read_text(encoding="utf-8")
    assert "✗ verification failed" in html and "✓" not in html.split("</style>")[1]


def test_the_page_stays_small_and_names_what_it_leaves_out(report, run: Path) -> None:
    noise = np.random.default_rng(1)
    for n in range(9):
        (run / "sparse-stage" / f"big-{n}.svg").write_bytes(b"<svg>" + noise.bytes(300_000).hex().encode() + b"</svg>")
    (run / "sparse-stage" / "broken.png").write_bytes(b"not a picture")
    path = write(run, report)
    html = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 3_000_000
    left_out = gather(run, {"sparse-stage": "sparse"}).left_out
    assert any("broken.png cannot be read" in line for line in left_out)
    assert any(re.search(r"big-\d.svg is too large", line) for line in left_out)
    assert html.count("Not shown: ") == len(left_out)


def test_draw_examples_draws_truth_and_what_scores_enough(tmp_path: Path) -> None:
    grey = np.full((48, 96, 3), 90, dtype=np.uint8)
    example = {"image": grey, "boxes": [[10, 10, 40, 40], [60, 10, 90, 40]], "scores": [0.8, 0.2], "labels": [0, 0]}
    (path,) = draw_examples([example], tmp_path / "new", "baseline")
    assert path == tmp_path / "new" / "baseline-0.png"
    with Image.open(path) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (240, 480, 3)
    changed = np.abs(pixels.astype(int) - 90).sum(2) > 60
    assert changed[125, 45:56].any() and changed[125, 195:206].any()  # edges of the sure box, 5 x enlarged
    assert not changed[:, 260:].any()  # the box that scores 0.2
    (bare,) = draw_examples([{"image": grey}], tmp_path, "sparse")
    with Image.open(bare) as image:
        assert (np.asarray(image) == 90).all()
