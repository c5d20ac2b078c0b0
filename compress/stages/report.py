"""What the stages found in, report.json, its page and the table on the terminal out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CompressError
from ..training.progress import Progress
from .evaluation import Evaluate
from .lock import read_lock
from .prune import Prune
from .stage import Context, Stage

if TYPE_CHECKING:
    from ..registry import Registry


class Report(Stage):
    """Writes report.json and report.html into the run's folder and prints the table."""

    name = "report"

    def run(self, context: Context) -> Mapping[str, Any] | None:
        from ..report import table, write

        report = assemble(context)
        page = write(context.run, report)
        print(table(report), flush=True)
        context.progress.say(f"{context.id}: {page}")
        return None

    def mistakes(self, earlier: Sequence[tuple[str, Stage]], registry: Registry) -> Iterable[tuple[str, str]]:
        if not any(isinstance(stage, Evaluate) for _, stage in earlier):
            yield "uses", "a report needs a stage with `uses: evaluate` before it"


def rebuild(run: Path) -> tuple[dict[str, Any], Path, str]:
    """report.json and report.html of a run written anew; the report, the page and the table.

    What its stages found is read from its folder. Where a report was written already, its facts on data and machine are
    kept and the data is not opened; a run without one needs its data once more. Raises CompressError where no stage
    with `uses: evaluate` has finished.
    """
    from ..report import table, write
    from .named import finished
    from .run import open_data

    recipe, done = finished(run)
    if not any(isinstance(stage, Evaluate) for _, stage in done):
        raise CompressError(f"{run}: nothing to report: no stage with `uses: evaluate` has finished there")
    written = run / "report.json"
    if written.is_file():
        try:
            report = json.loads(written.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CompressError(f"{written}: not JSON: {error}; remove it, and it is made from the stages") from None
    else:
        progress = Progress()
        report = assemble(Context("report", run, done, recipe, open_data(recipe, progress), "cpu", progress))
    return report, write(run, report), table(report)


def assemble(context: Context) -> dict[str, Any]:
    """report.json of the stages before this one, as DESIGN's contract and `compress.report.validate` have it."""
    recipe, data, lock = context.recipe, context.data, read_lock(context.run)
    cuts = [context.facts(id) for id, stage in context.earlier if isinstance(stage, Prune)]
    evaluated = [context.facts(id) for id, stage in context.earlier if isinstance(stage, Evaluate)]
    return {
        "schema": 1,
        "name": recipe.name,
        "profile": recipe.profile,
        "seed": recipe.seed,
        "data": {
            "name": data.name,
            "synthetic": data.synthetic,
            "train": len(data.train),
            "val": len(data.val),
            "fingerprint": data.fingerprint,
        },
        "rows": evaluated[-1]["rows"],
        "channels": channels_of(cuts),
        "blocks": [block for cut in cuts for block in cut.get("blocks", ())],
        "frozen": cuts[-1]["frozen"] if cuts else [],
        "verification": cuts[-1]["verification"] if cuts else None,
        "headline": recipe.task.headline,
        "image_size": list(data.image_size),
        "command": lock["command"],
        "date": lock["started"],
        "versions": lock["versions"],
        "hardware": lock["hardware"],
        "notes": [*lock["notes"], *data.problems],
    }


def channels_of(cuts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Channels of each layer before the first cut and after the last, and how far the last one moved it."""
    layers: dict[str, dict[str, Any]] = {}
    for cut in cuts:
        for row in cut["channels"]:
            layers.setdefault(row["layer"], dict(row)).update(after=row["after"], deviation=row.get("deviation"))
    return list(layers.values())
