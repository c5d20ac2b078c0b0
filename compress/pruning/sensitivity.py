"""A loss's gradients on calibration data in, scores out: how much the loss would change without a channel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ..hookspecs import hookimpl
from .calibration import batch_gradients
from .criteria import Criterion, Part

if TYPE_CHECKING:
    from .calibration import Calibration


class Taylor(Criterion):
    """Channels whose removal changes the loss least, to first order, go first.

    (sum of g_s w_s)^2 over the weights s of a unit in one place, g the gradient of the mean loss of the calibration
    batches. Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019, section 3.1.

    joint: whether the weights of a row go together, as above, or each counts alone, sum of (g_s w_s)^2.
    """

    name = "taylor"
    needs_gradients: ClassVar[bool] = True
    joint: bool = True

    def score(self, part: Part) -> Tensor | None:
        """Squared first-order change of the loss, (n,)."""
        if part.grad is None:
            return None
        change = _rows(part.tensor * part.grad, part.dim)
        return change.sum(1).square() if self.joint else change.square().sum(1)


class Fisher(Criterion):
    """Channels whose removal changes the loss least, to second order, go first; the curvature is Fisher's.

    1/2 sum of F_ss w_s^2 over the weights s of a unit in one place, F_ss = E[g_s^2] over the calibration batches: the
    saliency of optimal brain damage (LeCun et al., NIPS 1989, equation 5) with the empirical Fisher information in
    place of the Hessian (Theis et al., 2018, equation 8). With batches of one sample it is the empirical Fisher
    information; larger ones smooth it.

    joint: whether the weights of a row go together: 1/2 E[(sum of g_s w_s)^2], which has the whole block of F that
    belongs to the row, not its diagonal alone.
    """

    name = "fisher"
    needs_batches: ClassVar[bool] = True
    by_sample: ClassVar[bool] = True
    joint: bool = False

    def observe(self, model: nn.Module, calibration: Calibration) -> Mapping[str, Any]:
        """Parameter -> E[g^2] in its shape; with `joint`: -> {dimension: E[(sum of g w)^2] of each index}."""
        weights = dict(model.named_parameters())
        sums: dict[str, dict[int, Tensor]] = defaultdict(dict)
        for batch in calibration.passes("Fisher information"):
            for name, gradient in batch_gradients(model, calibration, batch).items():
                change = gradient * weights[name].detach()
                for dim in range(min(change.dim(), 2)) if self.joint else (-1,):
                    square = _rows(change, dim).sum(1).square() if self.joint else gradient.square()
                    sums[name][dim] = sums[name][dim] + square if dim in sums[name] else square
        n = len(calibration.seen)
        means = {name: {dim: total / n for dim, total in by_dim.items()} for name, by_dim in sums.items()}
        return means if self.joint else {name: by_dim[-1] for name, by_dim in means.items()}

    def score(self, part: Part) -> Tensor | None:
        """Second-order change of the loss, (n,)."""
        if part.observed is None:
            return None
        if self.joint:
            said = part.observed.get(part.dim)
            return None if said is None else said / 2
        fisher = part.observed.reshape(part.tensor.shape)
        return _rows(fisher * part.tensor.square(), part.dim).sum(1) / 2


class OBDC(Fisher):
    """Optimal brain damage for whole channels: a channel's weights go together, with all they have in common.

    1/2 w_c^T F_c w_c with F_c = E[g_c g_c^T], the block of the Fisher information that belongs to channel c. Wang et
    al., EigenDamage: Structured Pruning in the Kronecker-Factored Eigenbasis, ICML 2019, section 3 (C-OBD); exact
    here, without their Kronecker factors. `fisher` with `joint: true`.
    """

    name = "obd-c"
    joint: bool = True


class Hessian(Criterion):
    """Channels whose removal changes the loss least, to second order, go first; the curvature is the Hessian's.

    |1/2 sum of H_ss w_s^2| over the weights s of a unit in one place (LeCun et al., Optimal Brain Damage, NIPS 1989,
    equation 5). The diagonal of the Hessian is estimated as E[z * Hz] over random signs z (Hutchinson's method;
    Bekas et al., Applied Numerical Mathematics 2007, equation 2). The loss must be differentiable twice.

    probes: vectors z for each calibration batch. seed: of the signs.
    """

    name = "hessian"
    needs_batches: ClassVar[bool] = True
    probes: int = 1
    seed: int = 0

    def observe(self, model: nn.Module, calibration: Calibration) -> Mapping[str, Tensor]:
        """Parameter -> the estimated diagonal of its Hessian, in its shape."""
        parameters = dict(model.named_parameters())
        sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
        generator = torch.Generator().manual_seed(self.seed)
        for batch in calibration.passes("Hessian"):
            found = batch_gradients(model, calibration, batch, again=True)
            curved = {name: g for name, g in found.items() if g.requires_grad}  # others' Hessian is zero
            for _ in range(self.probes if curved else 0):
                signs = {n: _signs(g, generator) for n, g in curved.items()}
                slope = torch.stack([(g * signs[n]).sum() for n, g in curved.items()]).sum()
                mine = [parameters[n] for n in curved]
                products = torch.autograd.grad(slope, mine, retain_graph=True, allow_unused=True)
                for name, product in zip(curved, products, strict=True):
                    if product is not None:
                        sums[name] += signs[name] * product
        return {name: total / (len(calibration.seen) * self.probes) for name, total in sums.items()}

    def score(self, part: Part) -> Tensor | None:
        """Magnitude of the second-order change of the loss, (n,)."""
        if part.observed is None:
            return None
        diagonal = part.observed.reshape(part.tensor.shape)
        return _rows(diagonal * part.tensor.square(), part.dim).sum(1).abs() / 2


def _rows(values: Tensor, dim: int) -> Tensor:
    """One row for each index of a dimension: (n, everything else)."""
    return values.movedim(dim, 0).reshape(values.shape[dim], -1) if values.dim() > 1 else values[:, None]


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """Random signs, as many as `like` has elements."""
    signs = torch.randint(0, 2, like.shape, generator=generator) * 2 - 1
    return signs.to(like.device, like.dtype)


@hookimpl
def compress_register_criteria() -> Sequence[type[Criterion]]:
    """The criteria that look at gradients."""
    return [Taylor, Fisher, OBDC, Hessian]
