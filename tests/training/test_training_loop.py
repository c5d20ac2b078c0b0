"""The loop's promises: the same bits each time, however often it is stopped; no divergence without a word."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy
from torch import nn, optim

from compress.errors import CompressError
from compress.training.journal import NAME as METRICS
from compress.training.journal import read
from compress.training.loop import CHECKPOINT, Job, train
from compress.training.optim import Settings
from compress.training.progress import Progress
from compress.training.step import TrainingError


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def job(folder: Path, *, seed: int = 0, poison: int | None = None, **settings: Any) -> Job:
    data = toy.ToyStripes(train=40, poison=poison).open()
    torch.manual_seed(seed)
    model = toy.ToyNet().build(4, data.image_size)
    options = {"epochs": 3, "batch_size": 8, "lr": 0.05, **settings}
    quiet = Progress(stream=open(os.devnull, "w"))  # noqa: SIM115
    return Job("base", model, data.train, toy.ToyTask(), Settings(**options), seed, folder, progress=quiet)


def weights(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    assert not [name for name in a if a[name].tobytes() != b[name].tobytes()]


class Pulled:
    """A regularizer at work: what it watches, pulled towards zero after each step."""

    def __init__(self, optimizer: optim.Optimizer, watched: dict[str, torch.Tensor], pull: float) -> None:
        self._watched, self._pull = watched, pull
        self._hook = optimizer.register_step_post_hook(self._shrink)

    def _shrink(self, *_: Any) -> None:
        for tensor in self._watched.values():
            tensor.data.sub_(self._pull * tensor.data.sign())

    def watched(self) -> dict[str, torch.Tensor]:
        return self._watched

    def detach(self) -> None:
        self._hook.remove()


def pulling(pull: float) -> Callable[[nn.Module, optim.Optimizer], Pulled]:
    def attach(model: nn.Module, optimizer: optim.Optimizer) -> Pulled:
        norms = {n: p for n, p in model.named_parameters() if p.ndim == 1 and n.endswith("1.weight")}
        return Pulled(optimizer, norms, pull)

    return attach


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_same_seed_same_bits_other_seed_others(tmp_path, optimizer):
    first, again, other = (
        weights(train(job(tmp_path / name, seed=seed, optimizer=optimizer)))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert_same(first, again)
    assert (tmp_path / "a" / METRICS).read_bytes() == (tmp_path / "b" / METRICS).read_bytes()
    assert (first["stem.0.weight"] != other["stem.0.weight"]).any()


def test_it_learns(tmp_path):
    done = job(tmp_path, epochs=12)
    model = train(done)
    val = toy.Stripes(32, 2)
    batch = val.collate([val.sample(i, None) for i in range(32)])
    assert toy.ToyTask().evaluate(model, [batch], ("a", "b", "c", "d")).metrics["accuracy"] > 0.9
    assert [line["epoch"] for line in read(tmp_path) if line["kind"] == "epoch"] == list(range(1, 13))


def validated(job: Job, accuracy: Callable[[int], float]) -> Job:
    """The job with a validation that finds what `accuracy` says of the epoch, and remembers each network it saw."""
    seen = 0

    def validate(model: nn.Module) -> dict[str, float]:
        nonlocal seen
        seen += 1
        return {"accuracy": accuracy(seen)}

    return replace(job, validate=validate)


def test_averaged_weights_are_what_is_validated_and_left(tmp_path):
    """Against the definition, step by step: a_t = d a_{t-1} + (1 - d) w_t, d = min(decay, (1 + t) / (10 + t))."""
    steps: list[dict[str, torch.Tensor]] = []
    validated_weights: list[torch.Tensor] = []
    averaging = job(tmp_path / "a", ema=0.3, epochs=2, validate_every=1)

    def attach(model: nn.Module, optimizer: optim.Optimizer) -> Pulled:
        def note(*_: Any) -> None:
            steps.append({name: tensor.clone() for name, tensor in model.state_dict().items()})

        note()
        optimizer.register_step_post_hook(note)
        return Pulled(optimizer, {}, 0.0)

    def validate(model: nn.Module) -> dict[str, float]:
        validated_weights.append(model.state_dict()["head.weight"].clone())
        return {"accuracy": 0.5}

    left = train(replace(averaging, attach=attach, validate=validate)).state_dict()
    expected, seen = {name: t.double() for name, t in steps[0].items()}, []
    for t, now in enumerate(steps[1:], start=1):
        decay = min(0.3, (1 + t) / (10 + t))
        expected = {name: decay * expected[name] + (1 - decay) * now[name] for name in now}
        seen.append(expected["head.weight"])
    assert len(seen) == 10
    for name, tensor in left.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, expected[name].float(), rtol=1e-5, atol=1e-6)
    assert left["stem.1.num_batches_tracked"] == 10
    torch.testing.assert_close(validated_weights[0], seen[4].float())
    assert (left["head.weight"] != steps[-1]["head.weight"]).any()
    raw = train(job(tmp_path / "b", epochs=2)).state_dict()  # the average is kept beside the weights, not instead
    assert torch.equal(raw["head.weight"], steps[-1]["head.weight"])


def test_parts_of_a_batch_teach_what_the_whole_batch_does(tmp_path):
    """Where nothing depends on a batch's statistics: norms in eval mode, no dropout, a loss that is a mean."""
    ends = []
    for name, parts in (("whole", 1), ("parts", 4)):
        part = job(tmp_path / name, accumulate=parts, epochs=2)
        part = replace(part, model=toy.Calm(part.model))
        ends.append(weights(train(part)))
    for name in ends[0]:
        np.testing.assert_allclose(ends[0][name], ends[1][name], rtol=1e-4, atol=1e-6)
    assert len(read(tmp_path / "parts")) == len(read(tmp_path / "whole"))
    with pytest.raises(CompressError, match=r"batch_size: 8 images do not make 3 equal parts .* try 6"):
        train(job(tmp_path / "odd", accumulate=3))


