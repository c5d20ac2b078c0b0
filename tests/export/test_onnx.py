"""What is written as ONNX computes the same in ONNX Runtime, or no file is left."""

from __future__ import annotations

import copy

import numpy as np
import onnxruntime
import pytest
import torch
from compress_plugins.onnx_export import OnnxExporter
from torch import Tensor, nn
from torch.nn import functional as F

from compress import CompressError


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
    """Which path it takes depends on the values of its input: ONNX's trace cannot hold it."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x - 1


class OneSize(nn.Module):
    """Works for a batch of two only."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 3, 16).mean(2)


def test_the_file_computes_the_same_for_any_batch(tmp_path, capfd) -> None:
    torch.manual_seed(0)
    model = Pyramid()
    with torch.no_grad():
        model.stem[1].running_mean.normal_()
        model.stem[1].running_var.uniform_(0.5, 2)
    model.eval()
    example = torch.rand(1, 3, 16, 24)
    before, seed = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    found = OnnxExporter().export(model, example, tmp_path / "new")
    assert found["files"] == ["model.onnx"] and found["dynamic_batch"] and 0 <= found["max_abs"] < 1e-4
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.onnx"]
    assert capfd.readouterr() == ("", "")
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), seed)
    session = onnxruntime.InferenceSession(tmp_path / "new" / "model.onnx", providers=["CPUExecutionProvider"])
    images = torch.rand(5, 3, 16, 24)
    high, low = session.run(["output0", "output1"], {"images": images.numpy()})
    with torch.no_grad():
        expected = model(images)
    np.testing.assert_allclose(high, expected[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(low, expected[1]["low"].numpy(), atol=1e-5)


def test_a_network_for_one_batch_size_says_so(tmp_path) -> None:
    found = OnnxExporter().export(OneSize().eval(), torch.rand(2, 3, 4, 4), tmp_path)
    assert not found["dynamic_batch"] and found["files"] == ["model.onnx"]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Liar(), r"output 0 computed by ONNX Runtime differs by .* at most 0\.0001 of it; nothing was written"),
        (Undecided(), "Undecided cannot be written as ONNX"),
        (nn.BatchNorm2d(3).train(), "train mode; call .eval"),
    ],
    ids=["differs", "cannot", "training"],
)
def test_refused_networks_leave_no_file(tmp_path, capfd, model: nn.Module, said: str) -> None:
    with pytest.raises(CompressError, match=said) as caught:
        OnnxExporter().export(model, torch.rand(2, 3, 8, 8), tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
