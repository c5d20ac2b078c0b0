"""A network in, files in other formats out, each proven to compute the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from torch import Tensor, nn

from ..files import replaced_folder
from ..options import Uses
from .network import open_network
from .stage import Context, Stage, start_mistakes

if TYPE_CHECKING:
    from ..registry import Registry
    from .exporter import Exporter


def write_formats(
    model: nn.Module, example: Tensor, exporters: Sequence[Exporter], folder: Path, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Write a network in several formats, a folder each, and say so; what each exporter returned, by its name."""
    written = {}
    for exporter in exporters:
        place = folder / exporter.name
        with replaced_folder(place) as beside:
            written[exporter.name] = dict(exporter.export(model, example, beside))
        say(f"{exporter.name} written to {place}, largest difference {written[exporter.name]['max_abs']:.1e}")
    return written


class Export(Stage):
    """Writes a network in other formats, one folder each, and reads it back to compare.

    formats: what to write. start: whose network to write: `previous` (the last one), `fresh` or an earlier stage's id.
    """

    name = "export"

    formats: Annotated[list[str | dict[str, Any]], Uses("exporters")]
    start: str = "previous"

    def run(self, context: Context) -> Mapping[str, Any]:
        model = open_network(context, self.start).model.eval()
        exporters = [context.registry.make("exporters", wanted) for wanted in self.formats]

        def say(line: str) -> None:
            context.progress.say(f"{context.id}: {line}")

        return {"formats": write_formats(model, context.example(), exporters, context.folder, say)}

    def mistakes(self, earlier: Sequence[tuple[str, Stage]], registry: Registry) -> Iterable[tuple[str, str]]:
        yield from start_mistakes(self.start, earlier)
        if not self.formats:
            yield "formats", "names no format"
