"""Every registered plugin against the conformance kit, and the kit against plugins that are broken in one way each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import compress.plugins
from compress import (
    Answer,
    Architecture,
    Compensation,
    Criterion,
    Data,
    Dataset,
    Distillation,
    Evaluation,
    Exporter,
    GroupPolicy,
    Part,
    Regularizer,
    Task,
)
from compress.registry import KINDS
from compress.testing import (
    Unfit,
    check_architecture,
    check_compensation,
    check_criterion,
    check_dataset,
    check_distillation,
    check_exporter,
    check_plugin,
    check_policy,
    check_regularizer,
    check_task,
    small_network,
)

REGISTRY = compress.plugins.installed()
TOY = Path(__file__).parent / "training" / "toy.py"
OPTIONS: dict[tuple[str, str], dict[str, Any]] = {  # options that have no default, or a quicker value
    ("architectures", "darknet"): {"cfg": "yolov3-hand", "width": 0.25},
    ("architectures", "vgg-cifar"): {"depth": 11, "width": 0.25},
    ("architectures", "preresnet-cifar"): {"depth": 11, "width": 0.5},
    ("architectures", "densenet-cifar"): {"depth": 10, "growth": 4},
    ("datasets", "drawn-hands"): {"image_size": 96, "train": 6, "val": 5},
    ("distillations", "features"): {"points": ["left", "inner.1.2"]},
    ("stages", "sparsify"): {"regularizer": "network-slimming"},
    ("stages", "export"): {"formats": ["onnx"]},
}
MEMBERS = {"torchvision/": "torchvision/resnet18", "timm/": "timm/resnet10t"}
"""One of each family of networks that go by name."""
SIZE = (96, 96)


def made(kind: str, name: str) -> Any:
    return REGISTRY.make(kind, {"uses": MEMBERS.get(name, name), **OPTIONS.get((kind, name), {})})


def detector() -> nn.Module:
    torch.manual_seed(0)
    return made("architectures", "darknet").build(1, SIZE)


@pytest.fixture
def hands(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dataset]:
    """Drawn hands, cached in a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    yield made("datasets", "drawn-hands")


LIMITED = {"torch-pruning.OBDCImportance"}
"""Its Fisher matrix has rows for whole layers without a bias only: it fails on the concatenation of the kit's network,
in Torch-Pruning as here. `obd-c` is the project's own."""


@pytest.mark.parametrize("name", sorted(set(REGISTRY.criteria) - LIMITED))
def test_criteria_conform(name: str) -> None:
    check_criterion(made("criteria", name))


@pytest.mark.parametrize("name", sorted(LIMITED))
def test_criteria_of_others_that_are_limited_say_so_in_one_line(name: str) -> None:
    with pytest.raises(Unfit, match=r"OBDCImportance' failed on group '[^\n]+$"):
        check_criterion(made("criteria", name))


@pytest.mark.parametrize("name", sorted(REGISTRY.regularizers))
def test_regularizers_conform(name: str) -> None:
    check_regularizer(made("regularizers", name))


@pytest.mark.parametrize("name", sorted(REGISTRY.distillations))
def test_distillations_conform(name: str) -> None:
    if name == "detector":
        boxes = {"boxes": torch.tensor([[10.0, 12.0, 50.0, 70.0]]), "labels": torch.tensor([0])}
        check_distillation(made("distillations", name), detector(), torch.rand(2, 3, *SIZE), [boxes, boxes])
    else:
        check_distillation(made("distillations", name))


@pytest.mark.parametrize("name", sorted(REGISTRY.policies))
def test_policies_conform(name: str) -> None:
    check_policy(made("policies", name), detector().eval(), torch.rand(1, 3, *SIZE))


@pytest.mark.parametrize("name", sorted(REGISTRY.architectures))
def test_architectures_conform(name: str) -> None:
    if name == "timm/":
        pytest.importorskip("timm", reason="timm is optional: pip install timm")
    check_architecture(made("architectures", name), 2, SIZE)


def test_drawn_hands_and_the_detection_task_conform(hands: Dataset) -> None:
    data = check_dataset(hands)
    check_task(made("tasks", "yolov3"), detector(), data)


