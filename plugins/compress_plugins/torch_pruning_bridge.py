"""A group of this project in, the score that one of Torch-Pruning's importance classes gives it out."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from compress import Calibration, CompressError, Criterion, Group, Part, hookimpl

CLASSES = {
    "GroupMagnitudeImportance": False,
    "MagnitudeImportance": False,
    "BNScaleImportance": False,
    "LAMPImportance": False,
    "FPGMImportance": False,
    "RandomImportance": False,
    "GroupTaylorImportance": True,
    "TaylorImportance": True,
    "GroupHessianImportance": True,
    "HessianImportance": True,
    "OBDCImportance": True,
    "ActivationImportance": True,
}
"""Torch-Pruning's importance classes, and whether they look at data."""


@dataclass(frozen=True)
class _Run:
    """An importance object that has seen data, and the network it saw it in."""

    importance: Any
    model: nn.Module


class TorchPruningImportance(Criterion):
    """An importance class of Torch-Pruning (1.6 or newer; `pip install torch-pruning`).

    Its scores are Torch-Pruning's own, for the groups of this project's graph: what it says of convolutions, linear
    layers and norms; other places are passed over. `aggregate` has nothing to do here, its own reduction has.

    options: what its constructor is given, such as `{p: 1, group_reduction: sum, normalizer: null}`.
    """

    name = "torch-pruning"
    by_sample: ClassVar[bool] = True
    options: dict[str, Any] = field(default_factory=dict)

    def observe(self, model: nn.Module, calibration: Calibration) -> Mapping[str, Any]:
        """The importance object, after it has seen the data in the way that its class asks for; one for all names."""
        run = _Run(self._importance(), model)
        _show(run, calibration)
        return {name: run for name, _ in model.named_parameters()}

    def score_group(self, group: Group, parts: list[Part]) -> Tensor | None:
        """What the importance class says of the group, (group.size,)."""
        run = next((part.observed for part in parts if part.observed is not None), None)
        importance = self._importance() if run is None else run.importance
        modules = {part.name: part.module for part in parts}
        if run is not None:
            modules = {name: run.model.get_submodule(name.rpartition(".")[0]) for name in modules}
        missing = [name for name, module in modules.items() if module is None]
        if missing:
            raise CompressError(f"criterion '{self.name}' looks at modules and that of '{missing[0]}' is gone")
        items = _items(group, modules)
        if not items:
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(group.name.encode()))
            try:
                scores = importance(items)
            except Exception as error:
                said = f"{type(error).__name__}: {' '.join(str(error).split())}"
                raise CompressError(f"criterion '{self.name}' failed on group '{group.name}': {said}") from error
        # as long as its first place, which is longer than the group where a linear layer reads pixels; zeros follow
        return None if scores is None else scores[: group.size]

    def _importance(self) -> Any:
        short = self.name.rpartition(".")[2]
        found = getattr(_torch_pruning().importance, short, None)
        if found is None:
            raise CompressError(f"criterion '{self.name}': the installed torch-pruning has no {short}; it needs >= 1.6")
        try:
            return found(**self.options)
        except (TypeError, AssertionError) as error:
            raise CompressError(f"criterion '{self.name}': its options do not fit {short}: {error}") from error


def _torch_pruning() -> Any:
    try:
        return import_module("torch_pruning")
    except ImportError:
        line = "criteria called torch-pruning.* need that package; pip install 'torch-pruning>=1.6'"
        raise CompressError(line) from None


def _show(run: _Run, calibration: Calibration) -> None:
    """Run the network on the data as Torch-Pruning's documentation of the class does it."""
    importance, model = run.importance, run.model
    if hasattr(importance, "compute_importance"):  # activations
        with importance.compute_importance(model):
            for batch in calibration.passes("activations"):
                calibration.forward(model, batch)
        return
    kronecker = hasattr(importance, "MatGradHandler")
    hooks = []
    if kronecker:  # inputs and output gradients of each layer
        importance.modules = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        for module in importance.modules:
            hooks.append(module.register_forward_pre_hook(importance._save_input))
            hooks.append(module.register_backward_hook(importance._save_grad_output))
    by_batch = kronecker or hasattr(importance, "accumulate_grad")
    for batch in calibration.passes("gradients"):
        if by_batch:
            model.zero_grad()
        calibration.loss_of(model, batch).backward()
        if kronecker:
            importance.step()
        elif by_batch:
            importance.accumulate_grad(model)
    for hook in hooks:
        hook.remove()


class _Item(tuple):  # type: ignore[type-arg]
    """(dependency, indices) as Torch-Pruning's importance classes read it, with the units at those indices."""

    root_idxs: list[int]


def _items(group: Group, modules: Mapping[str, Any]) -> list[_Item]:
    """The group's places in Torch-Pruning's terms, one that has each unit once first; empty where there is none."""
    items = []
    for member in group.members:
        if member.buffer or not member.name.endswith("weight"):
            continue
        module = modules[member.name]
        prune = _pruning_function(module, member.dim)
        if prune is None:
            continue
        target = SimpleNamespace(module=module, name=member.name)
        dependency = SimpleNamespace(layer=module, pruning_fn=prune, target=target, handler=prune)
        item = _Item((dependency, member.index.tolist()))
        item.root_idxs = member.unit.tolist()
        items.append((not (member.role == "out" and len(member.unit) == group.size), item))
    items.sort(key=lambda entry: entry[0])
    return [item for _, item in items] if items and len(items[0][1].root_idxs) == group.size else []


def _pruning_function(module: nn.Module, dim: int) -> Any:
    """Which of Torch-Pruning's functions would cut that dimension of the module's weight, None: it has none."""
    function = import_module("torch_pruning.pruner.function")
    if isinstance(module, nn.modules.conv._ConvNd):
        outputs = dim == (1 if module.transposed else 0)
        if module.groups == module.out_channels and module.groups > 1:
            return function.prune_depthwise_conv_out_channels
        return function.prune_conv_out_channels if outputs else function.prune_conv_in_channels
    if isinstance(module, nn.Linear):
        return function.prune_linear_out_channels if dim == 0 else function.prune_linear_in_channels
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return function.prune_batchnorm_out_channels
    if isinstance(module, nn.LayerNorm):
        return function.prune_layernorm_out_channels
    return function.prune_groupnorm_out_channels if isinstance(module, nn.GroupNorm) else None


def _bridge(short: str, looks: bool) -> type[Criterion]:
    """The criterion for one importance class."""
    doc = f"Torch-Pruning's {short}, with the groups of this project's graph.\n\n    options: of its constructor.\n    "
    body = {"__doc__": doc, "__module__": __name__, "name": f"torch-pruning.{short}", "needs_batches": looks}
    return type(short, (TorchPruningImportance,), body)


@hookimpl
def compress_register_criteria() -> Sequence[type[Criterion]]:
    """A criterion for each importance class; torch-pruning itself is imported when one is used."""
    return [_bridge(short, looks) for short, looks in CLASSES.items()]
