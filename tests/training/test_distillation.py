"""What a teacher adds to a loss: closed forms, the channels that a cut left, and a teacher that nothing changes."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy
from test_training_loop import assert_same, job, weights
from torch import Tensor, nn

import compress
from compress import Answer, Distiller, Kept
from compress.plugins import installed
from compress.training.journal import read
from compress.training.loop import CHECKPOINT, Job, train


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def lesson(kind: str, student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
    """A distillation's loss for outputs that are given."""
    distillation = installed().make("distillations", {"uses": kind, **options})
    empty = nn.Identity()
    return distillation.loss(Answer(empty, (), student, {}), Answer(empty, (), teacher, {}), None)


@pytest.mark.parametrize("temperature", [1.0, 2.5, 20.0])
@pytest.mark.parametrize("shape", [(6, 4), (2, 5, 3, 3)])
def test_logits_are_the_divergence_of_softened_scores(shape: tuple[int, ...], temperature: float) -> None:
    """By hand, in numpy: T^2 sum p log(p / q), p and q the softmax of scores over T; the mean over the rest."""
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(shape), 3 * torch.randn(shape)

    def softened(scores: Tensor) -> np.ndarray:
        e = np.exp(scores.double().numpy() / temperature)
        return e / e.sum(1, keepdims=True)

    p, q = softened(teacher), softened(student)
    expected = temperature**2 * (p * np.log(p / q)).sum(1).mean()
    assert lesson("logits", student, teacher, temperature=temperature).item() == pytest.approx(expected, rel=1e-4)
    assert lesson("logits", teacher, teacher, temperature=temperature).item() == 0


def test_the_gradient_of_logits_is_the_published_one() -> None:
    """Hinton et al., equation 2: dC/ds = (q - p) / T for the cross-entropy; times T^2, over the number of images."""
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)
    lesson("logits", student, teacher, temperature=3.0).backward()
    expected = 3.0**2 * ((student / 3).softmax(1) - (teacher / 3).softmax(1)) / 3 / 6
    torch.testing.assert_close(student.grad, expected.detach())