def test_the_best_network_is_kept_and_patience_ends(tmp_path, capsys):
    curve = [0.1, 0.5, 0.7, 0.6, 0.7, 0.2, 0.9]
    ends = {}
    for keep in ("best", "last"):
        settings = {"validate_every": 1, "patience": 3, "keep": keep, "epochs": 7}
        told = replace(job(tmp_path / keep, **settings), progress=Progress(stream=sys.stdout))
        ends[keep] = weights(train(validated(told, lambda epoch: curve[epoch - 1])))
        assert [line["epoch"] for line in read(tmp_path / keep) if line["kind"] == "epoch"] == [1, 2, 3, 4, 5, 6]
        assert "base: ends after epoch 6, no better accuracy since epoch 3" in capsys.readouterr().out
    stopped: dict[int, dict[str, np.ndarray]] = {}

    def note(model: nn.Module) -> dict[str, float]:
        stopped[len(stopped) + 1] = weights(model)
        return {"accuracy": 0.0}

    train(replace(job(tmp_path / "all", validate_every=1, epochs=7), validate=note))
    assert_same(ends["best"], stopped[3])
    assert_same(ends["last"], stopped[6])


def test_compiling_without_a_compiler_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(CompressError, match=r"^compile: needs a C\+\+ compiler on a CPU"):
        train(job(tmp_path, compile=True))


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(tmp_path):
    eager = job(tmp_path / "plain", epochs=1, batch_size=20)
    compiled = job(tmp_path / "compiled", epochs=1, batch_size=20, compile=True)
    for each in (eager, compiled):
        each.model.drop.p = 0.0  # a translated network draws other random numbers
    plain, translated = weights(train(eager)), weights(train(compiled))
    assert plain.keys() == translated.keys() and type(compiled.model) is toy.Net
    for name in plain:
        np.testing.assert_allclose(plain[name], translated[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_ctrl_c_keeps_a_checkpoint_and_the_end_is_the_same(tmp_path, optimizer):
    whole = weights(train(job(tmp_path / "whole", optimizer=optimizer)))
    before = signal.getsignal(signal.SIGINT)

    def press(epoch: int, metrics: dict[str, float]) -> None:
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(replace(job(tmp_path / "stopped", optimizer=optimizer), epoch_finished=press))
    assert (tmp_path / "stopped" / CHECKPOINT).exists()
    assert signal.getsignal(signal.SIGINT) is before
    resumed = job(tmp_path / "stopped", optimizer=optimizer, seed=0)
    for parameter in resumed.model.parameters():  # whatever the network was, the checkpoint decides
        parameter.data.zero_()
    assert_same(weights(train(resumed)), whole)
    assert (tmp_path / "stopped" / METRICS).read_bytes() == (tmp_path / "whole" / METRICS).read_bytes()


@pytest.mark.parametrize("how", ["plain", "everything"])
def test_killed_at_random_points_ends_the_same(tmp_path, how):
    """kill -9 again and again: each attempt is a forked process that is shot after a random time."""
    script = Path(__file__).with_name("shoot.py")
    run = [sys.executable, str(script), str(tmp_path), how]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    shots = json.loads(done.stdout)
    assert shots["killed"] >= 3 and len(set(shots["resumed_at"])) >= 3, shots
    whole, shot = tmp_path / "whole", tmp_path / "shot"
    for file in ("weights.safetensors", METRICS):
        assert (whole / file).read_bytes() == (shot / file).read_bytes()


EVERYTHING = {"accumulate": 2, "ema": 0.9, "optimizer": "adamw", "schedule": "step", "lr": 0.01}


@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["plain", "everything"])
def test_divergence_names_step_pictures_and_checkpoint(tmp_path, settings):
    with pytest.raises(TrainingError, match=r"training diverged at step \d+: the loss is not finite: loss nan") as said:
        train(job(tmp_path, poison=7, **settings))
    assert "stripes-007" in str(said.value) and "no checkpoint was made yet" in str(said.value)
    assert "\n" not in str(said.value) and isinstance(said.value, CompressError)

    def press(epoch: int, metrics: dict[str, float]) -> None:
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(replace(job(tmp_path / "later", **settings), epoch_finished=press))
    with pytest.raises(TrainingError, match=r"the last good checkpoint is .*later/checkpoint"):
        train(job(tmp_path / "later", poison=7, **settings))


@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["plain", "everything"])
def test_exploding_gradient_is_no_silent_poison(tmp_path, settings):
    exploding = job(tmp_path, **settings)

    class Exploding(toy.ToyTask):
        name = "exploding"

        def loss(self, model, images, targets):
            loss = super().loss(model, images, targets)["loss"]
            return {"loss": loss + (loss - loss.detach()).abs().pow(0.5)}  # finite, with an infinite slope

    before = weights(exploding.model)
    with pytest.raises(TrainingError, match="step 1: the gradient is not finite"):
        train(replace(exploding, task=Exploding()))
    assert before["head.weight"].tobytes() == exploding.model.head.weight.detach().numpy().tobytes()


