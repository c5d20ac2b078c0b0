"""Names of models in, each cut in a process of its own with limits, results kept as JSON, the table of docs/zoo.md out.

python tests/zoo/zoo.py run torchvision            # what has no result yet, or an old one
python tests/zoo/zoo.py run torchvision 'resnet*'  # these, if their results are old
python tests/zoo/zoo.py run torchvision --failed   # only what failed last time
python tests/zoo/zoo.py table                      # docs/zoo.md from the results
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import hashlib
import importlib
import importlib.metadata
import json
import multiprocessing
import os
import resource
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = ROOT / "build" / "zoo"
SOURCES = ("torchvision", "timm", "ultralytics", "huggingface")
"""Each has a module `<source>_models.py` here with `names()` and `build(name) -> (model, example inputs)`."""


def key(source: str, tool: str) -> str:
    """What a result depends on: the code of the core and of the zoo, or Torch-Pruning's version."""
    files = [HERE / f"{source}_models.py"]
    if tool != "torch-pruning":
        files += [*sorted((ROOT / "compress/graph").rglob("*.py")), *sorted((ROOT / "compress/pruning").rglob("*.py"))]
    digest = hashlib.sha256(importlib.metadata.version("torch-pruning").encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def load(results: Path, source: str, name: str, tool: str) -> dict[str, Any] | None:
    path = results / source / f"{name.replace('/', '~')}.{tool}.json"
    return json.loads(path.read_text()) if path.exists() else None


@functools.cache
def server(source: str) -> Any:
    """Where processes come from that have imported everything already."""
    known = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = f"{HERE}{os.pathsep}{known}" if known else str(HERE)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["attempt", f"{source}_models"])
    return context


def attempt(source: str, name: str, tool: str, seconds: int, gib: float) -> dict[str, Any]:
    """One model in a process of its own; a crash, a hang or too much memory is a result."""
    receiver, sender = server(source).Pipe(duplex=False)
    process = server(source).Process(target=_examine, args=(sender, source, name, tool, int(gib * 2**30)), daemon=True)
    process.start()
    sender.close()
    try:
        if receiver.poll(seconds):
            return receiver.recv()
        return {"status": "failed", "why": f"not done after {seconds} s"}
    except EOFError:
        process.join()
        return {"status": "failed", "why": f"the process ended with {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def _examine(sender: Any, source: str, name: str, tool: str, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    sender.send(importlib.import_module("attempt").examine(source, name, tool))


def run(options: argparse.Namespace) -> None:
    """Bring the results of a source up to date, one model at a time."""
    sys.path.insert(0, str(HERE))
    known = importlib.import_module(f"{options.source}_models").names()
    chosen = [name for name in known if any(fnmatch.fnmatchcase(name, glob) for glob in options.models)]
    for name in chosen:
        for tool in options.tools:
            now, last = key(options.source, tool), load(options.results, options.source, name, tool)
            if last is not None and (last["key"] == now or (options.failed and passed(last))):
                continue
            found = {"key": now, **attempt(options.source, name, tool, options.seconds, options.gib)}
            path = options.results / options.source / f"{name.replace('/', '~')}.{tool}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found, indent=1))
            print(f"{name:<40} {tool:<14} {line(found)}", flush=True)


def passed(found: dict[str, Any]) -> bool:
    """Cut and right: nothing failed, the oracle agrees, and verification had to freeze nothing."""
    return found["status"] == "ok" and not found.get("by_verification")


def line(found: dict[str, Any]) -> str:
    if found["status"] != "ok":
        return f"FAILED {found['why']}"
    frozen = len(found.get("by_verification", ()))
    return f"left {found['left']:.3f}  oracle {found['oracle']}  {found['seconds']:.1f} s  " + (
        f"{frozen} FROZEN BY VERIFICATION" if frozen else ""
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    commands = parser.add_subparsers(required=True)
    runner = commands.add_parser("run", help="cut models and keep what came out")
    runner.add_argument("source", choices=SOURCES)
    runner.add_argument("models", nargs="*", default=["*"], help="globs over names")
    runner.add_argument("--tools", nargs="+", default=["compress"], choices=["compress", "inside", "torch-pruning"])
    runner.add_argument("--failed", action="store_true", help="leave out what passed last time")
    runner.add_argument("--seconds", type=int, default=600, help="time limit of each attempt")
    runner.add_argument("--gib", type=float, default=10, help="memory limit of each attempt")
    runner.set_defaults(do=run)
    writer = commands.add_parser("table", help="write docs/zoo.md")
    writer.set_defaults(do=write_table)
    options = parser.parse_args()
    options.do(options)


def write_table(options: argparse.Namespace) -> None:
    from table import page

    sys.path.insert(0, str(HERE))
    results: dict[str, Any] = {source: {} for source in SOURCES}
    known = {source: len(importlib.import_module(f"{source}_models").names()) for source in SOURCES}
    for source in SOURCES:
        for path in sorted((options.results / source).glob("*.compress.json")):
            name = path.name.removesuffix(".compress.json").replace("~", "/")
            tools = ("compress", "inside", "torch-pruning")
            results[source][name] = {tool: load(options.results, source, name, tool) for tool in tools}
    (ROOT / "docs" / "zoo.md").write_text(page(results, known, {source: key(source, "compress") for source in SOURCES}))


if __name__ == "__main__":
    main()
