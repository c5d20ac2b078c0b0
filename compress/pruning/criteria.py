"""A criterion says how much each unit of a group matters; the core puts together what the places say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from ..errors import CompressError, nearest
from ..options import Plugin
from .aggregate import aggregate

if TYPE_CHECKING:
    from ..graph.blocks import Block
    from ..graph.graph import Group
    from .calibration import Calibration

Aggregation = Literal["sum", "mean", "max", "first"]
Normalization = Literal["none", "sum", "mean", "max", "size", "standardize", "gaussian", "lamp"]


@dataclass(frozen=True)
class Part:
    """One place - a dimension of a parameter, never a running statistic - in which a group's units occur.

    tensor: the whole parameter; a vector comes as a column (n, 1), so that `flatten(1)` works on every part, and
    integers come as float32. dim: which of its dimensions carries the units, n = tensor.shape[dim]. name: its
    state-dict name. module: the module that owns it, None where the model is gone and only its weights were given.
    grad: the loss's mean gradient in the tensor's shape, where the criterion needs gradients and this parameter got
    one. role: `out` (a layer's output channels), `in` (its input channels), `norm` (a norm's scale or shift), `bias`,
    `other`. observed: what the criterion's `observe` found for this parameter, as it was returned; None where nothing.
    """

    tensor: Tensor
    dim: int
    name: str
    module: nn.Module | None
    role: str
    grad: Tensor | None = field(default=None)
    observed: Any = field(default=None)


class Criterion(Plugin):
    """Scores units: the lower, the earlier a unit goes.

    Implement `score` (one place at a time) or override `score_group` (the whole group at once). A group about which
    the criterion says nothing stays whole. Every criterion has two options, which a subclass may give other defaults:

    aggregate: how a unit's scores in several places become one: their `sum`, `mean` or `max`, or the `first`, that of
    the layer that makes the unit. (A whole group's scores are left as they are.)
    normalize: what makes the units of different groups comparable, for scope `global`. Each group's scores s become:
    `none` s; `sum` s / sum(s); `mean` s / mean(s); `max` s / max(s); `size` s / weights that a unit has;
    `standardize` (s - min) / (max - min); `gaussian` (s - mean) / standard deviation; `lamp` s / sum of all that are
    no smaller. DepGraph (Fang et al., CVPR 2023, section 3.3) calls these reduction and normaliser.
    """

    needs_gradients: ClassVar[bool] = False
    """True where `Part.grad` is used: then `plan` must be given `calibration` batches and a `loss`."""

    needs_weights: ClassVar[bool] = True
    """False where of `Part.tensor` only its shape is used: it then comes on the meta device, and nothing is loaded."""

    needs_batches: ClassVar[bool] = False
    """True where `observe` is implemented: then `plan` must be given `calibration` batches."""

    by_sample: ClassVar[bool] = False
    """True where each calibration batch should be one sample; a recipe then makes them so."""

    aggregate: Aggregation = "sum"
    normalize: Normalization = "none"

    def observe(self, model: nn.Module, calibration: Calibration) -> Mapping[str, Any]:
        """Run the model on the batches: parameter name -> what `score` is given as `Part.observed`.

        model: a copy in eval mode, whose parameters require gradients; nothing done to it outlasts the call.
        """
        raise NotImplementedError(f"{type(self).__name__} needs batches and must implement observe(model, calibration)")

    def score(self, part: Part) -> Tensor | None:
        """Scores of the n = part.tensor.shape[part.dim] indices of one place, shape (n,), or None to say nothing."""
        raise NotImplementedError(f"{type(self).__name__} must implement score(part) or score_group(group, parts)")

    def score_group(self, group: Group, parts: list[Part]) -> Tensor | None:
        """Scores of the group's units, shape (group.size,), or None to leave it to `score`."""
        return None

    def score_block(self, block: Block, parts: list[Part]) -> float | None:
        """How much a residual branch matters, comparable with the scores of units; None: it stays.

        parts: the places that make the branch's output, the last layer's channels and the norm behind it. By default
        the mean of their `score`, put together as `aggregate` says: for `bn-gamma` the mean |gamma| of the last
        BatchNorm. A criterion that scores whole groups only says nothing unless it implements this.
        """
        if type(self).score is Criterion.score:
            return None
        makers_first = sorted(parts, key=lambda part: part.role != "out")
        said = [scores for part in makers_first if (scores := self.score(part)) is not None]
        if not said:
            return None
        return aggregate([scores.double().mean().reshape(1).cpu().numpy() for scores in said], self.aggregate).item()


def find_criterion(criterion: str | Mapping[str, Any] | Criterion) -> Criterion:
    """The criterion object: the one given, or the registered one of that name, or of {"uses": name, option: value}.

    Raises CompressError where no criterion of that name is registered, it needs options, or those given do not fit.
    """
    if isinstance(criterion, Criterion):
        return criterion
    if isinstance(criterion, type) and issubclass(criterion, Criterion):
        raise CompressError(f"criterion: expected an object, found a class; write {criterion.__name__}()")
    from ..plugins import installed

    if isinstance(criterion, Mapping):
        return installed().make("criteria", criterion)
    if not isinstance(criterion, str):
        raise CompressError(f"criterion: expected a registered name or a Criterion, found {type(criterion).__name__}")
    registered = installed().criteria
    if criterion not in registered:
        raise CompressError(f"criterion '{criterion}' is not registered{nearest(criterion, registered)}")
    try:
        return registered[criterion]()
    except TypeError as error:
        raise CompressError(f"criterion '{criterion}' needs options ({error}); give an object") from error


def describe(plugin: Plugin) -> str | dict[str, Any]:
    """A plugin as a recipe would name it: its name, or {"uses": name, option: value} where it has options."""
    options = {option.name: getattr(plugin, option.name) for option in fields(plugin)}  # type: ignore[arg-type]
    return {"uses": plugin.name, **_plain(options)} if options else plugin.name


def _plain(value: Any) -> Any:
    """An option as JSON has it; what JSON does not know, such as a path, as text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)
