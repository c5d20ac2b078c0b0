"""The stages that train: from scratch, sparsely, and again after a cut. One loop, one set of options."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from torch import nn, optim

from ..errors import CompressError, nearest
from ..graph.trace import trace
from ..options import Uses
from ..pruning.masked import copy_with
from ..pruning.points import Kept
from ..training import processes
from ..training.distiller import Distiller, make_distillations
from ..training.loop import BEST, CHECKPOINT, Job, train
from ..training.optim import Settings
from ..training.regularizers import Attached, Regularizer
from .evaluation import assess
from .foresight import Foresight, foresee
from .network import Network, build, keep, open_network, read
from .prune import Prune
from .stage import Context, Stage, ancestors, start_mistakes

if TYPE_CHECKING:
    from ..registry import Registry
    from ..training.dataset import Data
    from ..training.distillation import Distillation


AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""What Lightning Fabric casts to inside a network's forward."""


class Training(Settings, Stage):
    """Trains a network.

    start: whose network to begin with: `previous` (the last stage's), `fresh` (new weights), or an earlier stage's id.
    """

    leaves_network: ClassVar[bool] = True
    everywhere: ClassVar[bool] = True

    start: str = "previous"

    def run(self, context: Context) -> Mapping[str, Any] | None:
        network = open_network(context, self.start)

        def validate(model: nn.Module) -> Mapping[str, float]:
            return assess(context, model, self.batch_size, f"{context.id}: validation").metrics

        def epoch_finished(epoch: int, metrics: dict[str, float]) -> None:
            hook = context.registry.hook.compress_epoch_finished
            hook(run=context.run, stage=context.id, epoch=epoch, metrics=metrics)

        model = train(
            Job(
                stage=context.id,
                model=network.model,
                split=context.data.train,
                task=context.recipe.task,
                settings=self,
                seed=context.recipe.seed,
                folder=context.folder,
                device=context.device,
                workers=0 if context.device == "cpu" else min(8, (os.cpu_count() or 2) - 1),
                attach=self.attaching(context),
                distiller=self.distilling(context, network),
                foresee=self.foreseeing(context),
                validate=validate,
                epoch_finished=epoch_finished,
                progress=context.progress,
            )
        )
        if processes.leads():
            keep(context, Network(model, network.edits))
            for file in (CHECKPOINT, BEST):  # the weights are safe now
                (context.folder / file).unlink(missing_ok=True)
        return None

    def attaching(self, context: Context) -> Attach | None:
        """What hooks a regularizer to the optimizer; None trains without."""
        return None

    def foreseeing(self, context: Context) -> Foresight | None:
        """What says how large the network would be if it were pruned now; None says nothing."""
        return None

    def distilling(self, context: Context, network: Network) -> Distiller | None:
        """What adds a teacher's lessons to the task's loss; None trains without."""
        return None

    def mistakes(self, earlier: Sequence[tuple[str, Stage]], registry: Registry) -> Iterable[tuple[str, str]]:
        yield from start_mistakes(self.start, earlier)
        if self.batch_size % self.accumulate:
            yield "accumulate", f"batch_size {self.batch_size} does not make {self.accumulate} equal parts"
        if not self.validate_every:
            for option, given in (("patience", self.patience is not None), ("keep", self.keep == "best")):
                if given:
                    yield option, "needs validations to go by; give validate_every as well"


class Attach:
    """Traces a network, asks the policy what must stay whole, and hooks a regularizer that leaves that alone."""

    def __init__(self, regularizer: Regularizer, context: Context) -> None:
        self.regularizer, self.context = regularizer, context

    def __call__(self, model: nn.Module, optimizer: optim.Optimizer) -> Attached:
        example = self.context.example().to(next(model.parameters()).device)
        graph = trace(model, example, rules=self.context.registry.op_rules)
        policy = self.context.recipe.policy
        frozen = policy.freeze(graph, model) if policy else {}
        return self.regularizer.attach(graph, model, optimizer, frozen)


class Train(Training):
    """Ordinary training; its network is the report's baseline."""

    name = "train"
    role: ClassVar[str | None] = "baseline"


