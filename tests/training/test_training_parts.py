"""The parts of the loop, each against its definition."""

from __future__ import annotations

import json
import math
import os

import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from compress.errors import CompressError
from compress.files import replaced, replaced_folder, write_json
from compress.training import checkpoint
from compress.training.checkpoint import Standing
from compress.training.journal import NAME as METRICS
from compress.training.journal import Journal, read
from compress.training.loader import TrainingOrders, evaluation_orders, load
from compress.training.optim import Settings, build_optimizer, decayed, learning_rate
from compress.training.progress import Progress, clock
from compress.training.randomness import permutation, sample_rng, step_seed


@given(n=st.integers(1, 60), batch=st.integers(1, 20), epochs=st.integers(1, 3), seed=st.integers(0, 2**32))
def test_an_epoch_visits_each_sample_at_most_once_in_whole_batches(n, batch, epochs, seed):
    orders = TrainingOrders(n, batch, epochs, seed, "arm")
    assert len(orders) == len(list(orders)) == orders.steps * epochs and orders[1:3] == list(orders)[1:3]
    for epoch in range(epochs):
        mine = [order for order in orders if order.epoch == epoch]
        visited = [index for order in mine for index in order.indices]
        assert len(set(visited)) == len(visited) == (orders.steps * batch if n >= batch else n)
        assert set(visited) <= set(range(n))
        assert {len(order.indices) for order in mine} == {min(batch, n)}


@given(
    n=st.integers(12, 60),
    size=st.integers(1, 3),
    accumulate=st.integers(1, 2),
    ranks=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_the_parts_of_all_processes_are_the_batch(n, size, accumulate, ranks, seed):
    batch = size * accumulate * ranks
    whole = TrainingOrders(n, batch, 2, seed, "arm")
    parts = [TrainingOrders(n, batch, 2, seed, "arm", accumulate * ranks, rank, ranks) for rank in range(ranks)]
    assert {len(part) for part in parts} == {len(whole) * accumulate}
    together = TrainingOrders(n, batch, 2, seed, "arm", accumulate * ranks)
    for step, order in enumerate(whole):
        mine = [part[step * accumulate + turn] for turn in range(accumulate) for part in parts]
        indices = [i for each in mine for i in each.indices]
        assert len(indices) == (batch if n >= batch else n - n % (accumulate * ranks))
        assert indices == list(order.indices[: len(indices)])
        assert {each.step for each in mine} == {step} and {each.epoch for each in mine} == {order.epoch}
        assert mine == together[step * len(mine) : (step + 1) * len(mine)]


def test_a_split_may_change_whole_batches_the_parts_of_a_step_alike():
    split, orders = toy.Stripes(32, 1, varied=True), TrainingOrders(32, 8, 3, 5, "arm", parts=2)
    sizes = [batch.images.shape[2] for batch in load(split, orders, seed=5, stage="arm")]
    assert sizes[::2] == sizes[1::2] and len(set(sizes)) > 2
    assert sizes == [batch.images.shape[2] for batch in load(split, orders, seed=5, stage="arm", workers=1)]
    assert {batch.images.shape[2] for batch in load(split, evaluation_orders(32, 8))} == {toy.SIZE}


@given(n=st.integers(0, 50), batch=st.integers(1, 20))
def test_evaluation_visits_every_sample_once_in_order(n, batch):
    orders = evaluation_orders(n, batch)
    assert [index for order in orders for index in order.indices] == list(range(n))
    assert all(order.epoch is None for order in orders)


def test_batches_do_not_depend_on_who_makes_them():
    split = toy.Stripes(20, 1)
    orders = TrainingOrders(20, 4, 2, 5, "arm")
    thread = list(load(split, orders, seed=5, stage="arm"))
    processes = list(load(split, orders, seed=5, stage="arm", workers=2))
    assert [b.indices for b in thread] == [order.indices for order in orders] == [b.indices for b in processes]
    assert all(torch.equal(a.images, b.images) for a, b in zip(thread, processes, strict=True))
    by_place = {(o.epoch, i): b.images[k] for o, b in zip(orders, thread, strict=True) for k, i in enumerate(o.indices)}
    assert not torch.equal(by_place[0, 3], by_place[1, 3])  # another epoch, another augmentation
    later = list(load(split, orders, seed=5, stage="arm", first=7))  # where a resumed run goes on
    assert all(torch.equal(a.images, b.images) for a, b in zip(thread[7:], later, strict=True))


def test_the_loaders_thread_takes_none_from_the_network():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen: list[int] = []

    class Counting(toy.Stripes):
        def sample(self, index, rng):
            seen.append(torch.get_num_threads())
            return super().sample(index, rng)

    try:
        here = [torch.get_num_threads() for _ in load(Counting(8, 1), evaluation_orders(8, 2))]
    finally:
        torch.set_num_threads(before)
    assert set(here) == {2} and set(seen) == {1}


def test_a_loader_that_is_left_early_stops():
    split = toy.Stripes(400, 1, slow=0.01)
    batches = load(split, evaluation_orders(400, 4))
    next(batches)
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)


