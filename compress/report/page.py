"""A report and a run folder in, report.json and one self-contained HTML page out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup, escape

from ..files import replaced, write_json
from .charts import channel_chart, curve_chart, latency_chart, score_chart
from .classes import class_table
from .figures import TITLES, lines, metric_title, milliseconds, number, percent, scientific
from .pictures import Album, gather
from .schema import validate
from .table import measured, synthetic_mark

NUMBER = re.compile(r"(?<![\w.])\d+(?![\w.])")
NAMED = 12
"""Numbers of one place in a reason that are listed."""

EXPLAINED = {
    "baseline": "trained as usual",
    "sparse": "trained with sparsity",
    "pruned": "cut, before fine-tuning",
    "finetuned": "cut and trained on",
}


@dataclass(frozen=True)
class Tile:
    """One large figure: what the last network has, what the first had, and both as shares of a bar in [0, 1]."""

    name: str
    value: str
    before: str
    change: str
    share: float
    share_before: float


def write(run_folder: Path, report: Mapping[str, Any]) -> Path:
    """Write report.json and report.html into the run folder; return the page's path.

    The page stands alone: style, charts and pictures are inside it, it loads nothing and runs no script. What the
    stages left in their folders (pictures, curves.json, examples/, recipe.yaml) is shown with it.
    Raises CompressError where the report breaks its contract; nothing is written then.
    """
    validate(report)
    roles = {row["stage"]: row["role"] for row in report["rows"]}
    recipe = run_folder / "recipe.yaml"
    text = recipe.read_text(encoding="utf-8") if recipe.is_file() else ""
    page = render(report, gather(run_folder, roles), text)
    write_json(run_folder / "report.json", report)
    path = run_folder / "report.html"
    with replaced(path) as beside:
        beside.write_text(page, encoding="utf-8")
    return path


def render(report: Mapping[str, Any], album: Album, recipe: str = "") -> str:
    """The page's HTML. recipe: the resolved recipe's text, shown as it is."""
    files = resources.files(__package__)
    source = {name: files.joinpath(name).read_text(encoding="utf-8") for name in ("page.html", "page.css")}
    page = Environment(
        loader=DictLoader(source), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page.filters |= {"thousands": "{:,}".format, "scientific": scientific, "title": metric_title, "code": _code}
    last, headline = report["rows"][-1], report.get("headline", "map50")
    return page.get_template("page.html").render(
        report={"blocks": [], "command": "", "date": "", "versions": {}, "hardware": {}, "notes": [], **report},
        style=Markup(source["page.css"]),
        lines=lines(report),
        explained=EXPLAINED,
        tiles=_tiles(report) if len(report["rows"]) > 1 else (),
        subsets=list(dict.fromkeys(name for row in report["rows"] for name in row["subsets"])),
        claims=_claims(report["rows"][0], last, headline),
        measured=measured(report),
        mark=synthetic_mark(report),
        channels=channel_chart(report["channels"]) if report["channels"] else "",
        moved=any(entry.get("deviation") is not None for entry in report["channels"]),
        counts={key: sum(entry[key] for entry in report["channels"]) for key in ("before", "after")},
        accuracy=score_chart(report["rows"], headline),
        speed=latency_chart(report["rows"]),
        rounds=report["rows"][0]["latency_ms"].get("rounds"),
        curves={_said(curves): curve_chart(curves) for name, curves in album.curves.items() if "/" not in name},
        classes=class_table(report, album.curves),
        trained="loss" in album.curves,
        headline=metric_title(headline),
        kept=_kept(report),
        scores=_scores(report),
        metrics=list(dict.fromkeys(name for row in report["rows"] for name in row["metrics"])),
        album=album,
        recipe=recipe,
    )


def _code(text: str) -> Markup:
    """Text with its `code` as HTML."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _said(curves: Mapping[str, Mapping[str, Any]]) -> str:
    """A caption: 'Precision over recall'."""
    one = next(iter(curves.values()))
    text = f"{one['ylabel']} over {one['xlabel']}"
    return text[:1].upper() + text[1:]


def _claims(first: Mapping[str, Any], last: Mapping[str, Any], headline: str) -> list[str]:
    """What the cut is worth, e.g. ['4.8× fewer parameters', '2.1× faster']; nothing where nothing got smaller."""
    pairs = [
        (first["params"], last["params"], "fewer parameters", "more parameters"),
        (first["macs"], last["macs"], "fewer multiply-adds", "more multiply-adds"),
        (first["latency_ms"]["median"], last["latency_ms"]["median"], "faster", "slower"),
    ]
    claims = []
    for before, after, better, worse in pairs:
        if before and after and not 0.95 < before / after < 1.05:
            factor = max(before / after, after / before)
            claims.append(f"{factor:.1f}× {better if before > after else worse}")
    after, before = last["metrics"][headline], first["metrics"][headline]
    return [*claims, f"{metric_title(headline)} {before:.3f} → {after:.3f}"] if claims else []


def _tiles(report: Mapping[str, Any]) -> list[Tile]:
    first, last = report["rows"][0], report["rows"][-1]
    tiles = []
    for name, key in (("Parameters", "params"), ("Multiply-adds", "macs")):
        text = partial(number, unit="", like=first[key])
        tiles.append(_tile(name, last[key], first[key], text))
    tiles.append(_tile("Latency", last["latency_ms"]["median"], first["latency_ms"]["median"], milliseconds))
    headline = report.get("headline", "map50")
    after, before = last["metrics"][headline], first["metrics"][headline]
    change = f"{after - before:+.4f}".replace("-", "−")
    share, share_before = (min(max(value, 0.0), 1.0) for value in (after, before))
    tiles.append(Tile(metric_title(headline), f"{after:.3f}", f"{before:.3f}", change, share, share_before))
    return tiles


def _tile(name: str, after: float, before: float, text: Callable[[float], str]) -> Tile:
    most = max(after, before) or 1
    return Tile(name, text(after), text(before), percent(after, before), after / most, before / most)


def _kept(report: Mapping[str, Any]) -> list[tuple[str, str, list[str]]]:
    """(by, reason, groups) of everything that stayed whole, the most frequent reason first.

    Reasons that differ in their numbers only are one: 'its output is added by shortcut 4, 8, 15'.
    """
    reasons: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
    for entry in report["frozen"]:
        said, groups = reasons.setdefault((entry["by"], NUMBER.sub("#", entry["reason"])), ([], []))
        said.append(entry["reason"])
        groups.append(entry["group"])
    ranked = sorted(reasons.items(), key=lambda item: -len(item[1][1]))
    return [(by, _in_one(said), groups) for (by, _), (said, groups) in ranked]


def _in_one(texts: list[str]) -> str:
    """Texts that differ in their numbers only, as one: each number in it stands for all at its place."""
    columns = zip(*(NUMBER.findall(text) for text in texts), strict=True)
    listed = [list(dict.fromkeys(column)) for column in columns]
    shown = iter(", ".join([*each[:NAMED], *(["…"] if len(each) > NAMED else [])]) for each in listed)
    return NUMBER.sub(lambda _: next(shown), texts[0])


def _scores(report: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, float]]]:
    """(network, part of the data, metrics) of every network on everything and on each subset."""
    scores: list[tuple[str, str, Mapping[str, float]]] = []
    parts = list(dict.fromkeys(name for row in report["rows"] for name in row["subsets"]))
    for part in ("", *parts):
        for row in report["rows"]:
            metrics = row["subsets"].get(part, {}) if part else row["metrics"]
            if metrics:
                scores.append((TITLES[row["role"]], part, metrics))
    return scores