class Sparsify(Training):
    """Training with a regularizer that drives towards zero what the recipe's policy allows to be cut.

    regularizer: what pulls weights towards zero. strength: how strongly; handed to the regularizer; `auto` where it can
    find that out by itself.
    """

    name = "sparsify"
    role: ClassVar[str | None] = "sparse"

    regularizer: Annotated[str | dict[str, Any], Uses("regularizers", given=("strength",))]
    strength: float | Literal["auto"] = 0.01

    def attaching(self, context: Context) -> Attach | None:
        return Attach(self.made(context.registry), context)

    def foreseeing(self, context: Context) -> Foresight | None:
        return foresee(context)

    def mistakes(self, earlier: Sequence[tuple[str, Stage]], registry: Registry) -> Iterable[tuple[str, str]]:
        yield from super().mistakes(earlier, registry)
        if self.ema is not None:
            yield "ema", "averaged gammas have no exact zeros to prune by; leave ema to train and finetune"
        if self.strength == "auto":
            try:
                self.made(registry)
            except CompressError as error:
                yield "strength", str(error)

    def made(self, registry: Registry) -> Regularizer:
        """The regularizer with its strength. Raises CompressError where they do not go together."""
        return registry.make("regularizers", self.regularizer, strength=self.strength)


class Finetune(Training):
    """Training of a network that was cut, to get back what the cut cost; from a teacher too, where one is named.

    teacher: an earlier stage whose network the student shall take after, beside its task: the baseline, or the network
    before the cut; null for none. What modules return can be taken over from a network alone that the student's was cut
    from: others have other channels. distill: what it takes over; one distillation or several.
    """

    name = "finetune"
    role: ClassVar[str | None] = "finetuned"

    teacher: str | None = None
    distill: Annotated[str | dict[str, Any] | list[str | dict[str, Any]], Uses("distillations")] = "logits"

    def distilling(self, context: Context, network: Network) -> Distiller | None:
        if self.teacher is None:
            return None
        distillations, teacher, kept = self.made(context.registry), read(context, self.teacher), None
        if any(each.watches() for each in distillations):
            cuts = [stage for _, stage in context.earlier if isinstance(stage, Prune)]
            cutting, whole = (cuts or [Prune()])[-1], build(context)
            kept = Kept(cutting.trace(whole, context.example(), context.registry), network.edits, teacher.edits)
        model = teacher.model
        if self.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return Distiller(network.model, model, distillations, kept=kept, autocast=AUTOCAST.get(self.precision))

    def made(self, registry: Registry) -> tuple[Distillation, ...]:
        """The distillations. Raises CompressError where their options do not fit."""
        return make_distillations(self.distill, partial(registry.make, "distillations"))

    def try_out(self, model: nn.Module, data: Data, registry: Registry) -> None:
        """One lesson of a network by itself. Raises CompressError where its answers are not what is to be compared."""
        if self.teacher is None:
            return
        student = copy_with(model, {})
        distiller = Distiller(student, student, self.made(registry))
        images, targets = data.train.collate([data.train.sample(0, None)])
        with torch.no_grad(), distiller.watch() as lesson:
            student(images)
            lesson.losses(targets)

    def mistakes(self, earlier: Sequence[tuple[str, Stage]], registry: Registry) -> Iterable[tuple[str, str]]:
        yield from super().mistakes(earlier, registry)
        left = [id for id, stage in earlier if stage.leaves_network]
        if self.teacher is not None and self.teacher not in left:
            yield "teacher", f"no earlier stage '{self.teacher}' leaves a network{nearest(self.teacher, left)}"
        if self.teacher is None and self.distill != Finetune.distill:
            yield "distill", "there is nobody to learn from; name an earlier stage as `teacher`"
        if self.teacher is None or not any(each.watches() for each in self.made(registry)):
            return
        valid = self.teacher in left and not list(start_mistakes(self.start, earlier))
        if valid and self.teacher not in (found := list(ancestors(self.start, earlier))):
            come = f"come from {' and '.join(map(repr, found)) or 'nowhere else'}"
            yield "teacher", f"the channels of this stage's network {come}; those of '{self.teacher}' are others"
        if self.compile:
            yield "compile", "what modules return is not to be had of a compiled network; leave one of them out"