def test_a_sample_that_fails_fails_the_loader():
    class Broken(toy.Stripes):
        def sample(self, index, rng):
            raise OSError(f"picture {index} is gone")

    with pytest.raises(OSError, match="picture 0 is gone"):
        list(load(Broken(8, 1), evaluation_orders(8, 4)))


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["a", "b"]), st.integers(0, 9)), min_size=2, unique=True))
def test_every_place_of_a_run_has_its_own_randomness(places):
    draws = [sample_rng(seed, stage, epoch, 0).integers(2**62) for seed, stage, epoch in places]
    seeds = [step_seed(seed, stage, step) for seed, stage, step in places]
    orders = [tuple(permutation(seed, stage, epoch, 40)) for seed, stage, epoch in places]
    assert len(set(draws)) == len(set(seeds)) == len(set(orders)) == len(places)
    assert all(0 <= s < 2**63 for s in seeds)


class Zoo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.wide = nn.LayerNorm((4, 5))
        self.linear = nn.Linear(4, 2)
        self.idle = nn.Linear(2, 2).requires_grad_(False)


def test_decay_pulls_on_convolutions_and_linear_layers_only():
    assert {name for name, yes in decayed(Zoo()).items() if yes} == {"conv.weight", "linear.weight", "idle.weight"}
    model = Zoo()
    optimizer = build_optimizer(model, Settings(lr=0.1, weight_decay=0.5, optimizer="sgd", momentum=0.0))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    shrunk = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert shrunk == {"conv.weight", "linear.weight"}
    torch.testing.assert_close(model.conv.weight.detach(), before["conv.weight"] * (1 - 0.1 * 0.5))