def test_a_regularizer_without_effect_is_named(tmp_path, capsys):
    for pull, expected in ((1e-6, True), (0.02, False)):
        said = replace(job(tmp_path / str(pull), lr=1e-4), attach=pulling(pull), progress=Progress(stream=sys.stdout))
        train(said)
        assert ("the regularizer hardly moves anything" in capsys.readouterr().out) is expected
    last = [line for line in read(tmp_path / "0.02") if line["kind"] == "epoch"][-1]
    assert last["gamma_median"] == pytest.approx(0.7, abs=0.05)  # 1 - 15 steps of 0.02


def test_validation_changes_nothing_but_the_metrics(tmp_path):
    def validate(model: nn.Module) -> dict[str, float]:
        torch.manual_seed(123)
        return {"accuracy": float(model.eval()(torch.ones(1, 3, 16, 16)).argmax())}

    plain = weights(train(job(tmp_path / "plain")))
    seen = weights(train(replace(job(tmp_path / "seen", validate_every=2), validate=validate)))
    assert_same(plain, seen)
    epochs = [line for line in read(tmp_path / "seen") if line["kind"] == "epoch"]
    assert ["val_accuracy" in line for line in epochs] == [False, True, False]


def test_half_precision(tmp_path):
    with pytest.raises(CompressError, match="16-mixed needs a GPU"):
        train(job(tmp_path / "half", precision="16-mixed"))
    trained = weights(train(job(tmp_path / "b16", precision="bf16-mixed")))
    full = weights(train(job(tmp_path / "f32")))
    assert trained["stem.0.weight"].dtype == np.float32
    np.testing.assert_allclose(trained["stem.0.weight"], full["stem.0.weight"], atol=0.1)
    assert trained["stem.0.weight"].tobytes() != full["stem.0.weight"].tobytes()
