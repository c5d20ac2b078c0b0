"""What is written computes the same in the format's own runtime, or no file is left."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from compress_plugins.onnx_export import OnnxExporter
from compress_plugins.torch_export import TorchExporter
from torch import Tensor, nn
from torch.nn import functional as F

from compress import CompressError, Exporter, VerificationError


class Pyramid(nn.Module):
    """A residual, a concatenation, an upsampling and two outputs, like a small detector."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 7, 3, padding=1), nn.BatchNorm2d(7), nn.LeakyReLU(0.1))
        self.side = nn.Conv2d(7, 7, 1)
        self.down = nn.Conv2d(7, 5, 3, stride=2, padding=1)
        self.heads = nn.ModuleList([nn.Conv2d(12, 6, 1), nn.Conv2d(5, 6, 1)])

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x = self.stem(x)
        x = x + self.side(x)
        low = self.down(x)
        high = torch.cat([F.interpolate(low, scale_factor=2.0), x], 1)
        return self.heads[0](high), {"low": self.heads[1](low)}


class Liar(nn.Module):
    """Computes something else while it is being exported."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x if torch.compiler.is_exporting() else x


class Undecided(nn.Module):
    """Which path it takes depends on the values of its input: a trace cannot hold it."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x - 1


class OneSize(nn.Module):
    """Works for a batch of two only."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 3, 16).mean(2)


def by_onnxruntime(file: Path, images: Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(["output0", "output1"], {"images": images.numpy()})


def by_torch(file: Path, images: Tensor) -> list[np.ndarray]:
    high, rest = torch.export.load(file).module()(images)
    return [high.numpy(), rest["low"].numpy()]


Read = Callable[[Path, Tensor], list[np.ndarray]]
FORMATS: list[tuple[Exporter, str, Read]] = [
    (OnnxExporter(), "model.onnx", by_onnxruntime),
    (TorchExporter(), "model.pt2", by_torch),
]
each_format = pytest.mark.parametrize(("exporter", "file", "read"), FORMATS, ids=[e.name for e, *_ in FORMATS])


@each_format
def test_the_file_computes_the_same_for_any_batch(exporter: Exporter, file: str, read: Read, tmp_path, capfd) -> None:
    torch.manual_seed(0)
    model = Pyramid()
    with torch.no_grad():
        model.stem[1].running_mean.normal_()
        model.stem[1].running_var.uniform_(0.5, 2)
    model.eval()
    example = torch.rand(1, 3, 16, 24)
    before, seed = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    found = exporter.export(model, example, tmp_path / "new")
    assert found["files"] == [file] and found["dynamic_batch"] and 0 <= found["max_abs"] < 1e-4
    assert [path.name for path in (tmp_path / "new").iterdir()] == [file]
    assert capfd.readouterr() == ("", "")
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), seed)
    images = torch.rand(5, 3, 16, 24)
    with torch.no_grad():
        expected = model(images)
        high, low = read(tmp_path / "new" / file, images)
    np.testing.assert_allclose(high, expected[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(low, expected[1]["low"].numpy(), atol=1e-5)


@each_format
def test_a_network_for_one_batch_size_says_so(exporter: Exporter, file: str, read: Read, tmp_path) -> None:
    found = exporter.export(OneSize().eval(), torch.rand(2, 3, 4, 4), tmp_path)
    assert not found["dynamic_batch"] and found["files"] == [file]


@pytest.mark.parametrize(
    ("model", "error", "said"),
    [
        (Liar(), VerificationError, r"output 0 computed by .* differs by .* at most 0\.0001 of it; nothing"),
        (Undecided(), CompressError, "Undecided cannot be (written as ONNX|exported) "),
        (nn.BatchNorm2d(3).train(), CompressError, "train mode; call .eval"),
    ],
    ids=["differs", "cannot", "training"],
)
@each_format
def test_refused_networks_leave_no_file(
    exporter: Exporter, file: str, read: Read, tmp_path, capfd, model: nn.Module, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        exporter.export(model, torch.rand(2, 3, 8, 8), tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
