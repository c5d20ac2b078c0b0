"""A network in training and a frozen teacher in, the losses of what the one shall take over from the other out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import CompressError, nearest
from ..graph.inputs import collect_tensors
from ..pruning.masked import copy_with
from .distillation import Answer, Distillation

if TYPE_CHECKING:
    from ..pruning.points import Kept
    from .task import Task

Features = dict[str, tuple[Tensor, ...]]


class Distiller:
    """A teacher beside a student; nothing stays hooked to either between two batches.

    student: the network in training, not what DDP, Fabric or torch.compile made of it. teacher: copied, in eval mode,
    without gradients: its statistics stay as they are, whatever becomes of the given one. distillations: a registered
    name, {"uses": name, option: value}, an object, or several of these. kept: which channels the student has left of
    the teacher's; needed where a distillation compares modules that lost some. autocast: the type in which the student
    runs, where autocast is switched on inside its forward, as Lightning Fabric does; the teacher then runs alike.

        distiller = compress.Distiller(pruned.model, model, "logits")
        for images, labels in batches:
            with distiller.watch() as lesson:
                loss = cross_entropy(pruned.model(images), labels)
            loss = loss + lesson.losses(labels)["loss"]
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        distillations: str | Mapping[str, Any] | Distillation | Sequence[str | Mapping[str, Any] | Distillation],
        *,
        kept: Kept | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.student, self.autocast = student, autocast
        self.distillations = make_distillations(distillations)
        self.points = tuple(dict.fromkeys(p for each in self.distillations for p in each.watches()))
        for whose, model in (("student", student), ("teacher", teacher)):
            modules = dict(model.named_modules())
            for point in self.points:
                if point not in modules or not point:
                    raise CompressError(f"distillation: the {whose} has no module '{point}'{nearest(point, modules)}")
        self.teacher = deepcopy(
            copy_with(teacher, {})
        )  # without what the forward left behind, then without shared memory
        self._taken: dict[str, list[dict[int, Tensor]]] = {}
        if kept is not None:
            for point in self.points:
                self._taken[point] = [{dim: torch.from_numpy(i) for dim, i in each.items()} for each in kept.at(point)]

    @contextmanager
    def watch(self, model: nn.Module | None = None) -> Iterator[Lesson]:
        """The lesson of one batch: what the student is given, and says, inside the block.

        model: what is called there in the student's place, its wrapper; default the student itself.
        """
        lesson, current = Lesson(self), Features()
        wrapper = self.student if model is None else model

        def answered(module: nn.Module, args: Any, kwargs: Any, outputs: Any) -> None:
            lesson.calls.append((args, kwargs, Answer(self.student, args, outputs, dict(current))))
            current.clear()

        handles = _hooked(self.student, self.points, current)
        handles.append(wrapper.register_forward_hook(answered, with_kwargs=True))
        try:
            yield lesson
        finally:
            for handle in handles:
                handle.remove()

    def loss(self, task: Task, model: nn.Module, images: Tensor, targets: Any) -> dict[str, Tensor]:
        """`task.loss` with what the teacher adds: "loss" is the sum of both. model: the student or its wrapper."""
        with self.watch(model) as lesson:
            losses = dict(task.loss(model, images, targets))
        taught = lesson.losses(targets)
        return {**losses, **taught, "loss": losses["loss"] + taught["loss"]}

    @torch.no_grad()
    def ask(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Answer:
        """What the teacher says to the student's inputs; of its features, the channels that the student has."""
        device = next((tensor.device for tensor in collect_tensors((args, dict(kwargs)))), None)
        held = next(self.teacher.parameters(), None)
        if held is not None and device is not None and held.device != device:
            self.teacher.to(device)
        features = Features()
        alike = nullcontext() if self.autocast is None or device is None else torch.autocast(device.type, self.autocast)
        handles = _hooked(self.teacher, self.points, features)
        try:
            with alike:
                outputs = self.teacher(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        return Answer(self.teacher, args, outputs, {point: self._narrowed(point, f) for point, f in features.items()})

    def _narrowed(self, point: str, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if point not in self._taken:
            return features
        if len(self._taken[point]) != len(features):
            traced = f"{len(self._taken[point])} where it was traced"
            raise CompressError(f"distillation: '{point}' returned {len(features)} tensors in one forward, {traced}")
        narrow = []
        for tensor, by_dim in zip(features, self._taken[point], strict=True):
            for dim, index in by_dim.items():
                by_dim[dim] = index = index.to(tensor.device)
                tensor = tensor.index_select(dim, index)
            narrow.append(tensor)
        return tuple(narrow)


@dataclass
class Lesson:
    """One batch under a teacher's eyes. calls: (arguments, keywords, answer) of each forward of the student."""

    distiller: Distiller
    calls: list[tuple[tuple[Any, ...], dict[str, Any], Answer]] = field(default_factory=list)

    def losses(self, targets: Any = None) -> dict[str, Tensor]:
        """{"loss": the weighted sum, "distill_NAME": each distillation's own}, means over the student's forwards.

        Raises CompressError where the student was not run, or a distillation cannot compare the two networks.
        """
        if not self.calls:
            raise CompressError(
                "distillation: the student was not run inside `watch`; call it there, or give its wrapper"
            )
        found: dict[str, list[Tensor]] = {}
        total = []
        for args, kwargs, student in self.calls:
            for point in self.distiller.points:
                if not student.features.get(point):
                    raise CompressError(f"distillation: '{point}' returned no tensor in the student's forward")
            teacher = self.distiller.ask(args, kwargs)
            for each in self.distiller.distillations:
                value = each.loss(student, teacher, targets)
                found.setdefault(f"distill_{each.name}", []).append(value.detach())
                total.append(each.weight * value)
        n = len(self.calls)
        return {name: torch.stack(values).sum() / n for name, values in found.items()} | {
            "loss": torch.stack(total).sum() / n
        }


def make_distillations(
    given: str | Mapping[str, Any] | Distillation | Sequence[str | Mapping[str, Any] | Distillation],
    make: Callable[[Any], Distillation] | None = None,
) -> tuple[Distillation, ...]:
    """The objects that are named. make: one of them; default with the installed plugins."""
    if make is None:
        from ..plugins import installed

        make = partial(installed().make, "distillations")
    several = [given] if isinstance(given, str | Mapping | Distillation) else list(given)
    if not several:
        raise CompressError("distillation: nothing is named that the student shall take over")
    return tuple(make(each) for each in several)


def _hooked(model: nn.Module, points: Sequence[str], into: Features) -> list[Any]:
    """Hooks that note what these modules return."""

    def note(module: nn.Module, args: Any, outputs: Any, point: str) -> None:
        into[point] = (*into.get(point, ()), *collect_tensors(outputs))

    return [model.get_submodule(point).register_forward_hook(partial(note, point=point)) for point in points]
