"""Networks that hold no values: traced and planned by shape, scored from shards one tensor at a time."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from llama import Llama, Shape
from safetensors.torch import save_file
from torch import Tensor, nn

import compress

SMALL = Shape(vocabulary=100, width=64, hidden=176, layers=3, heads=8, key_heads=2)

TOKENS = torch.arange(12).reshape(2, 6)


def on_meta(shape: Shape) -> nn.Module:
    with torch.device("meta"):
        return Llama(shape).eval()


def small() -> nn.Module:
    torch.manual_seed(0)
    return Llama(SMALL).eval()


def write_shards(model: nn.Module, folder: Path, n: int) -> None:
    state = list(model.state_dict().items())
    for k in range(n):
        save_file(dict(state[k::n]), folder / f"model-{k + 1:05}-of-{n:05}.safetensors")


def test_a_plan_made_without_values_fits_the_network_with_values():
    model, outline = small(), on_meta(SMALL)
    graph = compress.trace(outline, TOKENS.to("meta"))
    plan = compress.plan(graph, criterion="random", ratio=0.5)
    assert all(parameter.is_meta for parameter in outline.parameters())
    pruned = compress.apply(model, compress.trace(model, TOKENS), plan)
    assert pruned.verification is not None and pruned.verification.passed
    assert pruned.after == graph.cost(plan)
    assert pruned.after.params == sum(p.numel() for p in pruned.model.parameters()) < 0.45 * pruned.before.params


def test_query_heads_go_with_the_key_head_that_serves_them():
    model = small()
    pruned = compress.prune(model, TOKENS, ratio=0.5)
    for before, after in zip(model.blocks, pruned.model.blocks, strict=True):
        width = before.attention.head_width
        assert after.attention.k.out_features == before.attention.k.out_features // 2 == width
        assert after.attention.q.out_features == after.attention.k.out_features * before.attention.repeats
        rows = before.attention.k.weight.unflatten(0, (-1, width))  # -> (key heads, head width, width)
        kept = after.attention.k.weight
        assert any(torch.isin(kept, head).all() for head in rows)  # one of the original's, whole


class Watched(Mapping[str, Tensor]):
    """Hands out clones of a model's parameters and notes how many of them live at the same time."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.alive, self.most = model, 0, 0

    def _gone(self) -> None:
        self.alive -= 1

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.model.get_parameter(name).detach().clone()
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(tensor, self._gone)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self.model.named_parameters()))

    def __len__(self) -> int:
        return len(dict(self.model.named_parameters()))


def test_weights_are_held_one_or_two_at_a_time():
    model = small()
    graph, watched = compress.trace(model, TOKENS), Watched(model)
    compress.plan(graph, criterion="l2", ratio=0.5, weights=watched)
    assert 1 <= watched.most <= 2  # the next is read before the last is let go
    assert watched.alive == 0


@pytest.mark.parametrize("criterion", ["l1", "l2"])
def test_shards_on_disk_give_the_plan_that_the_model_gives(tmp_path: Path, criterion: str):
    model = small()
    write_shards(model, tmp_path, 3)
    mine = compress.plan(compress.trace(model, TOKENS), criterion=criterion, ratio=0.5)
    theirs = compress.plan(
        compress.trace(on_meta(SMALL), TOKENS.to("meta")), criterion=criterion, ratio=0.5, weights=tmp_path
    )
    assert mine.removed.keys() == theirs.removed.keys()
    assert all(np.array_equal(mine.removed[name], theirs.removed[name]) for name in mine.removed)


def test_what_is_wrong_with_shards_is_said(tmp_path: Path):
    graph = compress.trace(on_meta(SMALL), TOKENS.to("meta"))
    with pytest.raises(compress.CompressError, match="no safetensors file"):
        compress.plan(graph, weights=tmp_path)
    write_shards(small(), tmp_path, 2)
    (tmp_path / "again.safetensors").write_bytes((tmp_path / "model-00001-of-00002.safetensors").read_bytes())
    with pytest.raises(compress.CompressError, match=r"is in again\.safetensors and in model-00001"):
        compress.plan(graph, weights=tmp_path)
    (tmp_path / "again.safetensors").write_bytes(b"not a header")
    with pytest.raises(compress.CompressError, match=r"again\.safetensors is no safetensors file"):
        compress.plan(graph, weights=tmp_path)
    (tmp_path / "again.safetensors").unlink()
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(compress.CompressError, match="weights: no parameter"):
        compress.plan(graph, weights=tmp_path)


MEASURED = """
import json, resource, sys, time
import torch
import compress
from llama import Llama, Shape
shape, weights = Shape(**json.loads(sys.argv[1])), sys.argv[2] or None
torch.set_num_threads(1)
with torch.device("meta"):
    model = Llama(shape).eval()
tokens = torch.zeros(1, 16, dtype=torch.long, device="meta")
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
graph = compress.trace(model, tokens)
plan = compress.plan(graph, criterion="l2" if weights else "random", ratio=0.5, weights=weights)
seconds = time.process_time() - start
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = {"seconds": seconds, "gib": after / 2**20, "grew": (after - before) / 2**20}
print(json.dumps({**found, "before": graph.cost().params, "after": graph.cost(plan).params}))
"""


def measured(shape: dict[str, int], weights: str = "") -> dict[str, float]:
    """Seconds of processor time and GiB at the most, of a process that traces and plans a network of this shape."""
    command = [sys.executable, "-c", MEASURED, json.dumps(shape), weights]
    run = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("key_heads", [32, 8])
def test_seven_billion_parameters_take_ten_seconds_and_two_gigabytes(key_heads: int):
    found = measured({"key_heads": key_heads})
    assert found["before"] > (6.7e9 if key_heads == 32 else 5.9e9)
    assert found["after"] < 0.45 * found["before"]
    assert found["seconds"] < 10 and found["gib"] < 2


@pytest.mark.slow
def test_shards_larger_than_the_memory_they_take(tmp_path: Path):
    shape = {"vocabulary": 8000, "width": 2048, "hidden": 5632, "layers": 12}
    state = {name: tensor.shape for name, tensor in on_meta(Shape(**shape)).state_dict().items()}
    names = list(state)
    for k in range(0, len(names), 20):
        part = {name: torch.randn(state[name], dtype=torch.bfloat16) for name in names[k : k + 20]}
        save_file(part, tmp_path / f"model-{k}.safetensors")
    on_disk = sum(file.stat().st_size for file in tmp_path.iterdir()) / 2**30
    found = measured(shape, str(tmp_path))
    assert on_disk > 1.2 and found["grew"] < on_disk / 2
    assert found["after"] < 0.45 * found["before"]
