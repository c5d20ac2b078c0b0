"""A model and example inputs in, the list of ATen calls it makes out.

The *shell* of the model runs once: a deep copy in which every parameter and buffer is replaced (by a meta tensor of
the same shape where the forward allows it), so that nothing is copied and nothing the forward stores stays behind in
the user's model. Values are followed by identity, not by autograd edges: detach, `.data` and in-place ops keep the
trail.
"""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import CompressError
from .copies import ATOMS
from .inputs import call_model, collect_tensors, map_tensors
from .ints import Attribute, Expression, Size, TracedInt, by_value
from .meta import shape_of
from .shell import make_shell, trace_integers
from .walk import named_modules, named_tensors


@dataclass(frozen=True)
class Value:
    """A tensor as it was at one moment: its number on the tape, shape, and name if it is a parameter or buffer."""

    id: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    name: str | None = None


@dataclass(frozen=True)
class Call:
    """One ATen call. args and kwargs hold `Value`s where tensors stood.

    op: "convolution"; overload: "default". outs: the values it made; an in-place op makes a new value of its target.
    python: the Python-level call in whose course it happened, (name, args, kwargs), with TracedInts and `Value`s.
    aliased: an in-place target that shares its memory with other values.
    """

    op: str
    overload: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outs: tuple[Value, ...]
    module: str
    python: tuple[str, tuple[Any, ...], Mapping[str, Any]] | None = None
    inplace: bool = False
    aliased: bool = False

    @functools.cached_property
    def values(self) -> tuple[Value, ...]:
        """Every value it takes, in order."""
        return values_in((self.args, tuple(self.kwargs.values())))

    @property
    def where(self) -> str:
        """`aten.op in module`, for messages."""
        return f"{self.op} in {self.module or 'the model'}"


def values_in(tree: Any) -> tuple[Value, ...]:
    """The values in a tree of tuples, in order."""
    found: list[Value] = []
    for item in tree:
        if type(item) is Value:
            found.append(item)
        elif type(item) is tuple:
            found += values_in(item)
    return tuple(found)


@dataclass
class Invocation:
    """One call of a module: the ATen calls from number `start` up to `end` happened in its course.

    args: (position or keyword, value) of each argument that is a tensor. alone: it was given one argument, by position.
    outputs: the tensor that it returned, a tuple of tensors and None, or ... for anything else.
    """

    path: str
    start: int
    args: tuple[tuple[int | str, Value], ...]
    alone: bool
    end: int = -1
    outputs: Any = ...


@dataclass
class Tape:
    """What a run of the shell recorded. outputs: the values that the model returned. invocations: outer ones first.

    returned: module path -> all tensors that it returned, call by call.
    """

    calls: list[Call] = field(default_factory=list)
    invocations: list[Invocation] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    returned: dict[str, list[Value]] = field(default_factory=dict)
    inputs: list[Value] = field(default_factory=list)
    attributes: dict[Attribute, int] = field(default_factory=dict)
    numbers: list[tuple[Expression, str]] = field(default_factory=list)  # used by value, and in which module
    device: str = "meta"


@contextlib.contextmanager
def plain_math() -> Iterator[None]:
    """Attention in its decomposed form, so that every op it is made of is seen; no gradients."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def op_name(func: Any) -> str:
    """ "convolution" for an ATen op, "library::op" for any other."""
    return func._schema.name.removeprefix("aten::")


class DispatchMode(TorchDispatchMode):
    """A mode whose every call is not first wrapped to keep `torch.compile` out: that takes longer than the call."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class _PythonCalls(TorchFunctionMode):
    """Sees each Python-level torch call: keeps its arguments for the ATen calls inside, hands out traced sizes."""

    def __init__(self, recorder: _AtenCalls) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if name == "__get__" and getattr(func, "__self__", None) is torch.Tensor.shape:  # type: ignore[comparison-overlap]
            return self.recorder.traced_size(args[0])
        if name == "size" and args and isinstance(args[0], Tensor):
            sizes = self.recorder.traced_size(args[0])
            dim = args[1] if len(args) > 1 else kwargs.get("dim")
            return sizes if dim is None else sizes[dim]
        if name == "numel" and isinstance(args[0], Tensor):
            sizes = self.recorder.traced_size(args[0])
            return functools.reduce(operator.mul, sizes) if sizes else 1
        if name == "batch_norm" and len(args) == 9 and not args[0].numel() and not args[5]:
            # of nothing, as where a detector has found no box, PyTorch takes a short cut: times weight[0], plus bias[0]
            return torch.ops.aten.native_batch_norm(*args[:8])[0]
        if name in ("tensor", "as_tensor") and args and isinstance(args[0], TracedInt):
            float(args[0])  # used by value, which is noted where an integer becomes a number
        before, self.recorder.python = self.recorder.python, (name, args, kwargs)
        try:
            return func(*args, **kwargs)
        finally:
            self.recorder.python = before


