"""A cut network and calibration data in, the same with biases, weights or norm statistics that fit the data out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from ..errors import CompressError
from ..graph.graph import DependencyGraph
from ..graph.walk import named_tensors
from ..hookspecs import hookimpl
from .compensation import Compensation
from .features import Layer
from .masked import copy_with
from .plan import Plan
from .shift import Follow, shift_output
from .surgery import Edits, scaled

if TYPE_CHECKING:
    from .calibration import Calibration


class BiasCorrect(Compensation):
    """The mean of each layer's outputs on calibration data is what it was before the cut.

    For each convolution and linear layer that lost inputs, E[W x] of the original less that of the cut network goes
    into the next BatchNorm's running mean or the layer's bias, layer after layer, each seeing inputs that are already
    corrected. Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019, section
    4.2 ("empirical bias correction"), for what pruning takes away in place of rounding.
    """

    name = "bias-correct"
    needs_batches: ClassVar[bool] = True

    def compensate(
        self,
        original: nn.Module,
        cut: nn.Module,
        graph: DependencyGraph,
        plan: Plan,
        edits: Edits,
        calibration: Calibration | None = None,
    ) -> nn.Module:
        """Shift the outputs of `cut`, in place, and return it."""
        whole, smaller = copy_with(original, {}), copy_with(cut, {})
        shifts: dict[str, Tensor] = {}
        norms: dict[str, str | None] = {}
        for batch in _needed(calibration).passes("bias correction"):
            means: dict[str, list[Tensor]] = defaultdict(list)

            def note(layer: Layer, out: Tensor, means: dict[str, list[Tensor]] = means) -> bool:
                means[layer.name].append(_mean(layer, out))
                return True

            follow = Follow(whole, note)
            with follow:
                _needed(calibration).forward(whole, batch)
            norms |= {name: outputs.only_norm for name, outputs in follow.outputs.items()}

            def correct(layer: Layer, out: Tensor, means: dict[str, list[Tensor]] = means) -> bool:
                wanted = means[layer.name]
                if len(wanted) != 1 or 1 not in edits.select.get(layer.name, {}):
                    return False  # called several times, or it lost no inputs
                mean = wanted[0]
                kept = edits.select[layer.name].get(0)
                here = mean if kept is None else mean[torch.as_tensor(kept, device=mean.device)]
                factors = scaled(torch.ones_like(here), edits.of_rows(layer.name))
                gap = here * factors - _mean(layer, out)
                axis = out.dim() - 1 - (layer.weight.dim() - 2)
                out.add_(gap.to(out.dtype).reshape(-1, *[1] * (out.dim() - 1 - axis)))
                full = torch.zeros_like(mean)
                full[slice(None) if kept is None else torch.as_tensor(kept, device=mean.device)] = gap / factors
                shifts[layer.name] = shifts[layer.name] + full if layer.name in shifts else full
                return False

            with Follow(smaller, correct):
                _needed(calibration).forward(smaller, batch)
        for name, total in shifts.items():
            shift_output(cut, edits, name, total / len(_needed(calibration).seen), norms[name])
        return cut


class Reconstruct(Compensation):
    """The weights that are left are fitted to give each layer's old outputs from the inputs that are left.

    For each convolution (without groups) and linear layer that lost inputs: the weights W' and bias shift b' with the
    least E|W x - W' x_kept - b'|^2 + ridge |W' - W_kept|^2 over the calibration data's inputs x (for a convolution its
    patches, zero padding included), in closed form from E[x x^T], measured once on the original network. He et al.,
    Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017, equation 1, the second half; the ridge keeps
    directions that the data does not tell as they were.

    ridge: as a fraction of the mean diagonal of E[x x^T].
    """

    name = "reconstruct"
    needs_batches: ClassVar[bool] = True
    ridge: float = 0.01

    def compensate(
        self,
        original: nn.Module,
        cut: nn.Module,
        graph: DependencyGraph,
        plan: Plan,
        edits: Edits,
        calibration: Calibration | None = None,
    ) -> nn.Module:
        """Change the weights of `cut`, in place, and return it."""
        whole, tensors = copy_with(original, {}), named_tensors(cut)
        grams: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        weights: dict[str, Tensor] = {}
        norms: dict[str, str | None] = {}

        def seen(layer: Layer, output: Tensor) -> bool:
            patches = layer.patches() if 1 in edits.select.get(layer.name, {}) else None
            if patches is None:
                return False
            x = torch.cat((patches, patches.new_ones(len(patches), 1)), 1)  # the last column stands for the bias
            gram = (x.mT @ x).double()
            grams[layer.name] = grams[layer.name] + gram if layer.name in grams else gram
            counts[layer.name] = counts.get(layer.name, 0) + len(patches)
            weights[layer.name] = layer.weight.detach()
            return True

        for batch in _needed(calibration).passes("features"):
            follow = Follow(whole, seen)
            with follow:
                _needed(calibration).forward(whole, batch)
            norms |= {name: outputs.only_norm for name, outputs in follow.outputs.items()}
        for name, whole_weight in weights.items():
            weight = whole_weight.double()  # (O, C, *kernel)
            kept = torch.as_tensor(edits.select[name][1], device=weight.device)
            fitted, shift = self._fit(weight, grams[name] / counts[name], kept)
            rows = edits.select[name].get(0)
            with torch.no_grad():
                fitted = fitted if rows is None else fitted[torch.as_tensor(rows, device=weight.device)]
                tensors[name].copy_(scaled(fitted, edits.of_rows(name)))
            shift_output(cut, edits, name, shift, norms[name])
        return cut

    def _fit(self, weight: Tensor, gram: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """(O, C, *kernel), E[x x^T] with the constant last, kept inputs (k,) -> (O, k, *kernel), bias shift (O,)."""
        k = (len(gram) - 1) // weight.shape[1]
        columns = (kept[:, None] * k + torch.arange(k, device=kept.device)).flatten()
        left = torch.cat((columns, columns.new_tensor([len(gram) - 1])))
        before = weight[:, kept].flatten(1)  # -> (O, kept columns)
        ridge = self.ridge * gram.diagonal()[:-1].mean()
        damping = torch.full((len(left),), float(ridge), dtype=gram.dtype, device=gram.device)
        damping[-1] = 0
        prior = torch.cat((before, before.new_zeros(len(before), 1)), 1)
        target = gram[left][:, :-1] @ weight.flatten(1).T + damping[:, None] * prior.T  # (left, O)
        solved = torch.linalg.lstsq(gram[left][:, left] + damping.diag(), target, driver="gelsd").solution.T
        return solved[:, :-1].reshape(len(weight), len(kept), *weight.shape[2:]), solved[:, -1]


class BNRecalibrate(Compensation):
    """BatchNorms of the cut network get the statistics that its own activations have on calibration data.

    Running means and variances become the averages over the batches of each batch's own, in one pass in training mode
    of the norms alone, whatever their momentum; nothing else changes. Li et al., EagleEye, ECCV 2020, section 3.3
    (adaptive batch normalisation). Needs batches that are large enough to tell a variance.
    """

    name = "bn-recalibrate"
    needs_batches: ClassVar[bool] = True

    def compensate(
        self,
        original: nn.Module,
        cut: nn.Module,
        graph: DependencyGraph,
        plan: Plan,
        edits: Edits,
        calibration: Calibration | None = None,
    ) -> nn.Module:
        """Replace the running statistics of `cut`, in place, and return it."""
        norms = [m for m in cut.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
        modes = [(module, module.training) for module in cut.modules()]
        momenta = [norm.momentum for norm in norms]
        cut.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over the batches
            norm.train()
        try:
            for batch in _needed(calibration).passes("norm statistics"):
                _needed(calibration).forward(cut, batch)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
            for module, mode in modes:
                module.training = mode
        return cut


def _mean(layer: Layer, output: Tensor) -> Tensor:
    """(O,) the mean of each output channel."""
    return output.movedim(output.dim() - 1 - (layer.weight.dim() - 2), 0).flatten(1).double().mean(1)


def _needed(calibration: Calibration | None) -> Calibration:
    if calibration is None:
        raise CompressError("this compensation looks at data; pass calibration=batches")
    return calibration


@hookimpl
def compress_register_compensations() -> Sequence[type[Compensation]]:
    """The compensations that look at data."""
    return [BiasCorrect, Reconstruct, BNRecalibrate]
