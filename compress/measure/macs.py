"""A network and an input in, multiply-adds as fvcore counts them out: a second opinion on `graph.cost()`."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

CONTRACTIONS = frozenset({"conv", "linear", "addmm", "matmul", "bmm", "mm", "einsum"})
"""fvcore's names of the operators whose multiply-adds `graph.cost()` counts; norms, activations, resizing are not."""

UNCOUNTED = frozenset(
    {"aten::scaled_dot_product_attention", "aten::_native_multi_head_attention", "aten::_transformer_encoder_layer_fwd"}
    | {"aten::lstm", "aten::gru", "aten::rnn_tanh", "aten::rnn_relu", "aten::baddbmm", "aten::addbmm", "aten::bilinear"}
)
"""Operators that multiply matrices and that fvcore counts as nothing."""


@dataclass(frozen=True)
class FvcoreMacs:
    """macs: multiply-adds of convolutions, linear layers and matmuls. uncounted: others that multiply -> how often."""

    macs: int
    uncounted: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        missing = ", ".join(f"{n} x {name}" for name, n in self.uncounted.items())
        return f"{self.macs:,} multiply-adds (fvcore{'; not counted: ' + missing if missing else ''})"


def fvcore_macs(model: nn.Module, example: Any) -> FvcoreMacs:
    """Multiply-adds of one forward pass in eval mode, counted by fvcore from a jit trace of its own.

    example: the input tensor, or a tuple of positional inputs. The model is copied, so that its mode and its running
    statistics stay as they are.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    with warnings.catch_warnings():  # jit warns of its own deprecation and of every Python number it takes for constant
        warnings.simplefilter("ignore")
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(copy.deepcopy(model).eval(), inputs)
        analysis.set_op_handle("aten::_convolution_mode", _padded_by_name)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        with torch.no_grad():
            counted, unsupported = analysis.by_operator(), analysis.unsupported_ops()
    macs = sum(int(n) for name, n in counted.items() if name in CONTRACTIONS)
    return FvcoreMacs(macs, {name: n for name, n in unsupported.items() if name in UNCOUNTED})


def _padded_by_name(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """A convolution with `padding="same"` or `"valid"`, which fvcore does not know: as it counts any other."""
    from fvcore.nn.jit_handles import conv_flop_count, get_shape

    return Counter({"conv": conv_flop_count(get_shape(inputs[0]), get_shape(inputs[1]), get_shape(outputs[0]))})
