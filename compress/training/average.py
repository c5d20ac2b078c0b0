"""The weights after every step in, their moving average out: a network that is better to use than to go on from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class Average:
    """Exponential moving average of a network's floating-point parameters and buffers; counters are the latest ones.

    decay: how much of the average each step keeps; in step t (from 1) at most (1 + t) / (10 + t), so that the random
    first weights are soon forgotten. tensors: the average, by state-dict name; a checkpoint keeps them.
    Sources: Polyak, Juditsky (1992); the bound as in TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after a step (counted from 1)."""
        now = model.state_dict()
        floating = [name for name, tensor in now.items() if tensor.is_floating_point()]
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_([self.tensors[n] for n in floating], [now[n] for n in floating], share)
        for name in now.keys() - floating:
            self.tensors[name].copy_(now[name])

    def put(self, model: nn.Module) -> None:
        """Give the network the averaged weights."""
        model.load_state_dict(self.tensors)

    @contextmanager
    def lent(self, model: nn.Module) -> Iterator[None]:
        """The network has the averaged weights inside the block, and its own again after it."""
        own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self.put(model)
        try:
            yield
        finally:
            model.load_state_dict(own)
