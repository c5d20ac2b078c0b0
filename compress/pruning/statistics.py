"""Activations on calibration data in, scores out: what a channel carries, and what the next layer would miss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from ..errors import CompressError
from ..hookspecs import hookimpl
from .criteria import Criterion, Part
from .features import Layer, Watch

if TYPE_CHECKING:
    from .calibration import Calibration


def watch(model: nn.Module, calibration: Calibration, label: str, seen: Callable[[Layer, Tensor], None]) -> None:
    """Run the model on every batch and tell `seen` of each layer's inputs and output."""
    for batch in calibration.passes(label):
        with Watch(model, seen):
            calibration.forward(model, batch)


class _ByInput(Criterion):
    """What comes into the layers that read a channel: `observe` has the sums of each power of it, see `moments`."""

    name = ""
    needs_batches: ClassVar[bool] = True

    def observe(self, model: nn.Module, calibration: Calibration) -> Mapping[str, Tensor]:
        """Weight's name -> (3, n) float64: mean, mean magnitude and mean square of each of its n input indices."""
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}

        def seen(layer: Layer, output: Tensor) -> None:
            x = layer.channels().double()  # (C, positions)
            found = torch.stack((x.sum(1), x.abs().sum(1), x.square().sum(1)))  # -> (3, C)
            found = found.unflatten(1, (layer.groups, -1)).sum(1)  # -> (3, C / groups), the weight's second dimension
            sums[layer.name] = sums[layer.name] + found if layer.name in sums else found
            counts[layer.name] = counts.get(layer.name, 0) + x.shape[1] * layer.groups

        watch(model, calibration, "activations", seen)
        return {name: total / counts[name] for name, total in sums.items()}


class ActivationMean(_ByInput):
    """Channels whose activations are small in magnitude, on average, go first.

    The mean of |x| over samples and positions, where a layer reads the channel (so behind norm, activation and pool);
    a channel that several layers read adds up. Molchanov et al., Pruning Convolutional Neural Networks for Resource
    Efficient Inference, ICLR 2017, section 2.2 ("mean activation", there behind a ReLU, where |x| = x).
    """

    name = "activation-mean"

    def score(self, part: Part) -> Tensor | None:
        """Mean |x| of each input index, (n,); only where a layer reads the channels."""
        return part.observed[1] if part.role == "in" and part.observed is not None else None


class ActivationVariance(_ByInput):
    """Channels that are nearly constant go first: the next layer needs their mean, which compensation gives back.

    The variance of x over samples and positions, where a layer reads the channel. Polyak and Wolf, Channel-Level
    Acceleration of Deep Face Representations, IEEE Access 2015, section III ("inbound pruning").
    """

    name = "activation-variance"

    def score(self, part: Part) -> Tensor | None:
        """E[x^2] - E[x]^2 of each input index, (n,); only where a layer reads the channels."""
        if part.role != "in" or part.observed is None:
            return None
        mean, _, square = part.observed
        return (square - mean.square()).clamp_min(0)


class Wanda(_ByInput):
    """Weights count as much as what they are multiplied with: |W| times the norm of the input it meets.

    S_oc = |W_oc| * rms(x_c), summed over the weights of a unit, in the layers that make it and in those that read it.
    Sun et al., A Simple and Effective Pruning Approach for Large Language Models, ICLR 2024, equation 1, with the
    root mean square in place of the norm, so that layers with more positions do not weigh more. Convolutions likewise.
    """

    name = "wanda"

    def score(self, part: Part) -> Tensor | None:
        """Sum of |W| * rms(x) of each index of the place, (n,); only of weights that are multiplied with inputs."""
        if part.observed is None or part.tensor.dim() < 2:
            return None
        rms = part.observed[2].sqrt().to(part.tensor)
        met = part.tensor.abs().flatten(2).sum(2) if part.tensor.dim() > 2 else part.tensor.abs()  # -> (O, C)
        return (met * rms).sum(1 - part.dim) if part.dim < 2 else None


class Reconstruction(Criterion):
    """Channels go first that the next layer misses least after its other weights have made up for them.

    For outputs Y = X W^T with X the calibration data (for a convolution its patches, k columns a channel) and
    H = X^T X / positions + ridge, the least mean squared error of a layer that must do without channel c is
    tr(W_c [H^-1]_cc^-1 W_c^T): the optimal brain surgeon for blocks of columns. Hassibi and Stork, NIPS 1992,
    equation 5; by blocks: Kurtic et al., The Optimal BERT Surgeon, EMNLP 2022, equation 4. The compensation
    `reconstruct` makes up for what goes in the same way. Layers with groups say nothing.

    ridge: added to H's diagonal, as a fraction of its mean; above 0.
    """

    name = "reconstruction"
    needs_batches: ClassVar[bool] = True
    ridge: float = 0.01

    def __post_init__(self) -> None:
        if not self.ridge > 0:
            raise CompressError(f"ridge of reconstruction: expected a number above 0, found {self.ridge}")

    def observe(self, model: nn.Module, calibration: Calibration) -> Mapping[str, Tensor]:
        """Weight's name -> (C,) float64: the error without each of its input channels."""
        grams = second_moments(model, calibration)
        weights = dict(model.named_parameters())
        return {name: self._errors(weights[name].detach(), gram) for name, gram in grams.items()}

    def _errors(self, weight: Tensor, gram: Tensor) -> Tensor:
        """(O, C, *kernel), (C x kernel, C x kernel) -> (C,). A layer to which only zeros come misses nothing."""
        if not gram.any():
            return gram.new_zeros(weight.shape[1])
        inverse = torch.linalg.inv(ridged(gram, self.ridge))
        channels = weight.shape[1]
        k = len(gram) // channels
        blocks = inverse.view(channels, k, channels, k).diagonal(dim1=0, dim2=2).movedim(-1, 0)  # -> (C, k, k)
        columns = weight.double().flatten(2).movedim(1, 0) if k > 1 else weight.double().flatten(1).T[..., None]
        spread = torch.linalg.solve(blocks, columns.mT)  # (C, k, k), (C, k, O) -> (C, k, O)
        return (columns.mT * spread).sum((1, 2))

    def score(self, part: Part) -> Tensor | None:
        """The next layer's error without each input channel, (n,)."""
        return part.observed if part.role == "in" and part.observed is not None else None


def second_moments(model: nn.Module, calibration: Calibration) -> dict[str, Tensor]:
    """Weight's name -> E[x x^T] of the patches x it is multiplied with, (C x kernel, C x kernel) float64."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def seen(layer: Layer, output: Tensor) -> None:
        patches = layer.patches()
        if patches is None:
            return
        gram = (patches.mT @ patches).double()
        sums[layer.name] = sums[layer.name] + gram if layer.name in sums else gram
        counts[layer.name] = counts.get(layer.name, 0) + len(patches)

    watch(model, calibration, "features", seen)
    return {name: total / counts[name] for name, total in sums.items()}


def ridged(gram: Tensor, ridge: float) -> Tensor:
    """E[x x^T] with a fraction of its mean diagonal added to the diagonal, so that it can be inverted."""
    mean = gram.diagonal().mean().clamp_min(torch.finfo(gram.dtype).tiny)
    return gram + ridge * mean * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)


@hookimpl
def compress_register_criteria() -> Sequence[type[Criterion]]:
    """The criteria that look at activations."""
    return [ActivationMean, ActivationVariance, Wanda, Reconstruction]
