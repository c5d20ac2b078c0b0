"""A report is refused with every mistake named, and shown with every figure on one page that needs nothing else."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compress import CompressError
from compress.report import draw_examples, gather, table, validate, write
from compress.report.charts import channel_chart, curve_chart, latency_chart, short_names
from compress.report.classes import class_table
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


def three_classes(report: dict[str, Any]) -> dict[str, Any]:
    scores = {"baseline": (0.9, 0.5, 0.4), "sparse": (0.9, 0.5, 0.4), "pruned": (0.1, 0.1, 0.1)}
    for row in report["rows"]:
        values = scores.get(row["role"], (0.8, 0.6, 0.1))
        names = ("screw", "nut & bolt", "<b>washer</b>")
        row["classes"] = {name: {"ap50": value} for name, value in zip(names, values, strict=True)}
    return report


def test_a_page_of_several_classes_shows_each_with_its_curve(report, run: Path) -> None:
    path = run / "scores" / "curves.json"
    curves = json.loads(path.read_text())
    for role, ends in (("baseline", 0.2), ("finetuned", 0.1)):
        for name in ("screw", "nut & bolt", "<b>washer</b>"):
            curve = {"x": [0, 1], "y": [1, ends], "xlabel": "recall", "ylabel": "precision"}
            curves[role][f"precision-recall/{name}"] = curve
    path.write_text(json.dumps(curves))
    html = write(run, three_classes(report)).read_text(encoding="utf-8")
    page = Checked()
    page.feed(html)
    section = html.split("<h2>Class by class</h2>")[1].split("</section>")[0]
    assert section.count("<svg ") == 3 and section.count("<polyline ") == 6
    assert section.count("<tr>") == 1 + 3 and "−0.3000" in section and "+0.1000" in section
    assert "nut &amp; bolt" in section and "&lt;b&gt;washer" in section and "<b>" not in section
    assert page.tags.count("polyline") == 3 + 6, "the mean over classes is drawn once, with the others' curves apart"
    plain = write(run, {**report, "rows": [{**row, "classes": {}} for row in report["rows"]]})
    assert "Class by class" not in plain.read_text(encoding="utf-8")


def test_of_many_classes_those_that_lost_most_are_drawn(report) -> None:
    rng = np.random.default_rng(0)
    names = [f"class-{n}" for n in range(80)]
    before, after = rng.random(80), rng.random(80)
    for row in report["rows"]:
        values = before if row["role"] in ("baseline", "sparse") else after
        row["classes"] = {name: {"ap50": float(value)} for name, value in zip(names, values, strict=True)}
    curve = {"x": [0, 1], "y": [1, 0], "xlabel": "recall", "ylabel": "precision"}
    shown = class_table(report, {f"precision-recall/{name}": {"baseline": curve} for name in names})
    worst = {names[n] for n in np.argsort(after - before)[:12]}
    assert set(shown.curves) == worst and len(shown.rows) == 80 and shown.metric == "AP@0.5"
    assert class_table({"rows": [{}]}, {}) is None


def test_latency_chart_draws_to_scale(report) -> None:
    svg = latency_chart(report["rows"][:1])  # 18, 20 and 24 ms on an axis up to 25
    (x, width), (mark, four) = re.findall(r'<rect [^>]*x="([\d.]+)" width="([\d.]+)"', svg)
    assert (float(x) - 92) / 420 == pytest.approx(18 / 25, abs=1e-3)
    assert float(width) / 420 == pytest.approx(6 / 25, abs=1e-3)
    assert (float(mark) + float(four) / 2 - 92) / 420 == pytest.approx(20 / 25, abs=1e-3)
    assert "Baseline: 20.0 ms, 18.0 ms to 24.0 ms" in svg


def test_reasons_that_differ_in_numbers_are_told_together(report, tmp_path: Path) -> None:
    report["frozen"] = [
        {"group": f"layers.{n}", "reason": f"added by shortcut {n + 1} of 23", "by": "policy"} for n in range(3)
    ]
    report["frozen"].append({"group": "head", "reason": "an output of layers.3.conv", "by": "rule"})
    report["frozen"].append({"group": "tail", "reason": "an output of layers.4.conv", "by": "rule"})
    html = write(tmp_path, report).read_text(encoding="utf-8")
    assert "added by shortcut 1, 2, 3 of 23</summary>" in html and "<code>layers.2</code>" in html
    assert "an output of layers.3.conv</summary>" in html and "an output of layers.4.conv</summary>" in html


class Tables(HTMLParser):
    """Collects what a reader who cannot see needs: texts of pictures, captions and scopes of tables."""

    def __init__(self) -> None:
        super().__init__()
        self.silent: list[str] = []
        self.tables: list[dict[str, int]] = []
        self.levels: list[int] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if (tag == "img" and not given.get("alt")) or (tag == "svg" and not given.get("aria-label")):
            self.silent.append(f"{tag} {self.getpos()}")
        if tag == "table":
            self.tables.append({"caption": 0, "col": 0, "row": 0, "tr": 0})
        if tag in ("caption", "tr"):
            self.tables[-1][tag] += 1
        if tag == "th":
            self.tables[-1][given["scope"] or ""] += 1
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))


def test_the_page_can_be_read_without_seeing_it(report, run: Path) -> None:
    html = write(run, three_classes(report)).read_text(encoding="utf-8")
    page = Tables()
    page.feed(html)
    assert not page.silent and '<html lang="en">' in html
    assert len(page.tables) == 4
    for found in page.tables:
        assert found["caption"] == 1 and found["col"] > 1 and found["row"] == found["tr"] - 1, found
    assert page.levels[0] == 1 and page.levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in zip(page.levels, page.levels[1:], strict=False))


def luminance(colour: str) -> float:
    """WCAG 2.2: relative luminance of #rrggbb."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