@pytest.mark.parametrize("name", sorted(REGISTRY.exporters))
def test_exporters_conform(name: str, tmp_path: Path) -> None:
    fitting = (detector().eval(), torch.rand(1, 3, *SIZE)) if name == "darknet" else small_network()
    check_exporter(made("exporters", name), *fitting, tmp_path)


@pytest.mark.parametrize("name", sorted(REGISTRY.compensations))
def test_compensations_conform(name: str) -> None:
    check_compensation(made("compensations", name))


@pytest.mark.parametrize("name", sorted(REGISTRY.stages))
def test_stages_have_options_that_survive_a_recipe(name: str) -> None:
    check_plugin(made("stages", name))


def test_every_kind_with_a_check_is_checked_here() -> None:
    checked = {"criteria", "regularizers", "policies", "architectures", "exporters", "stages", "compensations",
               "distillations"}  # fmt: skip
    assert checked <= {kind for kind, _ in REGISTRY.owners}
    by_name, functions = {"tasks", "datasets"}, {"op_rules", "commands"}
    assert checked | by_name | functions == {kind.field for kind in KINDS}, "is there a check for the new kind?"
    on_disk = {"coco", "darknet-lists", "voc", "yolo", "image-folders", "torchvision/"}  # checked in their own tests
    assert set(REGISTRY.tasks) == {"yolov3", "classify"}
    assert set(REGISTRY.datasets) == {"drawn-hands", "digits", *on_disk}


def test_the_kit_passes_a_strangers_plugins() -> None:
    toy = compress.plugins.load([TOY])
    data = check_dataset(toy.make("datasets", "toy-stripes"))
    check_task(toy.make("tasks", "toy-task"), toy.make("architectures", "toy-net").build(4, (16, 16)), data)
    check_architecture(toy.make("architectures", "toy-net"), 4, (16, 16))
    check_policy(toy.make("policies", "toy-policy"), *small_network())


class Small(Criterion):
    """Small weights go first."""

    name = "small"

    def score(self, part: Part) -> Tensor | None:
        return part.tensor.movedim(part.dim, 0).abs().flatten(1).sum(1)


class Named(Small):
    """A word that is two words."""

    name = "two words"


class Undescribed(Small):
    name = "undescribed"