@pytest.mark.parametrize(
    ("student", "teacher", "said"),
    [
        (torch.rand(2, 4), torch.rand(2, 5), r"the student gives scores \(2, 4\), the teacher \(2, 5\)"),
        (torch.rand(2, 1), torch.rand(2, 1), r"the student gives a tensor \(2, 1\)"),
        ([torch.rand(2, 4)], [torch.rand(2, 4)], "the student gives a list"),
    ],
)
def test_outputs_that_do_not_fit_are_one_line(student: Any, teacher: Any, said: str) -> None:
    with pytest.raises(compress.CompressError, match=said) as caught:
        lesson("logits", student, teacher)
    assert "\n" not in str(caught.value)


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = toy.Net(4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return model


IMAGES = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
POINTS = ["stem", "inner.0", "inner.1", "outer", "head"]


def cut(model: nn.Module, ratio: float = 0.5, **options: Any) -> tuple[Any, Any]:
    graph = compress.trace(model, IMAGES[:1], **options)
    return graph, compress.apply(model, graph, compress.plan(graph, "random", ratio))


def test_features_are_compared_in_the_channels_that_a_cut_left() -> None:
    """Oracle: the masked teacher. A cut network computes what it does, so its features are those of the survivors."""
    teacher = net(1).eval()
    graph, pruned = cut(teacher)
    with torch.no_grad():
        for name, by_dim in pruned.edits.select.items():  # what goes says nothing, so that what stays is as in the cut
            tensor = dict(teacher.named_parameters()).get(name)
            for dim, index in by_dim.items() if tensor is not None else ():
                gone = np.setdiff1d(np.arange(tensor.shape[dim]), index)
                tensor.index_fill_(dim, torch.from_numpy(gone), 0.0)
    distiller = Distiller(pruned.model, teacher, {"uses": "features", "points": POINTS}, kept=Kept(graph, pruned.edits))
    with distiller.watch() as seen:
        pruned.model.eval()(IMAGES)
    (_, _, student), *_ = seen.calls
    told = distiller.ask((IMAGES,), {})
    widths = {point: student.features[point][0].shape[1] for point in POINTS}
    assert widths == {"stem": 4, "inner.0": 6, "inner.1": 6, "outer": 6, "head": 4}
    for point in POINTS:
        (mine,), (theirs,) = student.features[point], told.features[point]
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert seen.losses()["loss"].item() == pytest.approx(0, abs=1e-8)


def test_the_loss_of_features_is_the_relative_squared_error() -> None:
    """Hooks and indices by hand: the survivors are those of the convolution that makes the channels."""
    teacher, (graph, pruned) = net(1).eval(), cut(net(1).eval())
    with torch.no_grad():
        for parameter in pruned.model.parameters():
            parameter.mul_(1.1)
    distiller = Distiller(
        pruned.model, teacher, {"uses": "features", "points": ["stem", "inner"]}, kept=Kept(graph, pruned.edits)
    )
    with distiller.watch() as seen:
        pruned.model.eval()(IMAGES)
    errors = []
    with torch.no_grad():
        mine, theirs = pruned.model.stem(IMAGES), teacher.stem(IMAGES)
        for name in ("stem", "inner"):
            if name == "inner":
                mine, theirs = pruned.model.inner(mine), teacher.inner(theirs)
            left = theirs[:, torch.from_numpy(pruned.edits.select[f"{name}.0.weight"][0])]
            errors.append((mine - left).square().mean() / left.square().mean())
    expected = torch.stack(errors).mean()
    assert expected > 0.001
    torch.testing.assert_close(seen.losses()["distill_features"], expected, rtol=1e-4, atol=0)


def test_a_teacher_that_was_cut_itself_is_narrowed_from_what_it_has() -> None:
    whole = net(1).eval()
    graph, once = cut(whole, 0.25)
    _, twice = cut(once.model.eval(), 0.5)
    from compress.pruning.remap import compose

    second = compose(once.edits, twice.edits)
    for point in ("stem", "inner", "outer.0"):
        (by_dim,) = Kept(graph, second, once.edits).at(point)
        maker = {"stem": "stem.0.weight", "inner": "inner.0.weight", "outer.0": "outer.0.weight"}[point]
        assert by_dim[1].tolist() == twice.edits.select[maker][0].tolist()
    with pytest.raises(compress.CompressError, match="has channels that were cut from the larger network"):
        Kept(graph, once.edits, second).at("stem")


def test_unknown_points_and_shapes_that_differ_are_one_line() -> None:
    teacher = net(1)
    graph, pruned = cut(teacher)
    for kept in (None, Kept(graph, pruned.edits)):
        with pytest.raises(compress.CompressError, match=r"has no module 'innr'; did you mean 'inner'\?"):
            Distiller(pruned.model, teacher, {"uses": "features", "points": ["innr"]}, kept=kept)
    with pytest.raises(compress.CompressError, match=r"no module 'stm' returns anything .* did you mean 'stem'\?"):
        Kept(graph, pruned.edits).at("stm")
    distiller = Distiller(pruned.model, teacher, {"uses": "features", "points": ["stem"]})
    with distiller.watch() as seen:
        pruned.model(IMAGES)
    with pytest.raises(compress.CompressError, match=r"\(6, 4, 16, 16\) in the student and \(6, 8, 16, 16\) .*kept="):
        seen.losses()
    with distiller.watch() as seen:
        pass
    with pytest.raises(compress.CompressError, match="was not run inside"):
        seen.losses()


def test_weights_add_up_and_the_teacher_stays_as_it_is() -> None:
    teacher, student = net(1).train(), net(2).train()
    teacher.seen = teacher(IMAGES)  # what a forward left behind, with its gradient's history, cannot be copied
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    both = [{"uses": "logits", "weight": 0.5}, {"uses": "features", "points": ["inner"], "weight": 3.0}]
    distiller = Distiller(student, teacher, both)
    generator = torch.get_rng_state()
    with distiller.watch() as seen:
        student(IMAGES)
    torch.set_rng_state(generator)
    losses = seen.losses()
    assert torch.equal(torch.get_rng_state(), generator)  # no dropout in the teacher
    expected = 0.5 * losses["distill_logits"] + 3.0 * losses["distill_features"]
    torch.testing.assert_close(losses["loss"].detach(), expected)
    losses["loss"].backward()
    assert all(p.grad is not None for n, p in student.named_parameters())
    assert teacher.training and all(p.grad is None and p.requires_grad for p in teacher.parameters())
    assert not distiller.teacher.training and not any(p.requires_grad for p in distiller.teacher.parameters())
    for other in (teacher.state_dict(), distiller.teacher.state_dict()):
        assert all(torch.equal(before[name], tensor) for name, tensor in other.items())
    assert not student._forward_hooks and not any(m._forward_hooks for m in student.modules())
    with torch.no_grad():
        next(teacher.parameters()).zero_()  # whatever becomes of it
    assert bool(next(distiller.teacher.parameters()).any())


def taught(folder: Path, ratio: float = 0.5, **settings: Any) -> Job:
    """A student that was cut from its teacher, and learns its logits and features."""
    plain = job(folder, **settings)
    teacher = net(1)
    graph, pruned = cut(teacher, ratio)
    distillations = ["logits", {"uses": "features", "points": ["inner", "outer"]}]
    distiller = Distiller(pruned.model, teacher, distillations, kept=Kept(graph, pruned.edits))
    return replace(plain, model=pruned.model, distiller=distiller)


def test_the_loop_adds_what_the_teacher_says(tmp_path: Path) -> None:
    done = taught(tmp_path, epochs=4, lr=0.02)
    before = {name: t.clone() for name, t in done.distiller.teacher.state_dict().items()}
    train(done)
    lines = [line for line in read(tmp_path) if line["kind"] == "epoch"]
    for line in lines:  # the toy task's own loss is its entropy
        parts = line["entropy"] + line["distill_logits"] + line["distill_features"]
        assert line["loss"] == pytest.approx(parts, rel=1e-5)
    assert lines[-1]["distill_features"] < 0.7 * lines[0]["distill_features"]
    assert all(torch.equal(before[n], t) for n, t in done.distiller.teacher.state_dict().items())


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    """Norms in eval mode and no dropout: the loss and its gradient are the task's alone."""
    model = toy.Calm(net(1)).train()
    distiller = Distiller(model, model, ["logits", {"uses": "features", "points": ["inner.stem", "inner.outer"]}])
    targets = [{"kind": k % 4} for k in range(len(IMAGES))]
    grads = []
    for loss in (distiller.loss(toy.ToyTask(), model, IMAGES, targets), toy.ToyTask().loss(model, IMAGES, targets)):
        model.zero_grad()
        loss["loss"].backward()
        grads.append([p.grad.clone() for p in model.parameters()])
        assert loss["loss"] == loss["entropy"] and loss.get("distill_features", 0) == loss.get("distill_logits", 0) == 0
    for mine, alone in zip(*grads, strict=True):
        torch.testing.assert_close(mine, alone, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [{"accumulate": 2, "ema": 0.5, "optimizer": "adamw", "lr": 0.01}, {"precision": "bf16-mixed"}],
    ids=["everything", "bf16"],
)
def test_ctrl_c_with_a_teacher_and_the_end_is_the_same(tmp_path: Path, settings: dict[str, Any]) -> None:
    whole = weights(train(taught(tmp_path / "whole", **settings)))

    def press(epoch: int, metrics: dict[str, float]) -> None:
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(replace(taught(tmp_path / "stopped", **settings), epoch_finished=press))
    assert (tmp_path / "stopped" / CHECKPOINT).exists()
    assert_same(weights(train(taught(tmp_path / "stopped", **settings))), whole)


def test_the_teacher_runs_in_the_students_precision() -> None:
    seen = []
    model = net(1)
    distiller = Distiller(net(2), model, "logits", autocast=torch.bfloat16)
    distiller.teacher.head.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    with torch.autocast("cpu", torch.bfloat16), distiller.watch() as lessons:
        distiller.student(IMAGES)
    assert lessons.losses()["loss"].dtype == torch.float32 and seen == [torch.bfloat16]


def test_parts_of_a_batch_are_taught_as_the_whole_is(tmp_path: Path) -> None:
    ends = []
    for name, parts in (("whole", 1), ("parts", 4)):
        plain = job(tmp_path / name, accumulate=parts, epochs=2)
        student = toy.Calm(plain.model)
        distiller = Distiller(student, toy.Calm(net(1)), "logits")
        ends.append(weights(train(replace(plain, model=student, distiller=distiller))))
    for name in ends[0]:
        np.testing.assert_allclose(ends[0][name], ends[1][name], rtol=1e-4, atol=1e-6)
