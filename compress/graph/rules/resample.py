"""Pooling, upsampling, padding and shuffles between channels and space."""

from __future__ import annotations

import re
from math import prod

import numpy as np

from ..labels import Block, Labels, Layout, place_blocks
from ..tape import Call
from .reduce import freeze_along, without
from .table import rule


@rule(
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_pool2d_with_indices",
    "max_pool3d_with_indices",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d",
    "_upsample_nearest_exact3d",
    "upsample_linear1d",
    "upsample_bilinear2d",
    "_upsample_bilinear2d_aa",
    "upsample_trilinear3d",
    "upsample_bicubic2d",
    "_upsample_bicubic2d_aa",
    "reflection_pad1d",
    "reflection_pad2d",
    "reflection_pad3d",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
    "grid_sampler_2d",
    "grid_sampler_3d",
    "max_unpool2d",
    "torchvision::roi_align",
    "torchvision::roi_pool",
)
def over_space(call: Call, labels: Labels) -> list[Layout]:
    """Each channel by itself: labels pass. What is carried along a resampled dimension stays."""
    x = call.args[0]
    written = re.search(r"(\d)d", call.op) or re.search(r"_(\d)$", call.op)
    n_space = int(written.group(1)) if written else 2
    space = range(len(x.shape) - n_space, len(x.shape))
    freeze_along(x, space, f"{call.where} resamples it", labels)
    kept = tuple(block for block in labels.of(x) if not set(block.dims) & set(space))
    return [kept for _ in call.outs]


@rule("constant_pad_nd")
def pad(call: Call, labels: Labels) -> Layout:
    """Pads the last dimensions. Padded channels are positions of their own that stay."""
    x, amounts = call.args[0], call.args[1]
    padded = {len(x.shape) - 1 - i // 2: (amounts[i], amounts[i + 1]) for i in range(0, len(amounts), 2)}
    blocks: list[Block] = []
    for block in labels.of(x):
        touched = [d for d in block.dims if padded.get(d, (0, 0)) != (0, 0)]
        if not touched:
            blocks.append(block)
            continue
        if len(block.dims) > 1 or min(padded[touched[0]]) < 0:
            labels.pin(block.labels, f"{call.where} pads or crops it")
            continue
        before, after = padded[touched[0]]
        ends = labels.fresh(before), labels.fresh(after)
        for end in ends:
            labels.pin(end, f"{call.where} adds padding")
        blocks.append(Block(block.dims, np.concatenate([ends[0], block.labels, ends[1]])))
    return tuple(blocks)


@rule("unfold")
def unfold(call: Call, labels: Labels) -> Layout:
    """Windows along one dimension, their contents along a new last one: what is carried there stays."""
    x, dim = call.args[0], call.args[1] % len(call.args[0].shape)
    freeze_along(x, [dim], f"{call.where} takes windows of it", labels)
    return without(x, {dim}, True, labels)


@rule("im2col")
def im2col(call: Call, labels: Labels) -> Layout:
    """([N,] C, H, W) -> ([N,] C k k, windows): each channel becomes k k."""
    x, kernel = call.args[:2]
    found = labels.along(x, len(x.shape) - 3)
    freeze_along(x, range(len(x.shape) - 2, len(x.shape)), f"{call.where} takes windows of it", labels)
    return () if found is None else (Block((len(x.shape) - 3,), np.repeat(found, prod(kernel))),)


@rule("col2im")
def col2im(call: Call, labels: Labels) -> Layout:
    """([N,] C k k, windows) -> ([N,] C, H, W): the k k positions of a channel live together."""
    x, _, kernel = call.args[:3]
    channel = len(x.shape) - 2
    freeze_along(x, [channel + 1], f"{call.where} sums windows", labels)
    found = labels.along(x, channel)
    if found is None:
        return ()
    rows = found.reshape(-1, prod(kernel))  # (C k k,) -> (C, k k)
    labels.equal(rows, rows[:, :1])
    return (Block((channel,), rows[:, 0].copy()),)


@rule("pixel_shuffle")
def pixel_shuffle(call: Call, labels: Labels) -> Layout:
    """(..., C r r, H, W) -> (..., C, H r, W r): the r r channels that become one live together."""
    x, r = call.args[:2]
    channel = len(x.shape) - 3
    found = labels.along(x, channel)
    if found is None:
        return labels.of(x)
    rows = found.reshape(-1, r * r)  # (C r r,) -> (C, r r)
    labels.equal(rows, rows[:, :1])
    return _with_channels(call, labels, channel, rows[:, 0].copy())


@rule("pixel_unshuffle")
def pixel_unshuffle(call: Call, labels: Labels) -> Layout:
    """(..., C, H r, W r) -> (..., C r r, H, W): each channel becomes r r."""
    x, r = call.args[:2]
    channel = len(x.shape) - 3
    found = labels.along(x, channel)
    return labels.of(x) if found is None else _with_channels(call, labels, channel, np.repeat(found, r * r))


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(call: Call, labels: Labels) -> Layout:
    """(N, g c, ...) -> (N, c g, ...): the j-th channels of all groups live together, so that order is kept."""
    x, groups = call.args[:2]
    found = labels.along(x, 1)
    if found is None:
        return labels.of(x)
    rows = found.reshape(groups, -1)  # (g c,) -> (g, c)
    labels.equal(rows, rows[:1])
    return _with_channels(call, labels, 1, rows.T.reshape(-1))


def _with_channels(call: Call, labels: Labels, channel: int, found: np.ndarray) -> Layout:
    others = [(b.dims, b.labels, b.axes) for b in labels.of(call.args[0]) if channel not in b.dims]
    return place_blocks([*others, ((channel,), found, ())])