@given(
    schedule=st.sampled_from(["cosine", "linear", "step", "constant"]),
    epochs=st.integers(1, 12),
    steps=st.integers(1, 30),
    warmup=st.floats(0, 15),
    final=st.floats(0, 1),
)
def test_learning_rate_rises_to_the_peak_and_falls_to_its_end(schedule, epochs, steps, warmup, final):
    settings = Settings(epochs=epochs, lr=0.3, warmup=warmup, schedule=schedule, final_lr=final)
    rates = [learning_rate(settings, step, steps) for step in range(epochs * steps)]
    rise = min(round(warmup * steps), len(rates) - 1)
    assert (schedule == "step" and 2 * rise >= len(rates)) or rates[rise] == pytest.approx(0.3)
    assert max(rates) <= 0.3 + 1e-12 and min(rates) >= 0
    assert rates[:rise] == sorted(rates[:rise]) and rates[rise:] == sorted(rates[rise:], reverse=True)
    if schedule == "constant":
        assert set(rates[rise:]) == {0.3}
    elif schedule == "step":
        passed = [sum(step >= m * len(rates) for m in (0.5, 0.75)) for step in range(rise, len(rates))]
        assert rates[rise:] == pytest.approx([0.3 * 0.1**k for k in passed])
    elif len(rates) - rise > 1:
        assert rates[-1] == pytest.approx(0.3 * final, abs=1e-12)
    if schedule == "cosine" and (len(rates) - rise) % 2 == 1 and len(rates) - rise > 1:
        assert rates[rise + (len(rates) - rise) // 2] == pytest.approx(0.3 * (1 + final) / 2)


def trained(optimizer: str, steps: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = toy.Net(4).to(memory_format=torch.channels_last)
    made = build_optimizer(model, Settings(optimizer=optimizer, lr=0.01))  # type: ignore[arg-type]
    for _ in range(steps):
        model(torch.rand(4, 3, 16, 16)).square().mean().backward()
        made.step()
        made.zero_grad()
    return model, made


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adamw"])
def test_a_fused_step_is_that_of_the_plain_optimizer(optimizer):
    """On weights in channels-last memory too; 16-mixed takes the plain ones, whose gradients can be clipped there."""
    ends = []
    for precision, fused in (("32-true", True), ("16-mixed", False)):
        torch.manual_seed(0)
        model = toy.Net(4).to(memory_format=torch.channels_last)
        made = build_optimizer(model, Settings(optimizer=optimizer, lr=0.01, precision=precision))
        assert made.defaults["fused"] is fused
        for _ in range(4):
            model.eval()(torch.rand(4, 3, 16, 16).to(memory_format=torch.channels_last)).square().mean().backward()
            made.step()
            made.zero_grad()
        ends.append(model.state_dict())
    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_checkpoint_brings_everything_back(tmp_path, optimizer):
    model, made = trained(optimizer)
    standing = Standing(17, {"loss": 0.1 + 0.2}, {"scale": 2.0})
    checkpoint.save(tmp_path / "c", model, made, standing)
    other, again = trained(optimizer, steps=0)
    assert checkpoint.restore(tmp_path / "c", other, again) == standing
    a, b = made.state_dict(), again.state_dict()
    assert a["state"].keys() == b["state"].keys() and a["param_groups"] == b["param_groups"]
    for key, entries in a["state"].items():
        for name, value in entries.items():
            assert type(value) is type(b["state"][key][name])
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(b["state"][key][name]))
            if isinstance(value, torch.Tensor):
                assert value.stride() == b["state"][key][name].stride()
    assert all(torch.equal(x, y) for x, y in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_wrong_checkpoint_is_one_line(tmp_path):
    model, made = trained("sgd")
    checkpoint.save(tmp_path / "c", nn.Linear(2, 2), torch.optim.SGD(nn.Linear(2, 2).parameters()), Standing())
    with pytest.raises(CompressError, match=r"c: is of another network") as said:
        checkpoint.restore(tmp_path / "c", model, made)
    assert "\n" not in str(said.value)
    (tmp_path / "d").write_bytes(b"not at all")
    with pytest.raises(CompressError, match=r"d: no training checkpoint"):
        checkpoint.restore(tmp_path / "d", model, made)


def test_shared_tensors_are_stored_under_each_name(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    checkpoint.write_tensors(tmp_path / "w", model.state_dict())
    stored = load_file(tmp_path / "w")
    assert torch.equal(stored["0.weight"], stored["1.weight"])


@given(steps=st.lists(st.integers(1, 50), unique=True).map(sorted), cut=st.integers(0, 60), torn=st.booleans())
def test_metrics_are_cut_back_to_the_checkpoint(tmp_path_factory, steps, cut, torn):
    folder = tmp_path_factory.mktemp("journal")
    lines = [json.dumps({"kind": "step", "step": step}) + "\n" for step in steps]
    (folder / METRICS).write_text("".join(lines) + ('{"kind": "ste' if torn else ""))
    journal = Journal(folder, cut)
    journal.write("step", cut + 1, 1, {"loss": 0.5})
    journal.close()
    assert [line["step"] for line in read(folder)] == [step for step in steps if step <= cut] + [cut + 1]


def test_tensorboard_forgets_what_the_kill_undid(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for begin, value in ((0, 1.0), (3, 2.0)):
        journal = Journal(tmp_path, begin)
        for step in range(begin + 1, 6):
            journal.write("step", step, 1, {"loss": value})
        journal.close()
    seen = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in seen.Scalars("step/loss")] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2)]


def test_a_file_is_the_old_one_or_the_new_one(tmp_path):
    path = tmp_path / "deep" / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        write_json(path, {"a": math.nan})
    with pytest.raises(RuntimeError), replaced(path) as beside:
        beside.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"a": 1}
    folder = tmp_path / "folder"
    for text in ("old", "new"):
        with replaced_folder(folder) as beside:
            (beside / text).write_text(text)
    with pytest.raises(RuntimeError), replaced_folder(folder) as beside:
        raise RuntimeError
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "folder"] and os.listdir(folder) == ["new"]
    assert os.listdir(path.parent) == ["value.json"]


def test_progress_without_a_terminal_is_lines_with_the_time_left(tmp_path):
    spoken = tmp_path / "spoken"
    with open(spoken, "w") as stream:
        progress = Progress(stream=stream, file=tmp_path / "kept", every=0.0)
        with progress.bar("sparse", 4) as advance:
            for _ in range(4):
                advance(1, "loss 0.5")
    lines = spoken.read_text().splitlines()
    assert lines[0].startswith("sparse: 1/4, 0:0") and lines[0].endswith(" left, loss 0.5") and len(lines) == 3
    assert [line[9:] for line in (tmp_path / "kept").read_text().splitlines()] == lines
    assert [clock(s) for s in (7, 754, 3723)] == ["0:07", "12:34", "1:02:03"]