class _AtenCalls(DispatchMode):
    """Records each ATen call on a tape."""

    def __init__(self, tape: Tape, names: dict[int, str]) -> None:
        super().__init__()
        self.tape = tape
        self.names = names
        self.values: dict[int, Value] = {}  # id of a live tensor -> what it is now
        self.storages: dict[int | None, set[int]] = {}  # storage -> ids of the live tensors in it
        self.alive: list[Tensor] = []  # so that no id is used twice
        self.open: list[Invocation] = []  # the modules that are at work, the innermost last
        self.python: tuple[str, Any, Any] | None = None
        self.count = 0

    def new_value(self, tensor: Tensor) -> Value:
        if id(tensor) not in self.values:
            self.alive.append(tensor)
        value = Value(self.count, tuple(map(int, tensor.shape)), tensor.dtype, self.names.get(id(tensor)))
        self.count += 1
        self.values[id(tensor)] = value
        storage = _storage(tensor)
        if storage is not None:
            self.storages.setdefault(storage, set()).add(id(tensor))
        return value

    def value(self, tensor: Tensor) -> Value:
        known = self.values.get(id(tensor))
        return self.new_value(tensor) if known is None else known

    def traced_size(self, tensor: Tensor) -> torch.Size:
        with torch._C.DisableTorchFunction():
            value = self.value(tensor)
            return torch.Size(TracedInt(int(n), Size(value.id, i)) for i, n in enumerate(tensor.shape))

    def enter(self, path: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A module is called."""
        with torch._C.DisableTorchFunction():
            named: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
            seen = tuple((at, self.value(arg)) for at, arg in named if isinstance(arg, Tensor))
        self.open.append(Invocation(path, len(self.tape.calls), seen, len(args) == 1 and not kwargs))
        self.tape.invocations.append(self.open[-1])

    def leave(self, outputs: Any) -> None:
        """The innermost module returns."""
        invocation = self.open.pop()
        invocation.end = len(self.tape.calls)
        plain = isinstance(outputs, Tensor) or (
            type(outputs) is tuple and all(item is None or isinstance(item, Tensor) for item in outputs)
        )
        with torch._C.DisableTorchFunction():
            if plain:
                invocation.outputs = self.frozen_tree(outputs)
            returned = [self.value(tensor) for tensor in collect_tensors(outputs)]
        self.tape.returned.setdefault(invocation.path, []).extend(returned)

    def frozen_tree(self, tree: Any) -> Any:
        if isinstance(tree, Tensor):
            return self.value(tree)
        if isinstance(tree, (list, tuple)):
            return tuple(tree) if ATOMS.issuperset(map(type, tree)) else tuple(map(self.frozen_tree, tree))
        return tree

    def frozen_call(self, args: Any, kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return tuple(map(self.frozen_tree, args)), {key: self.frozen_tree(item) for key, item in kwargs.items()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        seen_args, seen_kwargs = self.frozen_call(args, kwargs)
        op, overload = op_name(func), func._overloadname
        known = shape_of(op, args, kwargs)
        result = func(*args, **kwargs) if known is None else known
        made = [result] if isinstance(result, Tensor) else [r for r in _flat(result) if isinstance(r, Tensor)]
        inplace = any(id(t) in self.values for t in made) and func._schema.is_mutable
        aliased = inplace and any(len(self.storages.get(_storage(t), ())) > 1 for t in made)
        outs = tuple(self.new_value(tensor) for tensor in made)
        python = None
        if self.python is not None:
            name, py_args, py_kwargs = self.python
            python = (name, *self.frozen_call(py_args, py_kwargs))
        module = self.open[-1].path if self.open else ""
        self.tape.calls.append(Call(op, overload, seen_args, seen_kwargs, outs, module, python, inplace, aliased))
        return result


def _storage(tensor: Tensor) -> int | None:
    """Which memory it lies in; None for sparse tensors and the like, which have none of their own."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return None


def _flat(tree: Any) -> Iterator[Any]:
    if isinstance(tree, (list, tuple)):
        for item in tree:
            yield from _flat(item)
    else:
        yield tree


@contextlib.contextmanager
def _open_functions() -> Iterator[None]:
    """Let Python-written torch functions run through, so that the calls they are made of are seen one by one."""
    places = (torch.nn.functional, torch.functional, torch._tensor)
    names = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    saved = [(place, name, getattr(place, name)) for place in places for name in names if hasattr(place, name)]
    for place, name, _ in saved:
        setattr(place, name, lambda *args: False)
    try:
        yield
    finally:
        for place, name, original in saved:
            setattr(place, name, original)


def _record_on(model: nn.Module, example_inputs: Any, device: str | None) -> Tape:
    tape = Tape(device=device or "real")
    shell, names, keep = make_shell(model, device)
    tape.attributes = trace_integers(shell)
    recorder = _AtenCalls(tape, names)
    for path, module in named_modules(shell).items():
        module.register_forward_pre_hook(
            lambda m, args, kwargs, path=path: recorder.enter(path, args, kwargs), prepend=True, with_kwargs=True
        )
        module.register_forward_hook(lambda m, i, o: recorder.leave(o), always_call=True)
    inputs = map_tensors(example_inputs, lambda t: t.to("meta") if device == "meta" else t.detach().clone())
    tape.inputs = [recorder.value(tensor) for tensor in collect_tensors(inputs)]
    noting = by_value.set(lambda e: tape.numbers.append((e, recorder.open[-1].path if recorder.open else "")))
    try:
        with plain_math(), _open_functions(), recorder, _PythonCalls(recorder):
            outputs = call_model(shell, inputs)
    finally:
        by_value.reset(noting)
    tape.outputs = [recorder.value(tensor) for tensor in collect_tensors(outputs)]
    del keep
    return tape


def record(model: nn.Module, example_inputs: Any) -> Tape:
    """Run the model's shell once in eval mode and record every ATen call.

    On meta tensors where the forward allows it (cheap, whatever the input's size), else on real ones (one forward).
    Raises CompressError where the model does not run on the example inputs.
    """
    try:
        return _record_on(model, example_inputs, "meta")
    except CompressError:
        raise
    except Exception as error:
        if any(tensor.is_meta for tensor in named_tensors(model).values()):
            raise CompressError(
                f"{type(model).__name__} does not run on the meta device: {_one_line(error)}"
            ) from error
    try:
        return _record_on(model, example_inputs, None)
    except Exception as error:
        raise CompressError(
            f"{type(model).__name__} does not run on the example inputs: {_one_line(error)}; "
            "check their shapes, types and device"
        ) from error


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
