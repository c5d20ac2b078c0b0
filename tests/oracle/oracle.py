"""A network and its cut in, equal or not out - by a way that knows nothing of how the cut was made.

Every element of every parameter and buffer carries its own number in the low bits of its value. So each surviving
element tells where it comes from; everything else is zeroed in the original, and the outputs are compared.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

NUMBER = (1 << 32) - 1
"""The low 32 of a float64's 52 mantissa bits hold the element's number; what is left is 2^-20 exact."""


def number_every_element(model: nn.Module, seed: int = 0, gain: float = 1) -> nn.Module:
    """Random float64 weights of a sane size, positive variances, and in each its number. In place.

    Buffers that are no statistics are constants of the code (a table, a variance) and keep their values, to 2^-20.

    gain: of matrices and kernels, relative to what keeps a ReLU network's activations at one size.
    """
    model.double()
    generator = torch.Generator().manual_seed(seed)
    variances = {id(m.running_var) for m in model.modules() if getattr(m, "running_var", None) is not None}
    means = {id(m.running_mean) for m in model.modules() if getattr(m, "running_mean", None) is not None}
    scales = {id(m.weight) for m in model.modules() if _is_norm(m) and m.weight is not None}
    position = 0
    for tensor in _floats(model).values():
        values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if id(tensor) in variances or id(tensor) in scales:
            values = values.abs() + 0.5
        elif not isinstance(tensor, nn.Parameter) and id(tensor) not in means and torch.isfinite(tensor).all():
            values = tensor.detach().clone()
        elif tensor.ndim > 1:
            values *= gain * (2 / max(tensor[0].numel(), 1)) ** 0.5
        else:
            values *= 0.3
        bits = values.reshape(-1).view(torch.int64)
        numbers = torch.arange(position, position + bits.numel())
        with torch.no_grad():
            tensor.copy_(((bits & ~NUMBER) | numbers).view(torch.float64).view(tensor.shape))
        position += bits.numel()
    assert position <= NUMBER
    return model


def find_survivors(model: nn.Module, cut: nn.Module, gone: Iterable[str] = ()) -> dict[str, tuple[np.ndarray, ...]]:
    """Parameter or buffer -> for each dimension the original positions that survive. gone: names that need not be left.

    Asserts that each element of the cut comes, unchanged, from the parameter of the same name, and that the survivors
    are an outer product of rising index sets: pure index selection.
    """
    smaller, position, found = _floats(cut), 0, {}
    for name, tensor in _floats(model).items():
        if name in set(gone) - set(smaller):
            position += tensor.numel()
            continue
        assert name in smaller, f"{name} is gone"
        bits = smaller[name].detach().contiguous().view(-1).view(torch.int64).numpy().reshape(smaller[name].shape)
        origin = (bits & NUMBER) - position
        position += tensor.numel()
        assert smaller[name].ndim == tensor.ndim and origin.size, f"{name}: {tuple(smaller[name].shape)}"
        assert ((origin >= 0) & (origin < tensor.numel())).all(), f"{name} holds elements of another parameter"
        whole = tensor.detach().contiguous().view(-1).view(torch.int64).numpy()
        assert (whole[origin] == bits).all(), f"{name}: values changed"
        fibres = [np.moveaxis(origin, dim, 0).reshape(origin.shape[dim], -1)[:, 0] for dim in range(origin.ndim)]
        index = tuple(np.unravel_index(f, tensor.shape)[dim] for dim, f in enumerate(fibres))
        assert all((np.diff(i) > 0).all() for i in index), f"{name}: survivors out of order"
        if index:
            product = np.ravel_multi_index(np.ix_(*index), tensor.shape)
            assert np.array_equal(product, origin), f"{name}: not a selection of indices"
        found[name] = index
    assert set(smaller) == set(found), f"new: {set(smaller) - set(found)}"
    return found


def mask(model: nn.Module, survivors: dict[str, tuple[np.ndarray, ...]]) -> nn.Module:
    """The original with every element zeroed whose position did not survive in some dimension.

    A removed channel is then zero from its filter to the columns that read it. Norms over channels are the exception:
    zeros would count in their mean, so they run on the survivors; see `OnSurvivors`.
    """
    computed = {
        id(t): t.detach() for m in model.modules() for t in vars(m).values() if isinstance(t, Tensor) and not t.is_leaf
    }
    masked = copy.deepcopy(model, computed)
    for name, tensor in _floats(masked).items():
        for dim, index in enumerate(survivors.get(name, ())):
            gone = np.setdiff1d(np.arange(tensor.shape[dim]), index)
            with torch.no_grad():
                tensor.index_fill_(dim, torch.from_numpy(gone), 0)
    return masked


def compare(
    model: nn.Module,
    cut: nn.Module,
    inputs: Any,
    tolerance: float = 1e-9,
    train: bool = False,
    silent: Sequence[str] = (),
    gone: Iterable[str] = (),
    without_zeros: bool = False,
    unscaled: nn.Module | None = None,
) -> float:
    """Assert that the cut computes what the masked original does, and takes the same decisions on the way.

    silent: modules of the original whose outputs are replaced by zeros, where residual branches were taken out; gone:
    names of parameters and buffers that may have gone with them. without_zeros: see `OnSurvivors`, for networks with
    norms that they write themselves. unscaled: the cut before some of its weights were scaled, which tells where each
    element comes from.
    Returns the largest difference relative to the largest element of its tensor.
    """
    survivors = find_survivors(model, unscaled or cut, gone)
    masked = mask(model, survivors).train(train)
    for path in silent:
        masked.get_submodule(path).register_forward_hook(lambda m, i, output: torch.zeros_like(output))
    decisions = Decisions()
    with OnSurvivors(masked, survivors, without_zeros), decisions:
        want = _run(masked, inputs)
    following = Decisions(decisions.taken)
    with following:
        have = _run(copy.deepcopy(cut).train(train), inputs)
    assert len(want) == len(have) > 0
    pairs = [(f"output {number}", w, h) for number, (w, h) in enumerate(zip(want, have, strict=True))]
    worst = 0.0
    for what, w, h in pairs + following.weighed:
        assert w.shape == h.shape, f"{what}: {tuple(h.shape)}, expected {tuple(w.shape)}"
        assert torch.isfinite(w).all() and torch.isfinite(h).all(), f"{what} is not finite"
        if w.numel():
            gap = float((w - h).abs().max() / w.abs().max().clamp_min(1e-12))
            assert gap <= tolerance, f"{what} differs by {gap:.1e} {'in train mode' if train else ''}"
            worst = max(worst, gap)
    return worst


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything that must not change in a model: bits, modes, attributes, what needs gradients."""
    state: dict[str, Any] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        state[f"{name} object"] = id(tensor)
        state[f"{name} bytes"] = (_bytes(tensor), tensor.dtype, tensor.requires_grad)
        state[f"{name} grad"] = tensor.grad is None
    for path, module in model.named_modules():
        state[f"{path} type"] = type(module)
        for name, value in vars(module).items():
            plain = value is None or isinstance(value, bool | int | float | str | list | tuple | dict)
            state[f"{path}.{name}"] = repr(value) if plain and not name.startswith("_") else type(value)
            if name.endswith("_hooks"):
                state[f"{path}.{name}"] = len(value)
    return state


