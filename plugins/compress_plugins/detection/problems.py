"""What was wrong with a dataset and survived: mistakes by kind in, one line a kind out."""

from __future__ import annotations

from dataclasses import dataclass, field

NAMED = 3  # names that a line spells out


@dataclass(frozen=True)
class Problems:
    """Mistakes found so far: what is wrong -> the names of the files (one entry a mistake)."""

    found: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, name: str, times: int = 1) -> None:
        """kind: reads on after a number, e.g. "images cannot be read and are left out"."""
        if times:
            self.found.setdefault(kind, []).extend([name] * times)

    def lines(self) -> tuple[str, ...]:
        """ "3 images cannot be read and are left out: a.jpg, b.jpg, c.jpg", one a kind, in the order of discovery."""
        return tuple(f"{len(names)} {kind}: {_some(names)}" for kind, names in self.found.items())


def _some(names: list[str]) -> str:
    different = sorted(set(names))
    rest = len(different) - NAMED
    return ", ".join(different[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
