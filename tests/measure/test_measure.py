"""What is counted equals what arithmetic says, and timing ranks what is really slower without touching the networks."""

from __future__ import annotations

import copy
import time
from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from compress import CompressError
from compress.measure import file_bytes, fvcore_macs, measure_latency, onnx_runner, parameters


class Sleeper(nn.Module):
    """A network that takes a known time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return x + self.bias


def small() -> nn.Sequential:
    conv = nn.Conv2d(3, 8, 3, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))


def test_parameters_counts_shared_ones_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    assert parameters(model) == 2 * (16 + 4)
    model[1].weight = model[0].weight
    assert parameters(model) == 16 + 4 + 4


@pytest.mark.parametrize("channels_last", [False, True])
def test_file_bytes_is_the_size_of_the_file(tmp_path, channels_last: bool) -> None:
    model = small()
    if channels_last:
        model.to(memory_format=torch.channels_last)
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, tmp_path / "w.safetensors")
    assert file_bytes(model) == (tmp_path / "w.safetensors").stat().st_size


def test_file_bytes_stores_shared_tensors_once() -> None:
    apart = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    shared = copy.deepcopy(apart)
    shared[1].weight = shared[0].weight
    saved = file_bytes(apart) - file_bytes(shared)
    assert 64 * 64 * 4 <= saved < 64 * 64 * 4 + 200  # the tensor and its line in the header


def test_fvcore_counts_multiply_adds_of_contractions_only() -> None:
    counted = fvcore_macs(small(), torch.rand(2, 3, 6, 6))
    assert counted.macs == 2 * (8 * 3 * 9 * 36 + 8 * 36 * 5)
    assert not counted.uncounted


def test_fvcore_names_what_it_does_not_count() -> None:
    counted = fvcore_macs(nn.LSTM(4, 4), torch.rand(3, 1, 4))
    assert counted.macs == 0 and counted.uncounted == {"aten::lstm": 1}
    assert "not counted: 1 x aten::lstm" in str(counted)


def test_fvcore_leaves_mode_and_running_statistics_alone() -> None:
    model = small().train()
    before = copy.deepcopy(model.state_dict())
    fvcore_macs(model, torch.rand(2, 3, 6, 6))
    assert model.training
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_latency_finds_the_known_times_in_one_interleaved_run() -> None:
    found = measure_latency({"slow": Sleeper(0.006), "fast": Sleeper(0.002)}, torch.zeros(2, 3, 4, 4), seconds=0.0)
    assert found["slow"].median >= 6.0 and 2.0 <= found["fast"].median < found["slow"].median
    assert found["slow"].rounds == found["fast"].rounds == 10
    assert found["fast"].p10 <= found["fast"].median <= found["fast"].p90
    assert found["fast"].batch == 2
    assert "2" in str(found["fast"]) and "ms" in str(found["fast"])


def test_latency_runs_for_the_seconds_it_was_given() -> None:
    start = time.perf_counter()
    found = measure_latency({"a": Sleeper(0.001)}, torch.zeros(1, 3, 4, 4), seconds=0.3)
    assert 0.3 <= time.perf_counter() - start < 10.0
    assert found["a"].rounds > 10


class Named(nn.Module):
    """Writes its name down whenever it runs."""

    ran: list[str] = []  # noqa: RUF012 - shared by the copies on purpose

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        self.ran.append(self.name)
        return x


def test_latency_takes_the_networks_in_turns_in_changing_order() -> None:
    Named.ran.clear()
    measure_latency({name: Named(name) for name in "abc"}, torch.zeros(1, 3, 4, 4), seconds=0.0)
    timed = Named.ran[3 * 3 :]  # after the warm-up
    rounds = ["".join(timed[n : n + 3]) for n in range(0, len(timed), 3)]
    assert len(rounds) == 10 and all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert len(set(rounds)) > 1


class Witness(nn.Module):
    """Writes down the circumstances of each call in a list that copies share."""

    seen: list[dict[str, object]] = []  # noqa: RUF012 - shared by the copies on purpose

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(
            {
                "training": self.training,
                "inference": torch.is_inference_mode_enabled(),
                "threads": torch.get_num_threads(),
                "nhwc": x.is_contiguous(memory_format=torch.channels_last),
            }
        )
        return self.conv(x)


@pytest.mark.parametrize("channels_last", [False, True])
def test_latency_states_the_circumstances_and_restores_them(channels_last: bool) -> None:
    model, threads = Witness().train(), torch.get_num_threads()
    strides = model.conv.weight.stride()
    Witness.seen.clear()
    found = measure_latency({"a": model, "b": model}, torch.rand(1, 3, 8, 8), 2, 0.0, channels_last)
    assert found["a"].threads == 2
    assert len(Witness.seen) == 2 * (3 + 10)
    expected = {"training": False, "inference": True, "threads": 2, "nhwc": channels_last}
    assert all(call == expected for call in Witness.seen)
    assert model.training and torch.get_num_threads() == threads and model.conv.weight.stride() == strides


def test_latency_refuses_nothing_and_the_wrong_device() -> None:
    with pytest.raises(CompressError, match="no networks"):
        measure_latency({}, torch.zeros(1, 3, 4, 4))
    with pytest.raises(CompressError, match=r"network 'a' is on meta and the input on cpu"):
        measure_latency({"a": nn.Linear(2, 2, device="meta")}, torch.zeros(1, 2))


def test_another_runtime_is_timed_on_the_input_as_it_is(tmp_path: Path) -> None:
    shape = [2, 3, 8, 8]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("pixels", "out")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["pixels"], ["out"])], "relu", ends[:1], ends[1:])
    written = onnx.helper.make_model(graph, ir_version=9, opset_imports=[onnx.helper.make_opsetid("", 17)])
    onnx.save(written, tmp_path / "model.onnx")
    runner, example = onnx_runner(tmp_path / "model.onnx", threads=1), torch.randn(*shape)
    assert torch.equal(torch.from_numpy(runner(example)[0]), example.relu())
    seen = []

    def watched(images: torch.Tensor) -> None:
        seen.append(images)
        runner(images)

    found = measure_latency({"torch": nn.ReLU(), "onnx": watched}, example, threads=1, seconds=0.05)
    assert set(found) == {"torch", "onnx"} and found["onnx"].rounds == found["torch"].rounds == len(seen) - 3
    assert all(images is example for images in seen) and found["onnx"].batch == 2