TEXT = [("ink", "paper"), ("ink", "card"), ("soft", "paper"), ("soft", "card"), ("accent", "paper"), ("good", "card"),
        ("bad", "card"), ("good", "paper"), ("bad", "paper"), ("mark", "mark-paper"),
        ("accent", "accent-soft")]  # fmt: skip
GRAPHICS = [(name, "paper") for name in ("baseline", "sparse", "pruned", "finetuned", "accent", "whole", "edge")]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast_is_what_wcag_asks_for(scheme: int) -> None:
    css = (resources.files("compress.report") / "page.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    assert len(blocks) == 2
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", blocks[0] + (blocks[1] if scheme else "")))
    for (front, back), least in [*((pair, 4.5) for pair in TEXT), *((pair, 3.0) for pair in GRAPHICS)]:
        light, dark = sorted((luminance(colours[front]), luminance(colours[back])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= least, f"{front} on {back}"


def test_a_large_report_stays_small(report, run: Path) -> None:
    """80 classes, 1,500 layers and as many frozen groups, and full pictures."""
    rng = np.random.default_rng(2)
    report["channels"] = [{"layer": f"stage.{n}.block.conv", "before": 512, "after": 256} for n in range(1500)]
    report["frozen"] = [{"group": f"stage.{n}.block", "reason": f"why {n}: x", "by": "rule"} for n in range(1500)]
    curve = {"x": np.linspace(0, 1, 101).tolist(), "y": rng.random(101).tolist(), "xlabel": "recall", "ylabel": "p"}
    names = [f"precision-recall/class {n}" for n in range(80)]
    roles = [row["role"] for row in report["rows"]]
    (run / "scores" / "curves.json").write_text(json.dumps({role: dict.fromkeys(names, curve) for role in roles}))
    for row in report["rows"]:
        row["classes"] = {f"class {n}": {"ap50": float(rng.random())} for n in range(80)}
    for n in range(9):
        (run / "sparse-stage" / f"big-{n}.svg").write_bytes(b"<svg>" + rng.bytes(200_000).hex().encode() + b"</svg>")
    assert write(run, report).stat().st_size < 3_000_000


def test_a_box_says_its_class_where_there_are_several(tmp_path: Path) -> None:
    grey = np.full((96, 96, 3), 90, dtype=np.uint8)
    example = {"image": grey, "boxes": [[20, 40, 90, 90]], "scores": [0.8], "labels": [1]}

    def label_width(folder: str, classes: tuple[str, ...]) -> int:
        (path,) = draw_examples([example], tmp_path / folder, "baseline", classes)
        with Image.open(path) as image:
            row = np.asarray(image).astype(int)[40 * 5 - 20]  # through the label, above the box's upper edge
        return int((np.abs(row - 90).sum(1) > 60).sum())

    assert label_width("one", ("hand",)) == label_width("none", ()) < label_width("two", ("nut", "hexagon screw"))
