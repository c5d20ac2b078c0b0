"""Measured rows in; the tables and pictures of docs/comparisons.md out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kept import PAGE, REMOVED, WHOLE, Row, find_rows, spread

from compress import CompressError

DRAWN = "bn-gamma"
"""The criterion whose compensations are drawn."""


def put_on_page(kind: str, tables: str) -> None:
    """Replace what stands on the page between the two marks of a kind."""
    page = PAGE.read_text(encoding="utf-8")
    before, opening, rest = page.partition(f"<!-- {kind}: made by benchmarks/{kind}.py write -->\n")
    _, closing, after = rest.partition(f"<!-- end of {kind} -->\n")
    if not (opening and closing):
        raise CompressError(f"{PAGE}: the marks around the tables of {kind} are missing")
    PAGE.write_text(f"{before}{opening}\n{tables.rstrip()}\n\n{closing}{after}", encoding="utf-8")


def compensation_tables(rows: Sequence[Row]) -> str:
    """A table a network and criterion: a line a compensation, a column a budget; then what failed, and why."""
    parts = []
    for network in distinct(rows, "network"):
        mine = find_rows(rows, {"network": network})
        whole = find_rows(mine, {"compensation": WHOLE})[0]
        parts.append(f"**{network}**: mAP@0.5 {whole['map50']:.3f} at {whole['macs'] / 1e6:,.0f} M multiply-adds\n")
        cut = [row for row in mine if row["compensation"] not in (WHOLE, REMOVED)]
        keeps = sorted({row["keep"] for row in cut}, reverse=True)
        lines = ["| criterion | given back | " + " | ".join(f"{keep:.0%}" for keep in keeps) + " |"]
        lines.append("| --- | --- |" + " ---: |" * len(keeps))
        for criterion in distinct(cut, "criterion"):
            of_it = find_rows(cut, {"criterion": criterion})
            best = {keep: max(map(score, find_rows(of_it, {"keep": keep})), default=0.0) for keep in keeps}
            for compensation in distinct(of_it, "compensation"):
                cells = [cell(find_rows(of_it, {"compensation": compensation, "keep": k}), best[k]) for k in keeps]
                lines.append(f"| {criterion} | {compensation} | {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
        parts += failures(cut, ("criterion", "compensation"), "keep")
        goes = sorted(find_rows(mine, {"compensation": REMOVED}), key=lambda row: -row["keep"])
        parts += [removed_line(row) for row in goes if "failed" not in row] + [""]
    return "\n".join(parts)


def removed_line(row: Row) -> str:
    """What `bn-gamma` takes for one budget, as an item of a list."""
    silent = f"{row['silent'] / row['channels']:.0%} of them with |gamma| below 0.01"
    carriers = f"`fold-exact` keeps {row['carriers']}, {row['carriers_macs']:.1%} of the multiply-adds"
    return f"- {row['keep']:.0%} left: {row['channels']:,} channels go, {silent}; {carriers}"


def cell(found: Sequence[Row], best: float) -> str:
    """One mAP, bold where none of the criterion and budget is better; - where the cut failed."""
    if not found:
        return ""
    if "failed" in found[0]:
        return "-"
    value = f"{found[0]['map50']:.3f}"
    return f"**{value}**" if value == f"{best:.3f}" and best >= 0.0005 else value


def score(row: Row) -> float:
    return float(row.get("map50", 0.0))


def failures(rows: Sequence[Row], what: Sequence[str], where: str) -> list[str]:
    """A line for each reason: what failed with it, and at which values of `where`."""
    reasons: dict[tuple[str, str], list[Any]] = {}
    for row in rows:
        if "failed" in row:
            key = (", ".join(str(row[name]) for name in what), row["failed"])
            reasons.setdefault(key, []).append(row[where])
    return [
        f"- {name} ({where} {', '.join(str(place) for place in sorted(set(places)))}): {why}\n"
        for (name, why), places in reasons.items()
    ]


def criteria_tables(rows: Sequence[Row]) -> str:
    """A table a recipe and scope: a line a criterion, best after fine-tuning first, with the spread over the seeds."""
    parts = []
    for recipe in distinct(rows, "recipe"):
        mine = find_rows(rows, {"recipe": recipe})
        whole = find_rows(mine, {"criterion": WHOLE})
        seeds = len({row["seed"] for row in whole})
        size = f"{whole[0]['params']:,} parameters, {whole[0]['macs']:,} multiply-adds"
        parts.append(f"**{recipe}**, {seeds} seeds; whole: {size}; {means(whole, 'before')}, ")
        parts[-1] += f"{means(whole, 'after')} after the fine-tuning of the others. "
        parts[-1] += f"Settings: `{' '.join(whole[0]['settings'])}`\n"
        cut = [row for row in mine if row["criterion"] != WHOLE]
        for scope in distinct(cut, "scope"):
            for keep in sorted({row["keep"] for row in cut}, reverse=True):
                here = find_rows(cut, {"scope": scope, "keep": keep})
                if here:
                    parts += [f"Scope `{scope}`, {keep:.0%} of the multiply-adds left:\n", criteria_table(here, seeds)]
                    parts += failures(here, ("criterion",), "seed")
    return "\n".join(parts)


def criteria_table(rows: Sequence[Row], seeds: int) -> str:
    """A line a criterion; what has not yet been measured, or fails, with some seeds says with how many it was."""
    lines = ["| criterion | before fine-tuning | after |", "| --- | ---: | ---: |"]
    names = distinct(rows, "criterion")
    by_name = {name: [row for row in find_rows(rows, {"criterion": name}) if "failed" not in row] for name in names}
    for name in sorted(names, key=lambda name: -average(by_name[name], "after")):
        found = by_name[name]
        cells = [means(found, "before"), means(found, "after")] if found else ["fails", ""]
        fewer = f" ({len(found)} of {seeds} seeds)" if 0 < len(found) < seeds else ""
        lines.append(f"| {name}{fewer} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def means(rows: Sequence[Row], key: str) -> str:
    return spread([row[key] for row in rows])


def average(rows: Sequence[Row], key: str) -> float:
    return sum(row[key] for row in rows) / len(rows) if rows else -1.0


def distinct(rows: Sequence[Row], key: str) -> list[Any]:
    """The values of a key, in the order in which they come."""
    return list(dict.fromkeys(row[key] for row in rows if key in row))


def compensation_picture(rows: Sequence[Row], file: Path) -> None:
    """A panel a network: mAP@0.5 over the multiply-adds left, a line a compensation."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    networks = distinct(rows, "network")
    figure, panels = pyplot.subplots(1, len(networks), figsize=(4.6 * len(networks), 4.2), squeeze=False)
    for panel, network in zip(panels[0], networks, strict=True):
        mine = find_rows(rows, {"network": network})
        (whole,) = find_rows(mine, {"compensation": WHOLE})
        drawn = [row for row in find_rows(mine, {"criterion": DRAWN}) if "map50" in row]
        for number, name in enumerate(distinct(drawn, "compensation")):
            points = sorted((row["left"], row["map50"]) for row in find_rows(drawn, {"compensation": name}))
            dashed = name.startswith("Torch-Pruning")
            style: dict[str, Any] = {"linestyle": "--" if dashed else "-", "color": f"C{number}", "label": name}
            panel.plot(*zip(*points, (1.0, whole["map50"]), strict=True), marker="o", markersize=3, **style)
        panel.set(title=network, xlabel="multiply-adds left", ylim=(0, None))
        panel.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
        panel.invert_xaxis()
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("mAP@0.5, nothing trained after the cut")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=90, bbox_inches="tight")
    pyplot.close(figure)


