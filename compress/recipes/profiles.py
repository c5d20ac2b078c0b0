"""What the machine and the disk hold in, the profile and the data of a run out, each with a line that says why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from .check import Checked
from .mistakes import Mistake, Place
from .nodes import Node

AUTO = "auto"
FULL, QUICK = "full", "quick"


@dataclass(frozen=True)
class Draft:
    """A recipe with one profile and the command line laid over it. mistakes: everything wrong with it."""

    tree: Node
    checked: Checked
    mistakes: tuple[Mistake, ...]

    def place(self, key: str) -> Place:
        """Where a top-level key's value was written."""
        return self.tree.at((key,))


def choose(drafts: Mapping[str, Draft]) -> tuple[str, list[str]]:
    """The profile that `auto` means: `full` on a GPU with its data there, else `quick`; and the line that says so.

    drafts: profile -> the recipe with it. A recipe with neither profile is taken as it is written, "".
    """
    if FULL not in drafts and QUICK not in drafts:
        return "", []
    full, other = (name if name in drafts else "" for name in (FULL, QUICK))
    gpu = cuda()
    lacking = _lacking(drafts[full], gpu)
    if lacking is None:
        return full, [f"profile {full or '(the recipe as written)'}: this machine has a GPU ({gpu}) and its data"]
    hint = f"; the full one: --profile {full}" if full else ""
    return other, [f"profile {other or '(the recipe as written)'}: {lacking}{hint}"]


def settle_data(draft: Draft, overridden: bool) -> tuple[Checked, list[str], list[Mistake]]:
    """The recipe with data that is there - its fallback where its own is not - with a line to say so, or a mistake.

    overridden: the user chose the data on the command line, so nothing may take its place.
    """
    checked = draft.checked
    missing = checked.data.available()
    if missing is None:
        return checked, [], []
    if checked.fallback_data is None or overridden:
        return checked, [], [Mistake(draft.place("data"), missing)]
    missing_too = checked.fallback_data.available()
    if missing_too is not None:
        both = f"{missing}; and of its fallback: {missing_too}"
        return checked, [], [Mistake(draft.place("data"), both)]
    note = f"data {checked.fallback_data.name} in place of {checked.data.name}: {missing}"
    return replace(checked, data=checked.fallback_data), [note], []


def cuda() -> str | None:
    """The name of the GPU that torch can use, None without one."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _lacking(draft: Draft, gpu: str | None) -> str | None:
    """What the full profile lacks here, None for nothing."""
    if draft.checked.device == "cpu":
        return "the device is to be the CPU"
    if gpu is None:
        return "no GPU (CUDA) here"
    if draft.mistakes or draft.checked.data is None:
        return "the full profile has mistakes"
    missing = draft.checked.data.available()
    return f"the full profile's data is missing ({missing})" if missing else None