def _bytes(tensor: Tensor) -> bytes:
    return hashlib.sha256(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()).digest()


def kept(model: nn.Module, cut: nn.Module) -> float:
    """The fraction of parameters that is left."""
    return sum(p.numel() for p in cut.parameters()) / sum(p.numel() for p in model.parameters())


def call(model: nn.Module, inputs: Any) -> Any:
    """A tuple is positional arguments, a dict keywords, anything else one argument."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm)


def _floats(model: nn.Module) -> dict[str, Tensor]:
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor for name, tensor in named.items() if tensor.is_floating_point()}


def _run(model: nn.Module, inputs: Any) -> list[Tensor]:
    with torch.no_grad():
        out = call(model, inputs)
    found: list[Tensor] = []

    def collect(tree: Any) -> None:
        if isinstance(tree, Tensor):
            found.append(tree)
        elif isinstance(tree, dict):
            collect(list(tree.values()))
        elif isinstance(tree, list | tuple):
            for item in tree:
                collect(item)

    collect(out)
    return found


class OnSurvivors(TorchFunctionMode):
    """While it is active, norms of a masked model see the survivors of their weights only.

    without_zeros: means and variances over a dimension, of which hand-written norms are made, see those positions that
    are not zero throughout: a removed channel is; so is one that lives and is dead behind its ReLU.
    """

    def __init__(
        self, masked: nn.Module, survivors: dict[str, tuple[np.ndarray, ...]], without_zeros: bool = False
    ) -> None:
        super().__init__()
        self.without_zeros = without_zeros
        floats = _floats(masked)
        whole = {name: tuple(np.arange(n) for n in tensor.shape) for name, tensor in floats.items()}
        self.survivors = {
            id(floats[name]): [torch.from_numpy(i) for i in index] for name, index in (whole | survivors).items()
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.group_norm and self._weight(func, args, kwargs) is not None:
            return self._group_norm(*args, **kwargs)
        if func is F.layer_norm and id(self._weight(func, args, kwargs)) in self.survivors:
            return self._layer_norm(*args, **kwargs)
        if func in (F.rms_norm, F.layer_norm) and (func is F.rms_norm or self.without_zeros):
            return self._by_zeros(func, *args, **kwargs)
        if func is F.batch_norm and kwargs.get("training") and args[0].ndim == 3 and len(args[0]) == 1:
            return _standardise_weights(*args, **kwargs)
        if self.without_zeros and getattr(func, "__name__", "") in STATISTICS and isinstance(args[0], Tensor):
            return func(_without_zeros(*args, **kwargs), *args[1:], **kwargs)
        if func is torch._weight_norm:
            return func(*args, **kwargs).nan_to_num()  # a removed row is 0 / 0
        return func(*args, **kwargs)

    def _weight(self, func: Any, args: Any, kwargs: Any) -> Tensor | None:
        return kwargs.get("weight", args[2] if len(args) > 2 else None)

    def _group_norm(
        self, x: Tensor, num_groups: int, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5
    ) -> Tensor:
        (alive,) = self.survivors[id(weight)]
        groups = [alive[alive // (x.shape[1] // num_groups) == g] for g in range(num_groups)]
        groups = [group for group in groups if len(group)]
        assert len({len(group) for group in groups}) == 1, "groups of a norm keep unequal numbers of channels"
        y = torch.zeros_like(x)
        for group in groups:
            part = x.index_select(1, group)  # -> (B, survivors of the group, ...)
            y[:, group] = _standardise(part, tuple(range(1, x.ndim)), eps)
        shape = (1, -1, *[1] * (x.ndim - 2))
        return y * weight.view(shape) + (0 if bias is None else bias.view(shape))

    def _layer_norm(
        self, x: Tensor, normalized_shape: Any, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5
    ) -> Tensor:
        alive = self.survivors[id(weight)]
        dims = tuple(range(-len(alive), 0))
        part = x
        for dim, index in zip(dims, alive, strict=True):
            part = part.index_select(dim, index)
        part = _standardise(part, dims, eps)
        for dim, index in zip(dims, alive, strict=True):
            shape = list(part.shape)
            shape[dim] = x.shape[dim]
            part = torch.zeros(shape, dtype=x.dtype).index_copy(dim, index, part)  # -> back to the original's size
        return part * weight + (0 if bias is None else bias)

    def _by_zeros(self, func: Any, x: Tensor, shape: Any, *vectors: Any, **options: Any) -> Tensor:
        """A norm over the last dimension on the survivors of its weight or, without one, on what is not zero."""
        vectors = (*vectors, *(options.pop(name) for name in ("weight", "bias") if name in options))
        known = id(vectors[0]) in self.survivors if vectors else False
        alive = self.survivors[id(vectors[0])][0] if known else (x != 0).flatten(0, -2).any(0).nonzero().flatten()
        if len(shape) != 1 or not len(alive):
            return func(x, shape, *vectors, **options)
        narrow = (v[alive] if isinstance(v, Tensor) else v for v in vectors)
        part = func(x.index_select(-1, alive), (len(alive),), *narrow, **options)
        return torch.zeros(x.shape, dtype=part.dtype).index_copy(-1, alive, part)


def _standardise_weights(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Batch norm of a weight (1, out, in) by its own statistics: over what is not zero throughout."""
    alive = (x != 0).flatten(0, 1).any(0).nonzero().flatten()
    part = F.batch_norm(x.index_select(2, alive), *args, **kwargs)
    return torch.zeros_like(x).index_copy(2, alive, part)


