"""The checks of datasets and of the tasks that learn from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..training.dataset import Data, Dataset
from ..training.task import Task
from .options import check_plugin, expect

BATCH = 4


def check_dataset(dataset: Dataset) -> Data:
    """Its splits give images of one size, each the same whenever it is asked for; returns the opened data."""
    check_plugin(dataset)
    kind = type(dataset).__name__
    missing = dataset.available()
    expect(missing is None, f"{kind} is not there, so it cannot be checked: {missing}")
    data, again = dataset.open(), dataset.open()
    expect(data.fingerprint == again.fingerprint, f"{kind}: opened twice, it has two fingerprints")
    expect(bool(data.classes), f"{kind}: Data.classes is empty")
    for label, split, other in (("train", data.train, again.train), ("val", data.val, again.val)):
        where = f"{kind}, {label}"
        expect(len(split) > 0, f"{where}: is empty")
        for index in (0, len(split) - 1):
            for rng in (lambda: None, lambda: np.random.default_rng(3)):
                image, target = split.sample(index, rng())
                shape = (3, *data.image_size)
                expect(tuple(image.shape) == shape, f"{where}: image {index} is {tuple(image.shape)}, expected {shape}")
                expect(image.dtype == torch.uint8, f"{where}: image {index} is {image.dtype}, expected torch.uint8")
                for twin in (split.sample(index, rng()), other.sample(index, rng())):
                    expect(_same((image, target), twin), f"{where}: sample {index} is another one when asked again")
        images, targets = split.collate([split.sample(i, None) for i in range(min(BATCH, len(split)))])
        right = images.dtype == torch.float32 and float(images.min()) >= 0 and float(images.max()) <= 1
        expect(right, f"{where}: collate gives {images.dtype} images, expected float32 in [0, 1]")
        expect(len(images) == len(targets), f"{where}: collate gives {len(images)} images and {len(targets)} targets")
    return data


def check_task(task: Task, model: nn.Module, data: Data) -> None:
    """Its loss is finite and teaches the model; its metrics hold the headline, are finite and the same each time."""
    check_plugin(task)
    kind = type(task).__name__
    images, targets = _batch(data)
    parts = task.loss(model.train(), images, targets)
    expect("loss" in parts, f"{kind}.loss returned {sorted(parts)}; expected 'loss' among them")
    for name, value in parts.items():
        fine = value.ndim == 0 and bool(torch.isfinite(value))
        expect(fine, f"{kind}.loss: '{name}' is {value}, expected a finite scalar")
    model.zero_grad()
    parts["loss"].backward()
    expect(any(p.grad is not None and bool(p.grad.any()) for p in model.parameters()), f"{kind}.loss teaches nothing")
    found, again = (task.evaluate(model.eval(), [(images, targets)], data.classes) for _ in range(2))
    named = sorted(found.metrics)
    expect(task.headline in named, f"{kind}: the headline '{task.headline}' is none of the metrics {named}")
    odd = [name for name, value in found.metrics.items() if not np.isfinite(value)]
    expect(not odd, f"{kind}: the metrics {odd} are not finite")
    expect(dict(found.metrics) == dict(again.metrics), f"{kind}.evaluate gives other metrics a second time")


def _batch(data: Data) -> tuple[Tensor, Any]:
    return data.val.collate([data.val.sample(i, None) for i in range(min(BATCH, len(data.val)))])


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
