"""Options and networks of the benchmarks, and the table of what a cut is worth at the end of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torchvision
from compress_models.darknet import DarknetArchitecture
from torch import Tensor, nn

import compress
from compress.measure import Latency, measure_latency
from compress.pruning.apply import Pruned

RATIO, CRITERION = 0.5, "l2"
TORCHVISION_SIZE = 224
FOUND = pytest.StashKey[dict[str, "Pair"]]()


@dataclass(frozen=True)
class Network:
    """A network with random weights and its input (1, 3, H, W)."""

    name: str
    model: nn.Module
    example: Tensor


@dataclass(frozen=True)
class Pair:
    """A network and its cut, timed in turns.

    latency: "dense" and "pruned". channels: group name -> how many before and after; coupled layers are one group.
    """

    network: Network
    pruned: Pruned
    latency: Mapping[str, Latency]
    channels: Mapping[str, tuple[int, int]]

    def facts(self, which: str) -> dict[str, Any]:
        """What stands in the benchmark's extra_info. which: "dense" or "pruned"."""
        cost = self.pruned.before if which == "dense" else self.pruned.after
        return {
            "params": cost.params,
            "macs": cost.macs,
            "channels": {name: sizes[which == "pruned"] for name, sizes in self.channels.items()},
            "latency_ms": self.latency[which].as_report(),
            "input": list(self.network.example.shape),
            "threads": self.latency[which].threads,
            "device": self.latency[which].device,
        }


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("compress benchmarks")
    group.addoption("--yolo-width", type=float, default=0.25, help="width of yolov3-hand (default: 0.25; published: 1)")
    group.addoption("--yolo-size", type=int, default=160, help="pixels of yolov3-hand's input (default: 160)")
    group.addoption("--bench-threads", type=int, default=None, help="CPU threads (default: torch's own choice)")
    group.addoption("--bench-device", default="cpu", help="device of the latency benchmarks, e.g. cuda (default: cpu)")
    group.addoption("--bench-seconds", type=float, default=10.0, help="seconds a pair is timed in turns (default: 10)")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FOUND] = {}


@pytest.fixture(scope="session", autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """The number of CPU threads that everything is timed with."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.config.getoption("--bench-threads") or before)
    yield torch.get_num_threads()
    torch.set_num_threads(before)


def yolov3_hand(config: pytest.Config) -> tuple[nn.Module, int]:
    size = config.getoption("--yolo-size")
    return DarknetArchitecture(cfg="yolov3-hand", width=config.getoption("--yolo-width")).build(1, (size, size)), size


NETWORKS: Mapping[str, Callable[[pytest.Config], tuple[nn.Module, int]]] = {
    "yolov3-hand": yolov3_hand,
    "resnet50": lambda config: (torchvision.models.resnet50(), TORCHVISION_SIZE),
    "mobilenet_v2": lambda config: (torchvision.models.mobilenet_v2(), TORCHVISION_SIZE),
}


@pytest.fixture(scope="session", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Network:
    torch.manual_seed(0)
    model, size = NETWORKS[request.param](request.config)
    return Network(request.param, model.eval(), torch.rand(1, 3, size, size))


@pytest.fixture(scope="session")
def graph(network: Network) -> Any:
    return compress.trace(network.model, network.example)


@pytest.fixture(scope="session")
def plan(graph: Any) -> compress.Plan:
    return compress.plan(graph, criterion=CRITERION, ratio=RATIO)


@pytest.fixture(scope="session")
def pruned(network: Network, graph: Any, plan: compress.Plan) -> Pruned:
    return compress.apply(network.model, graph, plan)


@pytest.fixture(scope="session")
def pair(request: pytest.FixtureRequest, network: Network, graph: Any, pruned: Pruned) -> Pair:
    """The network and its cut, timed in turns on the device that was asked for."""
    config = request.config
    device = torch.device(config.getoption("--bench-device"))
    seconds = 0.0 if config.getoption("benchmark_disable") else config.getoption("--bench-seconds")
    models = {"dense": network.model.to(device), "pruned": pruned.model.to(device)}
    latency = measure_latency(models, network.example.to(device), seconds=seconds)
    network.model.cpu(), pruned.model.cpu()
    gone = {name: len(units) for name, units in pruned.plan.removed.items()}
    made = [group for group in graph.groups if any(member.role == "out" for member in group.members)]
    sizes = {group.name: (group.size, group.size - gone.get(group.name, 0)) for group in made}
    config.stash[FOUND][network.name] = found = Pair(network, pruned, latency, sizes)
    return found


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The benchmarks' own table has times only; this one says what was cut, and how the two were timed in turns."""
    pairs = config.stash[FOUND]
    if not pairs:
        return
    terminalreporter.section(f"dense against pruned: criterion {CRITERION}, ratio {RATIO}, timed in turns")
    for name, pair in pairs.items():
        before, after = pair.pruned.before, pair.pruned.after
        dense, cut = pair.latency["dense"], pair.latency["pruned"]
        was, now = (sum(sizes[side] for sizes in pair.channels.values()) for side in (0, 1))
        terminalreporter.write_line(
            f"{name} {tuple(pair.network.example.shape)}: channels (coupled ones once) {was:,} -> {now:,}, "
            f"parameters {before.params:,} -> {after.params:,}, multiply-adds {before.macs:,} -> {after.macs:,}"
        )
        terminalreporter.write_line(f"  dense  {dense}")
        terminalreporter.write_line(f"  pruned {cut}, {dense.median / cut.median:.2f} x")
