"""`compress report`: a run in, its report.json and its page made anew out."""

from __future__ import annotations

import json

from .arguments import AsJson, RunFolder


def report(run: RunFolder, as_json: AsJson = False) -> None:
    """Make a run's report and its page again, from what its stages found; nothing is measured.

    For a run without a report stage, for one that was stopped before it, or for pages that an older version made.
    """
    from ..stages.report import rebuild

    content, page, table = rebuild(run)
    print(json.dumps(content, indent=2) if as_json else f"{table}\n{page}")
