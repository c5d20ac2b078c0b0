"""Convolution and pooling layers against Darknet's definitions written out pixel by pixel."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from compress_models.darknet import Darknet, parse_cfg

from compress import CompressError


def build(section: str, channels: int = 2, height: int = 7, width: int = 6) -> Darknet:
    return Darknet(parse_cfg(f"[net]\nwidth={width}\nheight={height}\nchannels={channels}\n{section}")).double().eval()


def run(model: Darknet, x: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return model(x)[0][0].numpy()


POOLS = [
    (size, stride, padding, height)
    for size, stride, height in itertools.product((1, 2, 3, 5), (1, 2, 3), (7, 8))
    for padding in (None, *range(2 * size - 1))
]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_maxpool_takes_the_windows_that_darknet_takes(size: int) -> None:
    for _, stride, padding, height in (pool for pool in POOLS if pool[0] == size):
        given = "" if padding is None else f"padding={padding}\n"
        x = -torch.rand(1, 2, height, 6, dtype=torch.float64) - 1  # negative: a border of zeros would win
        ours = run(build(f"[maxpool]\nsize={size}\nstride={stride}\n{given}", height=height), x)
        pad = size - 1 if padding is None else padding
        rows, columns = (height + pad - size) // stride + 1, (6 + pad - size) // stride + 1
        expected = np.empty((2, rows, columns))
        for row, column in itertools.product(range(rows), range(columns)):
            top, left = row * stride - pad // 2, column * stride - pad // 2
            window = x[0, :, max(top, 0) : top + size, max(left, 0) : left + size]
            expected[:, row, column] = window.amax((1, 2))
        np.testing.assert_array_equal(ours, expected, err_msg=f"{size=} {stride=} {padding=} {height=}")


def test_maxpool_refuses_windows_without_a_pixel() -> None:
    with pytest.raises(CompressError, match="padding=3: expected at most"):
        build("[maxpool]\nsize=2\nstride=1\npadding=3\n")


@pytest.mark.parametrize("normal", [0, 1])
@pytest.mark.parametrize(
    ("size", "stride", "border", "dilation", "groups"),
    [
        *((3, 1, "pad=1", 1, 1), (3, 2, "pad=1", 1, 2), (1, 1, "pad=1", 3, 1), (2, 1, "padding=2", 1, 4)),
        *((3, 1, "", 1, 1), (3, 1, "pad=1", 2, 2), (5, 2, "pad=1", 2, 1), (4, 3, "pad=1", 1, 1)),
    ],
)
def test_convolution_is_the_sum_over_its_window(
    size: int, stride: int, border: str, dilation: int, groups: int, normal: int
) -> None:
    torch.manual_seed(1)
    options = f"filters=8\nsize={size}\nstride={stride}\n{border}\ndilation={dilation}\ngroups={groups}\n"
    model = build(f"[convolutional]\n{options}batch_normalize={normal}\nactivation=leaky\n", channels=4)
    layer: Any = model.layers[0]
    shift, gain = torch.randn(8, dtype=torch.float64), torch.ones(8, dtype=torch.float64)
    if normal:
        gain = torch.rand(8, dtype=torch.float64) + 0.5
        layer.norm.weight.data, layer.norm.bias.data = gain.clone(), shift
        layer.norm.running_mean, layer.norm.running_var = torch.zeros(8).double(), torch.ones(8).double() * 3
        gain = gain / (3 + 1e-5) ** 0.5
    else:
        layer.conv.bias.data = shift
    if size == 1:
        dilation = 1  # as Darknet does
    pad = {"pad=1": size // 2, "padding=2": 2, "": 0}[border]
    x = torch.randn(1, 4, 7, 6, dtype=torch.float64)
    ours = run(model, x)
    rows, columns = (7 + 2 * pad - size) // stride + 1, (6 + 2 * pad - size) // stride + 1
    expected = np.zeros((8, rows, columns))
    weight, each = layer.conv.weight.detach(), 4 // groups
    for f, row, column, i, j in itertools.product(range(8), range(rows), range(columns), range(size), range(size)):
        y, z = row * stride + i * dilation - pad * dilation, column * stride + j * dilation - pad * dilation
        if 0 <= y < 7 and 0 <= z < 6:
            first = f // (8 // groups) * each
            expected[f, row, column] += (weight[f, :, i, j] * x[0, first : first + each, y, z]).sum()
    expected = expected * gain.numpy()[:, None, None] + shift.numpy()[:, None, None]
    np.testing.assert_allclose(ours, np.where(expected > 0, expected, 0.1 * expected), atol=1e-12)


def test_strides_may_differ_by_axis() -> None:
    assert run(build("[convolutional]\nfilters=1\nstride_x=3\n"), torch.rand(1, 2, 7, 6).double()).shape == (1, 7, 2)


@pytest.mark.parametrize("options", ["size=2\ndilation=2\npad=1", "size=3\ndilation=2"])
def test_dilation_that_darknet_computes_out_of_bounds_is_refused(options: str) -> None:
    with pytest.raises(CompressError, match="dilation=2 needs an odd size"):
        build(f"[convolutional]\nfilters=1\n{options}\n")


def test_avgpool_and_a_network_without_yolo_give_the_last_map() -> None:
    x = torch.rand(1, 2, 7, 6, dtype=torch.float64)
    np.testing.assert_allclose(run(build("[avgpool]\n"), x)[:, 0, 0], x[0].mean((1, 2)))


@pytest.mark.parametrize(("stride", "channels"), [(1, 3), (2, 8), (3, 9)])
def test_reorg_moves_numbers_as_darknet_does(stride: int, channels: int) -> None:
    """Darknet's loop, index by index: it reads the input as (channels / stride^2, height * stride, width * stride)."""
    height, width = 2 * stride, 3 * stride
    model = build(f"[reorg]\nstride={stride}\n", channels=channels, height=height, width=width)
    x = torch.arange(channels * height * width, dtype=torch.float64).view(1, channels, height, width)
    flat, expected = x.flatten().numpy(), np.empty(x.numel())
    fewer = channels // stride**2
    for k, j, i in itertools.product(range(channels), range(height), range(width)):
        row, column = j * stride + k // fewer // stride, i * stride + k // fewer % stride
        source = column + width * stride * (row + height * stride * (k % fewer))
        expected[i + width * (j + height * k)] = flat[source]
    ours = run(model, x)
    assert ours.shape == (channels * stride**2, 2, 3)
    np.testing.assert_array_equal(ours.ravel(), expected)


def test_reorg_that_does_not_fit_is_named() -> None:
    with pytest.raises(CompressError, match=r"section 0 \[reorg\]: stride=2: 4 must divide its channels"):
        build("[reorg]\nstride=2\n", channels=6, height=8, width=8)
