"""A folder of YOLO images in, images a second out: of the loader, of the step, of both, and of Ultralytics' trainer.

    pip install ultralytics
    python benchmarks/throughput.py ../my-hands --width 0.25 --size 160 --batch 16

All on this machine, in turns in one process, with the same number of threads: medians over rounds. `loader`: decoding,
augmentation and batching in the background thread, nothing else running. `step`: forward, loss, backward and optimizer
on one batch that is there already. `training`: both together, as `compress run` trains. `ultralytics`: its
DetectionTrainer on its own YOLOv3 of that width, built from YAML, with its default augmentation, between the ends of
its batches, so that neither set-up nor validation counts. The networks are not the same: their multiply-adds are
printed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

import compress
from compress.recipes import load as load_recipe
from compress.stages.training import Training
from compress.training.loader import TrainingOrders, load
from compress.training.optim import build_optimizer
from compress.training.step import start_fabric, take_step

SKIP = 3  # steps of each turn that warm up


class Ours:
    """This project's loader and step on a data set, as the stage `baseline` of hands_quarter trains."""

    def __init__(self, root: Path, width: float, size: int, batch: int) -> None:
        settings = [f"data.root={root}", f"data.image_size={size}", f"model.width={width}"]
        recipe = load_recipe("hands_quarter", [*settings, f"stages.baseline.batch_size={batch}"])
        self.stage = next(stage for _, stage in recipe.stages if isinstance(stage, Training))
        self.data, self.task = recipe.dataset.open(), recipe.task
        self.model = recipe.architecture.build(len(self.data.classes), (size, size))
        self.fabric = start_fabric("cpu", self.stage.precision)
        channels_last = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.wrapped, self.optimizer = self.fabric.setup(channels_last, build_optimizer(self.model, self.stage))

    def batches(self) -> Any:
        size = self.stage.batch_size
        return load(self.data.train, TrainingOrders(len(self.data.train), size, 1000, 0, "throughput"))

    def step(self, batch: Any) -> None:
        take_step(self.fabric, self.wrapped, self.optimizer, self.task.loss, self.stage, [batch])

    def loader(self, steps: int) -> float:
        with contextlib.closing(self.batches()) as batches:
            return pace(len(batch.indices) for batch in itertools.islice(batches, steps))

    def alone(self, steps: int) -> float:
        with contextlib.closing(self.batches()) as batches:
            batch = next(batches)

        def run() -> Iterator[int]:
            for _ in range(steps):
                self.step(batch)
                yield len(batch.indices)

        return pace(run())

    def training(self, steps: int) -> float:
        def run() -> Iterator[int]:
            with contextlib.closing(self.batches()) as batches:
                for batch in itertools.islice(batches, steps):
                    self.step(batch)
                    yield len(batch.indices)

        return pace(run())


class Theirs:
    """Ultralytics' trainer on a copy of the same images: it writes its caches beside them."""

    def __init__(self, root: Path, scratch: Path, width: float, size: int, batch: int) -> None:
        self.width, self.size, self.batch, self.scratch = width, size, batch, scratch
        copied = scratch / "data"
        shutil.copytree(root, copied)
        described = yaml.safe_load((root / "data.yaml").read_text(encoding="utf-8"))
        described |= {"path": str(copied), "train": "images/train", "val": "images/val"}
        self.data, self.cfg = scratch / "data.yaml", scratch / "yolov3-narrow.yaml"
        self.data.write_text(yaml.safe_dump(described))
        self.classes = len(described["names"])
        self.cfg.write_text(yaml.safe_dump(self._narrow()))
        self.model: nn.Module | None = None

    def _narrow(self) -> dict[str, Any]:
        import ultralytics

        found = Path(ultralytics.__file__).parent / "cfg/models/v3/yolov3.yaml"
        return yaml.safe_load(found.read_text(encoding="utf-8")) | {"width_multiple": self.width, "nc": self.classes}

    def training(self, steps: int) -> float:
        """Images a second over the first `steps` batches of a new training."""
        from ultralytics.models.yolo.detect import DetectionTrainer

        ends: list[float] = []
        options = {
            "model": str(self.cfg), "data": str(self.data), "imgsz": self.size, "batch": self.batch, "epochs": 1,
            "device": "cpu", "workers": 1, "val": False, "plots": False, "save": False, "amp": False,
            "optimizer": "AdamW", "lr0": 1.5e-3, "nbs": self.batch, "verbose": False, "exist_ok": True,
            "project": str(self.scratch / "runs"), "pretrained": False,
        }  # fmt: skip
        trainer = DetectionTrainer(overrides=options)

        def ended(trainer: Any) -> None:
            ends.append(time.perf_counter())
            if len(ends) >= steps:
                raise Enough

        trainer.add_callback("on_train_batch_end", ended)
        with contextlib.suppress(Enough):
            trainer.train()
        self.model = trainer.model
        return self.batch * (len(ends) - 1 - SKIP) / (ends[-1] - ends[SKIP])


class Enough(Exception):
    """As many batches as were asked for."""


def pace(images: Iterator[int]) -> float:
    """Images a second, from the end of the SKIPth on."""
    began, count = 0.0, 0
    for number, size in enumerate(images):
        if number == SKIP:
            began = time.perf_counter()
        elif number > SKIP:
            count += size
    return count / (time.perf_counter() - began)


def size_of(model: nn.Module, image: Tensor) -> compress.Cost:
    return compress.trace(model.eval(), image).cost()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="a YOLO folder: data.yaml, images/train, labels/train, ...")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--size", type=int, default=160, help="pixels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=25, help="batches a turn, of which the first three warm up")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # Ultralytics sets the threads by itself
    ours = Ours(options.root.resolve(), options.width, options.size, options.batch)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        theirs = Theirs(options.root.resolve(), Path(scratch), options.width, options.size, options.batch)
        contenders = {
            "loader": ours.loader, "step": ours.alone, "training": ours.training, "ultralytics": theirs.training,
        }  # fmt: skip
        for _ in range(options.rounds):
            for name, contender in contenders.items():
                torch.set_num_threads(options.threads)
                found.setdefault(name, []).append(contender(options.steps))
        image = torch.rand(1, 3, options.size, options.size)
        assert theirs.model is not None
        costs = {"this project": size_of(ours.model, image), "Ultralytics": size_of(theirs.model, image)}
    for name, cost in costs.items():
        print(f"YOLOv3 of {name}: {cost} at {options.size} pixels")
    print(f"batch {options.batch}, {options.threads} threads, {options.rounds} rounds of {options.steps} batches")
    print("| | images/s | least | most |\n| --- | ---: | ---: | ---: |")
    for name, paces in found.items():
        print(f"| {name} | {statistics.median(paces):.1f} | {min(paces):.1f} | {max(paces):.1f} |")


if __name__ == "__main__":
    main()
