"""`compress compare`: finished runs in, what was done and what came out side by side out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import CompressError
from .arguments import AsJson, columns, say
from .completion import complete_runs

ABSENT = "-"


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN RUN...", help="Folders of finished runs.", autocompletion=complete_runs),
    ],
    as_json: AsJson = False,
) -> None:
    """Put finished runs side by side: the settings in which they differ, and every network's figures.

    Changes are against the first run. What makes figures not comparable - other data, another machine - is said.
    """
    if len(runs) < 2:
        raise CompressError("compress compare: give two runs or more; one alone: compress report RUN")
    names = _names(runs)
    reports = [_report(run) for run in runs]
    settings = differing([_settings(run) for run in runs])
    warnings = caveats(names, reports)
    if as_json:
        found = [
            {"run": str(run), "rows": report["rows"], "settings": {key: values[i] for key, values in settings.items()}}
            for i, (run, report) in enumerate(zip(runs, reports, strict=True))
        ]
        print(json.dumps({"runs": found, "caveats": warnings}, indent=2))
        return
    rows = [("", *names)]
    rows += [(key, *(_shown(value) for value in values)) for key, values in settings.items()]
    rows += [("",) * (1 + len(runs)), *figures(reports)]
    print(columns(rows, right=tuple(range(1, 1 + len(runs)))))
    say(tuple(f"warning: {line}" for line in warnings))


def _names(runs: Sequence[Path]) -> list[str]:
    """What to call each run: its folder's name, the whole path where two have one name."""
    short = [run.resolve().name for run in runs]
    return short if len(set(short)) == len(short) else [str(run) for run in runs]


def _report(run: Path) -> dict[str, Any]:
    file = run / "report.json"
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = "no report.json there" if isinstance(error, FileNotFoundError) else f"{file.name}: {error}"
        raise CompressError(f"{run}: {why}; expected a finished run, try: compress report {run}") from None


def _settings(run: Path) -> dict[str, Any]:
    """Every value of the run's resolved recipe by its dotted path, stages by their id."""
    from ..recipes.nodes import parse

    file = run / "recipe.yaml"
    try:
        recipe = parse(file.read_text(encoding="utf-8"), str(file), run)[0].plain()
    except OSError as error:
        raise CompressError(f"{file}: {error.strerror}; expected the folder of a run") from None
    recipe["stages"] = {stage["id"]: {k: v for k, v in stage.items() if k != "id"} for stage in recipe["stages"]}
    return dict(_leaves(recipe, ""))


def _leaves(value: Any, path: str) -> Any:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def differing(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The settings that are not the same everywhere: dotted path -> the value in each run, None where it has none."""
    paths = dict.fromkeys(path for each in settings for path in each)
    values = {path: [each.get(path) for each in settings] for path in paths}
    return {path: found for path, found in values.items() if any(value != found[0] for value in found[1:])}


def caveats(names: Sequence[str], reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """What makes the figures of two runs no fair comparison, one line each."""
    first, lines = reports[0], []
    for name, report in zip(names[1:], reports[1:], strict=True):
        if report["data"]["fingerprint"] != first["data"]["fingerprint"]:
            lines.append(f"{name} was measured on other data than {names[0]}; their accuracies are not comparable")
        if report.get("image_size") != first.get("image_size"):
            lines.append(f"{name} has another image size than {names[0]}")
        here, there = (_place(each) for each in (report, first))
        if here != there:
            lines.append(f"{name} was timed on {here}, {names[0]} on {there}; their latencies are not comparable")
    return lines


def _place(report: Mapping[str, Any]) -> str:
    latency = report["rows"][0]["latency_ms"]
    return f"{latency['device']} with {latency['threads']} threads"


def figures(reports: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row a figure of each role that a run has: its value in each run, with the change against the first run."""
    rows = []
    by_role = [{row["role"]: row for row in report["rows"]} for report in reports]
    for role in dict.fromkeys(role for rows_of in by_role for role in rows_of):
        found = [rows_of.get(role) for rows_of in by_role]
        for name, spelled, better in _kinds(found):
            values = [None if row is None else _value(row, name) for row in found]
            cells = [_cell(value, values[0], spelled, better) for value in values]
            cells[0] = _cell(values[0], None, spelled, better)
            rows.append((f"{role} {'.'.join(name[1:]) if name[0] != 'latency_ms' else 'latency'}", *cells))
    return rows


def _kinds(rows: Sequence[Mapping[str, Any] | None]) -> list[tuple[tuple[str, ...], str, bool]]:
    """(path in a row, how to write it, whether its change is a share) of every figure that one of the rows has."""
    kinds: list[tuple[tuple[str, ...], str, bool]] = [
        (("", "params"), "{:,}", True),
        (("", "macs"), "{:,}", True),
        (("", "bytes"), "{:,}", True),
        (("latency_ms", "median"), "{:.2f} ms", True),
    ]
    there = [row for row in rows if row is not None]
    metrics = dict.fromkeys(name for row in there for name in row["metrics"])
    return [*kinds, *((("metrics", name), "{:.4f}", False) for name in metrics)]


def _value(row: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    inside = row if path[0] == "" else row[path[0]]
    return inside.get(path[1])


def _cell(value: float | None, first: float | None, spelled: str, share: bool) -> str:
    if value is None:
        return ABSENT
    text = spelled.format(value)
    if first is None or (share and not first):
        return text
    change = f"{value / first - 1:+.1%}" if share else f"{value - first:+.4f}"
    return f"{text} ({change})"


def _shown(value: Any) -> str:
    text = ABSENT if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"...{text[-37:]}"