def criteria_picture(rows: Sequence[Row], file: Path) -> None:
    """A panel a recipe, scope and budget: a line a criterion; hollow before, full after fine-tuning."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cut = [row for row in rows if row["criterion"] != WHOLE and "failed" not in row]
    places = sorted({(row["recipe"], row["scope"], row["keep"]) for row in cut}, key=lambda p: (p[0], p[1], -p[2]))
    tall = 0.22 * len(distinct(cut, "criterion")) + 1.2
    figure, panels = pyplot.subplots(len(places), 1, figsize=(7.5, tall * len(places)), squeeze=False)
    for panel, (recipe, scope, keep) in zip(panels[:, 0], places, strict=True):
        here = find_rows(cut, {"recipe": recipe, "scope": scope, "keep": keep})
        names = distinct(here, "criterion")
        names.sort(key=lambda name: average(find_rows(here, {"criterion": name}), "after"))
        for height, name in enumerate(names):
            for key, fill in (("before", "none"), ("after", "C0")):
                values = [row[key] for row in find_rows(here, {"criterion": name})]
                panel.plot([min(values), max(values)], [height, height], color="C0", alpha=0.5 if fill == "none" else 1)
                panel.plot(sum(values) / len(values), height, "o", markerfacecolor=fill, color="C0", markersize=5)
        whole = average(find_rows(rows, {"recipe": recipe, "criterion": WHOLE}), "before")
        panel.axvline(whole, color="grey", linewidth=1)
        panel.set_yticks(range(len(names)), names, fontsize=8)
        panel.set_title(f"{recipe}, scope {scope}, {keep:.0%} of the multiply-adds left", fontsize=10)
        panel.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=80, bbox_inches="tight")
    pyplot.close(figure)
