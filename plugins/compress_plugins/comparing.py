"""What a network computes and what was read back computes in, the largest difference - or a refusal - out."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compress import CompressError, VerificationError

__all__ = ["check_still", "largest_difference", "other_batches", "outputs", "silence"]

TOLERANCE = 1e-4
COARSE = 1e-2
"""For 16-bit networks, whose arithmetic differs with the order of a sum."""
ACTING = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
"""What computes something else in train mode."""


def check_still(model: nn.Module, name: str) -> None:
    """Raise CompressError where a layer that acts in train mode is in it. name: of the format."""
    if any(module.training for module in model.modules() if isinstance(module, ACTING)):
        raise CompressError(f"export {name}: the network is in train mode; call .eval() first")


def outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """The network's output tensors in order, whatever tuples or dicts they stand in."""
    return [leaf for leaf in pytree.tree_leaves(model(images)) if isinstance(leaf, Tensor)]


def other_batches(model: nn.Module, example: Tensor) -> list[Tensor]:
    """Random inputs of batch one and three; none where the network itself does not take another batch than its own."""
    random = torch.Generator().manual_seed(0)
    others = [torch.rand(n, *example.shape[1:], generator=random).to(example.dtype) for n in (1, 3)]
    try:
        for images in others:
            model(images)
    except RuntimeError:  # a batch size written into a view or an expand
        return []
    return others


def largest_difference(
    model: nn.Module, inputs: Sequence[Tensor], read: Callable[[Tensor], Sequence[Tensor]], name: str, runtime: str
) -> float:
    """max |difference| over all inputs and outputs between the network and what was read back.

    read: input -> outputs, computed by `runtime` from the files. Raises VerificationError where an output differs by
    more than 1e-4 of its largest value (1e-2 for 16-bit networks).
    """
    largest = 0.0
    for images in inputs:
        for number, (mine, theirs) in enumerate(zip(outputs(model, images), read(images), strict=True)):
            difference = (mine.double() - theirs.double()).abs().max().item()
            scale = mine.abs().max().item()
            tolerance = COARSE if mine.dtype in (torch.float16, torch.bfloat16) else TOLERANCE
            if not difference <= tolerance * max(scale, 1e-6):
                raise VerificationError(
                    f"export {name}: output {number} computed by {runtime} differs by {difference:.3g} where its "
                    f"largest value is {scale:.3g}; expected at most {tolerance:g} of it; nothing was written"
                )
            largest = max(largest, difference)
    return largest


@contextmanager
def silence() -> Iterator[None]:
    """No warnings, log lines or prints: torch.export speaks of its own internals; the file is compared afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    unread = io.StringIO()
    try:
        with warnings.catch_warnings(), redirect_stdout(unread), redirect_stderr(unread):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