STATISTICS = ("mean", "var", "std", "var_mean", "std_mean")


def _without_zeros(x: Tensor, dim: Any = None, *rest: Any, **options: Any) -> Tensor:
    """x without the positions along `dim` (one dimension) that are zero throughout."""
    dims = dim if isinstance(dim, list | tuple) else (dim,)
    if len(dims) != 1 or isinstance(dims[0], bool) or not isinstance(dims[0], int) or x.ndim < 2:
        return x
    alive = (x.movedim(dims[0], 0).flatten(1) != 0).any(1)
    return x.index_select(dims[0], alive.nonzero().flatten()) if alive.any() and not alive.all() else x


class Decisions(TorchDispatchMode):
    """Ops that turn real numbers into integers or truth values (topk, nms, >): noted in one run, followed in another.

    Rounding alone can turn a decision, and everything behind it; so the second run is given the first one's. What
    entered each of them is in `weighed`: (which, the first run's tensor, the second's).
    """

    def __init__(self, taken: list[tuple[str, list[Tensor], Any]] | None = None) -> None:
        super().__init__()
        self.follows = taken is not None
        self.taken = list(taken or ())
        self.weighed: list[tuple[str, Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        entering = [a.clone() for a in args if isinstance(a, Tensor) and a.is_floating_point()]
        result = func(*args, **(kwargs or {}))
        many = result if isinstance(result, list | tuple) else [result]
        outs = [tensor for tensor in many if isinstance(tensor, Tensor)]
        decides = entering and not all(t.is_floating_point() for t in outs) and "pool" not in str(func)
        if not decides:
            return result
        if not self.follows:
            self.taken.append((str(func), entering, result))
            return result
        assert self.taken, f"the cut network calls {func} once more"
        name, wanted, decided = self.taken.pop(0)
        assert name == str(func), f"the cut network calls {func} where the original calls {name}"
        if any(a.shape != b.shape for a, b in zip(wanted, entering, strict=True)):
            return result  # it is about channels, of which there are fewer now
        self.weighed += [(f"what enters {name}", a, b) for a, b in zip(wanted, entering, strict=True)]
        return decided


def _standardise(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    return (x - x.mean(dims, keepdim=True)) / (x.var(dims, False, keepdim=True) + eps).sqrt()
