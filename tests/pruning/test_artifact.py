"""What save writes, load gives back - and every way in which the two do not fit is one clear line."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from compress import CompressError
from compress.pruning.apply import prune
from compress.pruning.artifact import load, read_edits, save, write
from compress.pruning.magnitude import L2


class Network(nn.Module):
    """A residual block, a head that is used twice (so its parameters have two names), and sizes kept in attributes."""

    def __init__(self, width=8, act=nn.ReLU):
        super().__init__()
        self.width = width
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), act())
        self.body = nn.Conv2d(width, width, 3, padding=1)
        self.up = nn.Conv2d(width, 6, 1)
        self.again = self.up
        self.register_buffer("table", torch.arange(4), persistent=False)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.body(x).relu()
        x = x.view(x.shape[0], self.width, -1).view(x.shape[0], self.width, *x.shape[2:])
        return {"first": self.up(x), "second": (self.again(x * 2), x.mean((1, 2, 3)))}


def build(**options):
    torch.manual_seed(3)
    return Network(**options).eval()


EXAMPLE = torch.rand(2, 3, 8, 8)


@pytest.fixture(scope="module")
def pruned():
    model = build()
    with torch.no_grad():
        for p in model.parameters():
            p.uniform_(-1, 1)
    return prune(model, EXAMPLE, L2(), ratio=0.5)


@pytest.fixture
def folder(pruned, tmp_path):
    save(pruned, tmp_path / "artifact")
    return tmp_path / "artifact"


def same(a, b):
    return all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(a.values(), b.values(), strict=True))


def test_round_trip_gives_the_same_network_without_tracing(pruned, folder, monkeypatch):
    assert sorted(path.name for path in folder.iterdir()) == ["plan.json", "weights.safetensors"]
    monkeypatch.setattr("compress.graph.tape._record_on", None)
    model = load(folder, build)
    assert pruned.after.params < pruned.before.params
    assert list(model.state_dict()) == list(pruned.model.state_dict())
    assert same(model.state_dict(), pruned.model.state_dict())
    assert model.width == pruned.model.width < 8 and model.up is model.again
    x = torch.rand(1, 3, 5, 7)
    mine, theirs = model.eval()(x), pruned.model.eval()(x)
    assert torch.equal(mine["first"], theirs["first"]) and torch.equal(mine["second"][0], theirs["second"][0])


def test_shared_tensors_are_stored_once_and_loaded_shared(folder):
    names = set(load_file(folder / "weights.safetensors"))
    assert {"up.weight", "up.bias"} <= names and not {"again.weight", "again.bias"} & names


def test_modes_and_random_state_are_left_alone(pruned, tmp_path):
    pruned.model.train()
    pruned.model.stem[1].eval()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    save(pruned, tmp_path)
    assert torch.equal(torch.rand(3), expected)
    assert pruned.model.training and not pruned.model.stem[1].training
    assert load(tmp_path, build).training is False
    pruned.model.eval()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_are_kept(pruned, tmp_path, dtype):
    model = prune(build(), EXAMPLE, L2(), ratio=0.5).model.to(dtype)
    write(tmp_path, model, pruned.edits, EXAMPLE.to(dtype))
    loaded = load(tmp_path, build)
    assert same(loaded.state_dict(), model.state_dict())
    assert loaded.up.weight is loaded.again.weight and loaded.stem[1].num_batches_tracked.dtype == torch.int64


def test_an_uncut_network_and_a_gained_bias_are_kept_too(pruned, tmp_path):
    model = build()
    write(tmp_path / "whole", model, None, EXAMPLE)
    assert same(load(tmp_path / "whole", build).state_dict(), model.state_dict())
    assert not read_edits(tmp_path / "whole").select
    gained = prune(build(), EXAMPLE, L2(), ratio=0.5).model
    gained.stem[0].bias = nn.Parameter(torch.full((gained.stem[0].out_channels,), 0.5))
    write(tmp_path / "gained", gained, pruned.edits, EXAMPLE)
    assert torch.equal(load(tmp_path / "gained", build).stem[0].bias, gained.stem[0].bias)


def test_edits_come_back_as_they_were(pruned, folder):
    stored = read_edits(folder)
    assert {n: set(d) for n, d in stored.select.items()} == {n: set(d) for n, d in pruned.edits.select.items()}
    for name, by_dim in pruned.edits.select.items():
        for dim, index in by_dim.items():
            assert stored.select[name][dim].tolist() == index.tolist()
    assert stored.attributes == pruned.edits.attributes and stored.shapes == dict(pruned.edits.shapes)


def test_plan_json_says_how_it_was_made(pruned, folder):
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["settings"]["criterion"]["uses"] == "l2" and plan["settings"]["ratio"] == 0.5
    assert set(plan["settings"]["frozen"]) == set(pruned.frozen)
    assert plan["versions"]["torch"] == torch.__version__


def damage(folder, **changes):
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps({**plan, **changes}))


class Narrow(Network):
    def __init__(self):
        super().__init__(width=6)


class Extra(Network):
    def __init__(self):
        super().__init__()
        self.extra = nn.Linear(2, 2)


def without_up():
    model = build()
    model.up = model.again = nn.Identity()
    return model


@pytest.mark.parametrize(
    ("build_model", "message"),
    [
        (Narrow, r"build_model\(\) gave 'stem.0.weight' \(6, 3, 3, 3\), the original had \(8, 3, 3, 3\)"),
        (Extra, r"build_model\(\) gave 'extra.weight', the original had none"),
        (without_up, r"build_model\(\) gave no 'up.weight', the original had one"),
        (lambda: build(act=nn.Sigmoid), r"output \d differs from the stored model's by .* build_model\(\) must build"),
        (dict, r"build_model\(\) gave a dict"),
        (lambda: build().to("meta"), r"build_model\(\) left '.*' on the meta device"),
    ],
)
def test_another_network_is_refused(folder, build_model, message):
    with pytest.raises(CompressError, match=message) as caught:
        load(folder, build_model)
    assert "\n" not in str(caught.value)


def test_a_changed_attribute_is_refused(folder):
    def other():
        model = build()
        model.width = "eight"
        return model

    with pytest.raises(CompressError, match=r"build_model\(\) gave '.width' = 'eight', the cut makes it \d"):
        load(folder, other)


def test_damaged_and_foreign_folders_are_refused(folder, tmp_path):
    with pytest.raises(CompressError, match=r"no plan.json; expected a folder that compress.save wrote"):
        load(tmp_path / "nowhere", build)
    whole = (folder / "plan.json").read_text()
    for text, message in {
        "{": "not JSON",
        "[]": "format None",
        '{"format": 99}': "format 99, this version of compress reads format 1",
        '{"format": 1}': "no edits, probe, weights",
    }.items():
        (folder / "plan.json").write_text(text)
        with pytest.raises(CompressError, match=message):
            load(folder, build)
    (folder / "plan.json").write_text(whole)
    damage(folder, edits={"indices": [], "select": {"up.weight": {"0": 3}}, "attributes": {}, "shapes": {}})
    with pytest.raises(CompressError, match="edits are damaged"):
        load(folder, build)
    (folder / "plan.json").write_text(whole)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    data = bytearray((other / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (other / "weights.safetensors").write_bytes(data)
    with pytest.raises(CompressError, match="SHA-256 differs"):
        load(other, build)
    (other / "weights.safetensors").unlink()
    with pytest.raises(CompressError, match=r"no weights.safetensors"):
        load(other, build)


def test_nothing_but_tensors_is_stored(tmp_path):
    class Odd(nn.Module):
        def get_extra_state(self):
            return {"anything": object()}

    with pytest.raises(CompressError, match="only tensors can be stored without pickle"):
        write(tmp_path, Odd())
    with pytest.raises(CompressError, match="meta device"):
        write(tmp_path, nn.Linear(2, 2, device="meta"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "example",
    [
        (torch.randint(3, 7, (5,)), torch.tensor([True, False]), None, 2.5),
        {"x": [torch.rand(2).half(), {"deep": torch.zeros(2, 2)}], "flag": True},
    ],
)
def test_any_tree_of_inputs_can_be_probed(tmp_path, example):
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, *args, **kwargs):
            from compress.graph.inputs import collect_tensors

            return [t.double().sum() * self.scale for t in collect_tensors((args, kwargs))]

    write(tmp_path, Sums(), None, example)
    assert load(tmp_path, Sums).scale.item() == 1


def test_outputs_without_finite_values_are_compared_too(tmp_path):
    class Log(nn.Module):
        def __init__(self, sign=1):
            super().__init__()
            self.sign = sign
            self.p = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return torch.cat([(self.sign * -x * self.p).log(), self.sign * x / 0])

    write(tmp_path, Log(), None, torch.rand(4))
    load(tmp_path, Log)
    with pytest.raises(CompressError, match="differs from the stored"):
        load(tmp_path, lambda: Log(-1))
