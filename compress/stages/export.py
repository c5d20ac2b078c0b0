"""A network in, files in other formats out, each proven to compute the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from ..files import replaced_folder
from ..options import Uses
from .network import open_network
from .stage import Context, Stage, start_mistakes

if TYPE_CHECKING:
    from ..registry import Registry


class Export(Stage):
    """Writes a network in other formats, one folder each, and reads it back to compare.

    formats: what to write. start: whose network to write: `previous` (the last one), `fresh` or an earlier stage's id.
    """

    name = "export"

    formats: Annotated[list[str | dict[str, Any]], Uses("exporters")]
    start: str = "previous"

    def run(self, context: Context) -> Mapping[str, Any]:
        model = open_network(context, self.start).model.eval()
        written = {}
        for wanted in self.formats:
            exporter = context.registry.make("exporters", wanted)
            with replaced_folder(context.folder / exporter.name) as folder:
                written[exporter.name] = dict(exporter.export(model, context.example(), folder))
            said = f"{context.folder / exporter.name}, largest difference {written[exporter.name]['max_abs']:.1e}"
            context.progress.say(f"{context.id}: {exporter.name} written to {said}")
        return {"formats": written}

    def mistakes(self, earlier: Sequence[tuple[str, Stage]], registry: Registry) -> Iterable[tuple[str, str]]:
        yield from start_mistakes(self.start, earlier)
        if not self.formats:
            yield "formats", "names no format"