class Lossy(Small):
    """An option that a recipe changes. words: which grow."""

    name = "lossy"
    words: tuple[str, ...] = ("a",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", (*self.words, "a"))


class Silent(Small):
    """An option that nobody explains."""

    name = "silent"
    power: float = 1.0


class Spoils(Small):
    """Changes what it scores."""

    name = "spoils"

    def score(self, part: Part) -> Tensor | None:
        return part.tensor.abs_().movedim(part.dim, 0).flatten(1).sum(1)


class Mute(Small):
    """Says nothing."""

    name = "mute"

    def score(self, part: Part) -> Tensor | None:
        return None


class Fickle(Small):
    """Another answer each time."""

    name = "fickle"

    def score(self, part: Part) -> Tensor | None:
        return torch.rand(part.tensor.shape[part.dim])


class Policy(GroupPolicy):
    """What the tests' policies share."""

    name = "policy"

    def freeze(self, graph: Any, model: nn.Module) -> Mapping[str, str]:
        return {"nothing": "there is no such group"}


class Unreasoned(Policy):
    """Gives no reason."""

    name = "unreasoned"

    def freeze(self, graph: Any, model: nn.Module) -> Mapping[str, str]:
        return {graph.groups[0].name: " "}


class Shrinks(Regularizer):
    """Shrinks every parameter a little. how: in which way it is broken."""

    name = "shrinks"
    how: str = ""

    def attach(self, graph: Any, model: nn.Module, optimizer: Any, frozen: Mapping[str, str]) -> Any:
        kept = {m.name for group in graph.groups if group.name in frozen for m in group.members}
        chosen = {n: p for n, p in model.named_parameters() if self.how == "frozen" or n not in kept}

        def shrink(*_: object) -> None:
            with torch.no_grad():
                for parameter in chosen.values():
                    parameter.mul_(1.01 if self.how == "grows" else 0.99)

        handle = optimizer.register_step_post_hook(shrink)
        how = self.how

        class Attached:
            def watched(self) -> Mapping[str, Tensor]:
                return {} if how == "blind" else {"x": torch.ones(1)} if how == "strange" else chosen

            def detach(self) -> None:
                if how != "endless":
                    handle.remove()

        return Attached()


class Pictures(Dataset):
    """Grey pictures. how: in which way it is broken."""

    name = "pictures"
    how: str = ""

    def available(self) -> str | None:
        return "no pictures here" if self.how == "missing" else None

    def open(self) -> Data:
        split = _Split(self.how)
        data = Data("pictures", ("grey",), split, split, (8, 8), "one")
        return replace(data, fingerprint=str(np.random.rand())) if self.how == "fingerprint" else data


class _Split:
    def __init__(self, how: str) -> None:
        self.how = how

    def __len__(self) -> int:
        return 0 if self.how == "empty" else 3

    def sample(self, index: int, rng: np.random.Generator | None) -> tuple[Tensor, Any]:
        noise = np.random.rand() if self.how == "fickle" else rng.random() if rng else 0.0
        dtype = torch.float32 if self.how == "dtype" else torch.uint8
        return torch.full((3, 8, 9 if self.how == "shape" else 8), int(noise * 1000) % 256, dtype=dtype), {"i": index}

    def collate(self, samples: list[tuple[Tensor, Any]]) -> tuple[Tensor, Any]:
        images = torch.stack([image for image, _ in samples]).float()
        return images + 2 if self.how == "range" else images / 255, [target for _, target in samples]


class Learns(Task):
    """Drives the outputs to zero. how: in which way it is broken."""

    name = "learns"
    how: str = ""

    def loss(self, model: nn.Module, images: Tensor, targets: Any) -> Mapping[str, Tensor]:
        loss = model(images).square().mean()
        broken: dict[str, Callable[[], Mapping[str, Tensor]]] = {
            "nameless": lambda: {"mse": loss},
            "nan": lambda: {"loss": loss * float("nan")},
            "idle": lambda: {"loss": loss * 0},
        }
        return broken.get(self.how, lambda: {"loss": loss})()

    def evaluate(self, model: nn.Module, batches: Iterable[Any], classes: Any, progress: Any = None) -> Evaluation:
        value = np.random.rand() if self.how == "fickle" else 0.5
        return Evaluation({} if self.how == "headless" else {"map50": value})


class Copies(Distillation):
    """Squared error of the outputs. how: in which way it is broken."""

    name = "copies"
    how: str = ""

    def loss(self, student: Answer, teacher: Answer, targets: Any) -> Tensor:
        error = (student.outputs - teacher.outputs).square().mean()
        if self.how == "spoils":
            next(teacher.model.parameters()).data.zero_()
        broken: dict[str, Callable[[], Tensor]] = {
            "vector": lambda: (student.outputs - teacher.outputs).square().mean(0),
            "nan": lambda: error * float("nan"),
            "fickle": lambda: error * (1 + float(np.random.rand())),
            "detached": lambda: error.detach(),
            "idle": lambda: 0 * error,
            "backwards": lambda: -error,
        }
        return broken.get(self.how, lambda: error)()


class Mends(Compensation):
    """Doubles what is left. how: in which way it is broken."""

    name = "mends"
    how: str = ""

    def compensate(self, original: nn.Module, cut: nn.Module, graph: Any, plan: Any, edits: Any, **_: Any) -> nn.Module:
        factor = {"fickle": float(np.random.rand()), "idle": 1.0, "infinite": float("inf")}.get(self.how, 2.0)
        with torch.no_grad():
            for parameter in (original if self.how == "spoils" else cut).parameters():
                parameter.mul_(factor)
        return small_network()[0] if self.how == "grows" else cut


class Writes(Exporter):
    """Writes one file. how: in which way it is broken."""

    name = "writes"
    how: str = ""

    def export(self, model: nn.Module, example: Tensor, folder: Path) -> Mapping[str, Any]:
        if self.how == "spoils":
            next(model.parameters()).data.zero_()
        if self.how != "nothing":
            (folder / "net.txt").write_text("a network")
        files = [] if self.how in ("nothing", "unnamed") else ["net.txt"]
        return {"files": files, "max_abs": 1.0 if self.how == "wrong" else 0.0}


class Builds(Architecture):
    """A small network. how: in which way it is broken."""

    name = "builds"
    how: str = ""

    def build(self, classes: int, image_size: tuple[int, int]) -> nn.Module:
        model, _ = small_network(np.random.randint(1 << 30) if self.how == "fickle" else 0)
        if self.how == "idle":
            model.spare = nn.Linear(2, 2)  # type: ignore[assignment]
        return model


CASES: list[tuple[Callable[[], object], str]] = [
    (lambda: check_plugin(Named()), "expected a word without spaces"),
    (lambda: check_plugin(Undescribed()), "expected one sentence that says what it is"),
    (lambda: check_plugin(Silent()), "says nothing about power; write `option: what it means.`"),
    (lambda: check_plugin(Lossy()), "options change on the way through a recipe"),
    (lambda: check_criterion(Spoils()), "changed the model that it scores"),
    (lambda: check_criterion(Mute()), "says nothing about any group"),
    (lambda: check_criterion(Fickle()), "chooses other units when asked a second time"),
    (lambda: check_policy(Policy(), *small_network()), "are no groups or blocks of the graph"),
    (lambda: check_policy(Unreasoned(), *small_network()), "gives no reason for"),
    *(
        (lambda how=how: check_compensation(Mends(how=how)), said)
        for how, said in [
            ("spoils", "changed the original network"),
            ("grows", "changed the shapes of"),
            ("infinite", "not finite"),
            ("fickle", "other values for"),
            ("idle", "does nothing"),
        ]
    ),
    (lambda: check_regularizer(Shrinks(how="blind")), "watches nothing"),
    (lambda: check_regularizer(Shrinks(how="strange")), "are no parameters of the model"),
    (lambda: check_regularizer(Shrinks(how="grows")), "steps later, to"),
    (lambda: check_regularizer(Shrinks(how="frozen")), "of a group that the policy keeps"),
    (lambda: check_regularizer(Shrinks(how="endless")), "goes on after detach"),
    *(
        (lambda how=how: check_distillation(Copies(how=how)), said)
        for how, said in [
            ("vector", "expected a finite scalar"),
            ("nan", "is nan"),
            ("fickle", "for the same batch"),
            ("detached", "has no gradient"),
            ("idle", "teaches the student nothing"),
            ("backwards", "for a student that equals its teacher"),
            ("spoils", "changed the teacher"),
        ]
    ),
    (lambda: check_dataset(Pictures(how="missing")), "no pictures here"),
    (lambda: check_dataset(Pictures(how="fingerprint")), "two fingerprints"),
    (lambda: check_dataset(Pictures(how="empty")), "is empty"),
    (lambda: check_dataset(Pictures(how="fickle")), "is another one when asked again"),
    (lambda: check_dataset(Pictures(how="dtype")), "expected torch.uint8"),
    (lambda: check_dataset(Pictures(how="shape")), "expected (3, 8, 8)"),
    (lambda: check_dataset(Pictures(how="range")), "expected float32 in [0, 1]"),
    *(
        (lambda how=how: check_task(Learns(how=how), small_network()[0], Pictures().open()), said)
        for how, said in [
            ("nameless", "expected 'loss' among them"),
            ("nan", "expected a finite scalar"),
            ("idle", "teaches nothing"),
            ("headless", "is none of the metrics"),
            ("fickle", "other metrics a second time"),
        ]
    ),
    (lambda: check_architecture(Builds(how="fickle"), 5, (8, 8)), "different networks for one seed"),
    (lambda: check_architecture(Builds(how="idle"), 5, (8, 8)), "no gradient reaches spare.weight"),
]


@pytest.mark.parametrize(("broken", "message"), CASES, ids=[message for _, message in CASES])
def test_the_kit_says_what_is_broken(broken: Callable[[], object], message: str) -> None:
    with pytest.raises(Unfit) as caught:
        broken()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nothing", "wrote nothing"),
        ("unnamed", "are there"),
        ("wrong", "differ by 1 where"),
        ("spoils", "changed the model"),
    ],
)
def test_the_kit_says_what_an_exporter_broke(how: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(Unfit, match=message):
        check_exporter(Writes(how=how), *small_network(), tmp_path)


def test_the_kit_passes_the_same_plugins_unbroken(tmp_path: Path) -> None:
    check_criterion(Small())
    check_compensation(Mends())
    check_regularizer(Shrinks())
    check_distillation(Copies())
    check_task(Learns(), small_network()[0], check_dataset(Pictures()))
    check_architecture(Builds(), 5, (8, 8))
    check_exporter(Writes(), *small_network(), tmp_path)
