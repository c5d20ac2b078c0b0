"""What plugins registered: names in, classes and ready objects out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checking import check
from .errors import CompressError, nearest

if TYPE_CHECKING:
    from .options import Plugin
    from .pruning.compensation import Compensation
    from .pruning.criteria import Criterion
    from .pruning.policy import GroupPolicy
    from .stages.exporter import Exporter
    from .stages.stage import Stage
    from .training.architecture import Architecture
    from .training.dataset import Dataset
    from .training.distillation import Distillation
    from .training.regularizers import Regularizer
    from .training.task import Task

DISABLE = "COMPRESS_DISABLE_PLUGINS"


@dataclass(frozen=True)
class Kind:
    """One sort of thing that plugins register.

    field: its name in Registry. interface: "module:class" that its classes extend, "" for any callable.
    """

    field: str
    hook: str
    interface: str
    singular: str


KINDS = (
    Kind("criteria", "compress_register_criteria", "pruning.criteria:Criterion", "criterion"),
    Kind("regularizers", "compress_register_regularizers", "training.regularizers:Regularizer", "regularizer"),
    Kind("distillations", "compress_register_distillations", "training.distillation:Distillation", "distillation"),
    Kind("compensations", "compress_register_compensations", "pruning.compensation:Compensation", "compensation"),
    Kind("op_rules", "compress_register_op_rules", "", "op rule"),
    Kind("policies", "compress_register_group_policies", "pruning.policy:GroupPolicy", "policy"),
    Kind("architectures", "compress_register_models", "training.architecture:Architecture", "model"),
    Kind("datasets", "compress_register_datasets", "training.dataset:Dataset", "dataset"),
    Kind("tasks", "compress_register_tasks", "training.task:Task", "task"),
    Kind("stages", "compress_register_stages", "stages.stage:Stage", "stage"),
    Kind("exporters", "compress_register_exporters", "stages.exporter:Exporter", "exporter"),
    Kind("commands", "compress_register_commands", "", "command"),
)


@dataclass(frozen=True)
class Source:
    """Where a plugin comes from: the name of its entry point and its distribution with version, or a file."""

    name: str
    origin: str
    file: Path | None = None

    def __str__(self) -> str:
        return f"'{self.name}' of {self.origin}" if self.file is None else f"file {self.origin}"

    @property
    def cure(self) -> str:
        """What a user can do when it is in the way."""
        if self.file is not None:
            return "mend the file or take it out of the recipe's plugins"
        return f"mend or uninstall it, or switch it off: {DISABLE}={self.name}"


@cache
def _named(cls: type[Plugin], name: str) -> type[Plugin]:
    """The class under another name."""
    named: Any = type(cls.__name__, (cls,), {"name": name, "__doc__": cls.__doc__, "__module__": cls.__module__})
    return named


@dataclass(frozen=True)
class Registry:
    """Everything that plugins registered, by name.

    hook: pluggy's relay; `hook.compress_stage_started(run=..., stage=...)` tells every observer.
    owners: (kind, name) -> who registered it. problems: one line for each plugin that could not be loaded.
    files: path of each local plugin file -> sha256 of its content.
    """

    criteria: Mapping[str, type[Criterion]]
    regularizers: Mapping[str, type[Regularizer]]
    distillations: Mapping[str, type[Distillation]]
    compensations: Mapping[str, type[Compensation]]
    op_rules: Mapping[str, Any]
    policies: Mapping[str, type[GroupPolicy]]
    architectures: Mapping[str, type[Architecture]]
    datasets: Mapping[str, type[Dataset]]
    tasks: Mapping[str, type[Task]]
    stages: Mapping[str, type[Stage]]
    exporters: Mapping[str, type[Exporter]]
    commands: Mapping[str, Any]
    hook: Any
    owners: Mapping[tuple[str, str], Source]
    problems: tuple[str, ...] = ()
    files: Mapping[Path, str] = field(default_factory=dict)

    def find(self, kind: str, name: str) -> Any:
        """The class of that kind (a field of Registry) and name. Raises CompressError naming the nearest one.

        One that is registered as `family/` stands for every name that begins so: `family/one` is a class of that name.
        """
        known: Mapping[str, Any] = getattr(self, kind)
        family, slash, member = name.partition("/")
        if name not in known and slash and member and f"{family}/" in known:
            return _named(known[f"{family}/"], name)
        if name not in known:
            singular = next(k.singular for k in KINDS if k.field == kind)
            hint = nearest(name, known) or "; no plugin registers any"
            raise CompressError(f"no {singular} is called '{name}'{hint}")
        return known[name]

    def make(self, kind: str, value: str | Mapping[str, Any] | Plugin, **given: Any) -> Any:
        """The object that `name` or `{uses: name, option: value}` speaks of; `given` fills in options it leaves open.

        Raises CompressError, one line a mistake, for an unknown name and for options that do not fit.
        """
        if not isinstance(value, str | Mapping):
            return value
        options = dict(value) if isinstance(value, Mapping) else {"uses": value}
        name = options.pop("uses", None)
        if not isinstance(name, str):
            raise CompressError(f"expected a name or a mapping with `uses: name`, got {value!r}")
        made, mistakes = check(self.find(kind, name), {**given, **options})
        if mistakes:
            raise CompressError("\n".join(mistake.message for mistake in mistakes))
        return made
