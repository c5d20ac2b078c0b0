"""How far long work has come in, a bar with the time left on a terminal - or plain lines elsewhere - out."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TextIO


class Advance(Protocol):
    """Tell the bar that `n` more are done, and what there is to say about it."""

    def __call__(self, n: int, note: str = "") -> None: ...


@dataclass(frozen=True)
class Progress:
    """Says on `stream` what happens: lines by `say`, long work by `bar`. file: where every line is kept as well.

    every: seconds between two lines of the same work where `stream` is no terminal.
    """

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    file: Path | None = None
    every: float = 15.0

    def say(self, line: str) -> None:
        """One line, now."""
        print(line, file=self.stream, flush=True)
        if self.file is not None:
            with open(self.file, "a", encoding="utf-8") as kept:
                kept.write(f"{time.strftime('%H:%M:%S')} {line}\n")

    @contextmanager
    def bar(self, label: str, total: int, done: int = 0) -> Iterator[Advance]:
        """Work of `total` pieces of which `done` are done already; yields what to call after each piece."""
        yield from self._terminal(label, total, done) if self.stream.isatty() else self._plain(label, total, done)

    def _terminal(self, label: str, total: int, done: int) -> Iterator[Advance]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("[dim]{task.fields[note]}"),
        )
        console = Console(file=self.stream)
        with Bars(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as bars:
            bar = bars.add_task(label, total=total, completed=done, note="")

            def advance(n: int, note: str = "") -> None:
                bars.update(bar, advance=n, note=note)

            yield advance

    def _plain(self, label: str, total: int, done: int) -> Iterator[Advance]:
        began, before = time.monotonic(), done
        spoke = began

        def advance(n: int, note: str = "") -> None:
            nonlocal done, spoke
            done += n
            now = time.monotonic()
            if now - spoke >= self.every and done < total:
                spoke = now
                left = (now - began) / (done - before) * (total - done)
                self.say(f"{label}: {done}/{total}, {clock(left)} left{', ' if note else ''}{note}")

        yield advance


def clock(seconds: float) -> str:
    """Seconds as 0:07, 12:34 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def rate() -> Callable[[int], float]:
    """A function that takes how many were done and returns how many a second, smoothed over the last few seconds."""
    marks: list[tuple[float, int]] = [(time.monotonic(), 0)]

    def tell(n: int) -> float:
        marks.append((time.monotonic(), marks[-1][1] + n))
        while len(marks) > 2 and marks[-1][0] - marks[0][0] > 10:
            del marks[0]
        return (marks[-1][1] - marks[0][1]) / max(marks[-1][0] - marks[0][0], 1e-9)

    return tell
