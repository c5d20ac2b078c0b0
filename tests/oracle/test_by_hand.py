"""Constructions that networks are made of, one network each: the cut equals the masked original to 1e-9."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from layers import Apply
from oracle import call, compare, kept, number_every_element, snapshot
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, weight_norm

import compress

CASES: dict[str, Callable[[], tuple[nn.Module, Any, float]]] = {}
"""Name -> network, inputs, and the share of parameters that may be left at ratio 0.5."""

IMAGE = (2, 3, 8, 8)
TOKENS = (2, 5, 12)


def case(function: Callable[[], tuple[nn.Module, Any, float]]) -> Callable[[], tuple[nn.Module, Any, float]]:
    CASES[function.__name__] = function
    return function


def conv(cin: int, cout: int, k: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, k, padding=k // 2, **options)


def ends(middle: int, inner: int | None = None) -> dict[str, nn.Module]:
    """A first convolution to `middle` channels and a last one from `inner`."""
    return {
        "first": nn.Sequential(conv(3, middle), nn.BatchNorm2d(middle), nn.ReLU()),
        "last": conv(inner or middle, 4, 1),
    }


@case
def shared_weights():
    model = Apply(lambda m, x: m.last(m.b(m.a(m.first(x)).relu())), **ends(8), a=conv(8, 8), b=conv(8, 8))
    model.b.weight = model.a.weight
    return model, torch.rand(IMAGE), 0.5


@case
def a_module_called_twice():
    model = Apply(lambda m, x: m.last(m.a(m.a(m.first(x)).relu()).relu()), **ends(8), a=conv(8, 8))
    return model, torch.rand(IMAGE), 0.4


@case
def layer_scale():
    def forward(m, x):
        y = m.first(x)
        return m.last(y + m.scale * m.b(m.a(y).relu()))

    return (
        Apply(forward, {"scale": torch.full((8, 1, 1), 1e-6)}, **ends(8), a=conv(8, 12), b=conv(12, 8)),
        torch.rand(IMAGE),
        0.4,
    )


class Vision(nn.Module):
    """A vision transformer of PyTorch's own layers: class token, positions, embedding width that follows the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 4, 4)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, 16)), nn.Parameter(torch.rand(1, 5, 16))
        layers = [nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=first) for first in (True, False)]
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.positions
        return self.head(self.layers(tokens)[:, 0])


@case
def class_tokens_positions_and_multihead_attention():
    return Vision(), torch.rand(IMAGE), 0.35


@case
def cross_attention():
    attention = nn.MultiheadAttention(16, 4, batch_first=True)
    model = Apply(
        lambda m, x: m.head(m.attention(m.q(x), m.kv(x[:, :3]), m.kv(x[:, :3]))[0]),
        q=nn.Linear(12, 16),
        kv=nn.Linear(12, 16),
        attention=attention,
        head=nn.Linear(16, 4),
    )
    return model, torch.rand(TOKENS), 0.45


@case
def relative_positions():
    def forward(m, x):
        b, n, _ = x.shape
        q, k, v = m.qkv(x).reshape(b, n, 3, m.heads, -1).permute(2, 0, 3, 1, 4)
        bias = m.table[m.index.flatten()].view(n, n, -1).permute(2, 0, 1)
        weights = (q @ k.mT * 0.5 + bias).softmax(-1)
        return m.out((weights @ v).transpose(1, 2).reshape(b, n, -1))

    model = Apply(forward, {"table": torch.rand(9, 4)}, qkv=nn.Linear(12, 48), out=nn.Linear(16, 3), heads=4)
    place = torch.arange(5)
    model.register_buffer("index", place[:, None] - place[None] + 4)
    return model, torch.rand(TOKENS), 0.6


@case
def weight_norm_old():
    model = Apply(
        lambda m, x: m.last(m.b(m.a(m.first(x)).relu()).relu()), **ends(8), a=weight_norm(conv(8, 12)), b=conv(12, 8)
    )
    return model, torch.rand(IMAGE), 0.4


@case
def weight_norm_new():
    made = parametrizations.weight_norm(conv(8, 12))
    model = Apply(lambda m, x: m.last(m.b(m.a(m.first(x)).relu()).relu()), **ends(8), a=made, b=conv(12, 8))
    return model, torch.rand(IMAGE), 0.4


class Positive(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.square() + 0.1 * weight


@case
def parametrised():
    layer = conv(8, 12)
    parametrize.register_parametrization(layer, "weight", Positive())
    model = Apply(lambda m, x: m.last(m.b(m.a(m.first(x)).relu()).relu()), **ends(8), a=layer, b=conv(12, 8))
    return model, torch.rand(IMAGE), 0.4


@case
def lstm():
    model = Apply(
        lambda m, x: m.head(m.body(m.embed(x))[0]),
        embed=nn.Linear(12, 8),
        body=nn.LSTM(8, 6, batch_first=True),
        head=nn.Linear(6, 3),
    )
    return model, torch.rand(TOKENS), 0.9


@case
def gru():
    model = Apply(
        lambda m, x: m.head(m.body(m.embed(x))[0][:, -1]),
        embed=nn.Linear(12, 8),
        body=nn.GRU(8, 6, 2, bidirectional=True, batch_first=True),
        head=nn.Linear(12, 3),
    )
    return model, torch.rand(TOKENS), 0.95


@case
def einsum():
    def forward(m, x):
        y = torch.einsum("bchw,oc->bohw", m.first(x), m.w).relu()
        return m.last(torch.einsum("bohw,o->bohw", y, m.gain))

    return Apply(forward, {"w": torch.rand(12, 8), "gain": torch.rand(12)}, **ends(8, 12)), torch.rand(IMAGE), 0.5


@case
def transposed_and_grouped_with_multipliers():
    layers = nn.Sequential(
        conv(8, 16, groups=8), nn.ReLU(), conv(16, 8, groups=4), nn.ReLU(),
        nn.ConvTranspose2d(8, 16, 3, groups=8), nn.ReLU(),
        nn.ConvTranspose2d(16, 8, 2, 2, groups=2), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, 2), nn.ReLU(),
    )  # fmt: skip
    return Apply(lambda m, x: m.last(m.body(m.first(x))), **ends(8, 6), body=layers), torch.rand(IMAGE), 0.6


@case
def channel_shuffle():
    def forward(m, x):
        y = m.first(x)
        n, c, h, w = y.shape
        y = y.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)
        return m.last(F.channel_shuffle(m.a(y).relu(), 4))

    return Apply(forward, **ends(8), a=conv(8, 8)), torch.rand(IMAGE), 0.5


@case
def pixel_shuffle_and_unshuffle():
    def forward(m, x):
        return m.last(F.pixel_shuffle(m.b(F.pixel_unshuffle(m.first(x), 2)).relu(), 2))

    return Apply(forward, **ends(8, 4), b=conv(32, 16)), torch.rand(IMAGE), 0.5


@case
def chunk_slice_and_unbind():
    def forward(m, x):
        a, b = m.first(x).chunk(2, 1)
        y = m.mix(a * b.sigmoid())
        c, d = y[:, : y.shape[1] // 2], y[:, y.shape[1] // 2 :]
        e, f = m.pairs(c + d).unflatten(1, (2, -1)).unbind(1)
        return m.last(e + f)

    return Apply(forward, **ends(16, 4), mix=conv(8, 12), pairs=conv(6, 8)), torch.rand(IMAGE), 0.5


@case
def a_chunk_in_unequal_parts():
    def forward(m, x):
        a, b, c = m.first(x).chunk(3, 1)  # 6, 6 and 4 of 16
        return m.last(torch.cat([m.a(a) + b, c], 1))

    return Apply(forward, **ends(16, 10), a=conv(6, 6)), torch.rand(IMAGE), 0.6


@case
def a_split_with_a_shorter_last_part():
    def forward(m, x):
        a, b, c = m.first(x).split(m.width, 1)  # 6, 6 and 4 of 16
        return m.last(torch.cat([m.a(a) + b, c], 1))

    return Apply(forward, **ends(16, 10), a=conv(6, 6), width=6), torch.rand(IMAGE), 0.6


@case
def windows_weighed_by_heads():
    def forward(m, x):
        y = m.first(x)
        b, c, h, w = y.shape
        size = m.window * m.window
        v = F.unfold(m.v(y), m.window, padding=1).reshape(b, m.heads, c // m.heads, size, h * w).permute(0, 1, 4, 3, 2)
        weights = m.weights(y.permute(0, 2, 3, 1)).reshape(b, h * w, m.heads, size, size).permute(0, 2, 1, 3, 4)
        mixed = (weights.softmax(-1) @ v).permute(0, 1, 4, 3, 2).reshape(b, c * m.window * m.window, h * w)
        return m.last(F.fold(mixed, (h, w), m.window, padding=1))

    layers = {"v": conv(16, 16, 1), "weights": nn.Linear(16, 4 * 81)}
    return Apply(forward, **ends(16), **layers, heads=4, window=3), torch.rand(IMAGE), 0.35


@case
def heads_as_images():
    def forward(m, x):
        y = m.first(x)
        b, c, h, w = y.shape
        pooled = m.pool(y.reshape(b * m.heads, c // m.heads, h, w))
        return m.last(pooled.reshape(b, c, h, w))

    return Apply(forward, **ends(16), pool=conv(4, 4, groups=4), heads=4), torch.rand(IMAGE), 0.6


class Standardised(nn.Conv2d):
    """Its weight has mean 0 and variance 1 over what each output reads, times a gain."""

    def __init__(self, *sizes: int, **options: Any) -> None:
        super().__init__(*sizes, **options)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, self.gain.view(-1), training=True, momentum=0.0)
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias, self.stride, self.padding)


@case
def standardised_weights():
    layers = {"a": Standardised(8, 12, 3, padding=1), "b": Standardised(12, 8, 1)}
    return Apply(lambda m, x: m.last(m.b(m.a(m.first(x)).relu())), **ends(8), **layers), torch.rand(IMAGE), 0.4


@case
def channels_flattened_with_tokens():
    model = Apply(
        lambda m, x: m.head((m.embed(x) + m.positions).flatten(1)),
        {"positions": torch.rand(1, 5, 16)},
        embed=nn.Linear(12, 16),
        head=nn.Linear(80, 3),
    )
    return model, torch.rand(TOKENS), 0.55


@case
def heads_over_halves():
    def forward(m, x):
        y = m.first(x)
        a, b = y.chunk(2, 1)
        y = torch.cat([m.a(a), b], 1).flatten(2).transpose(1, 2)  # (N, 64, 16)
        b, n, c = y.shape
        q, k, v = m.qkv(y).reshape(b, n, 3, m.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = ((q.mT @ k).softmax(-1) @ v.mT).permute(0, 3, 1, 2).reshape(b, n, c)
        return m.last((y + m.out(mixed)).transpose(1, 2).unflatten(2, (8, 8)))

    layers = {"a": conv(8, 8, groups=8), "qkv": nn.Linear(16, 48), "out": nn.Linear(16, 16)}
    return Apply(forward, **ends(16), **layers, heads=4), torch.rand(IMAGE), 0.36


@case
def concat_of_concat():
    def forward(m, x):
        y = m.first(x)
        inner = torch.cat([y, m.a(y)], 1)
        return m.last(torch.cat([inner, m.b(inner), y], 1))

    return Apply(forward, **ends(8, 28), a=conv(8, 6), b=conv(14, 6)), torch.rand(IMAGE), 0.45


@case
def padded_channels():
    def forward(m, x):
        y = m.first(x)
        return m.last((F.pad(y, (0, 0, 0, 0, 2, 2)) + m.a(y)).relu())

    return Apply(forward, **ends(8, 12), a=conv(8, 12)), torch.rand(IMAGE), 0.7


@case
def squeeze_and_excite():
    def forward(m, x):
        y = m.first(x)
        return m.last(y * m.up(m.down(y.mean((2, 3))).relu()).sigmoid()[:, :, None, None])

    return Apply(forward, **ends(16), down=nn.Linear(16, 8), up=nn.Linear(8, 16)), torch.rand(IMAGE), 0.5


@case
def spatial_attention():
    def forward(m, x):
        y = m.first(x)
        seen = torch.cat([y.max(1, keepdim=True)[0], y.sum(1, keepdim=True)], 1)
        return m.last(y * m.look(seen).sigmoid())

    return Apply(forward, **ends(16), look=conv(2, 1, 7)), torch.rand(IMAGE), 0.7


@case
def ghost():
    def forward(m, x):
        y = m.a(m.first(x)).relu()
        return m.last(torch.cat([y, m.cheap(y)], 1)[:, : m.channels])

    model = Apply(forward, **ends(8, 12), a=conv(8, 6), cheap=conv(6, 6, groups=6), channels=12)
    return model, torch.rand(IMAGE), 0.5


@case
def two_outputs():
    return (
        Apply(lambda m, x: (m.last(m.first(x)), m.first(x).mean((2, 3)) @ m.w), {"w": torch.rand(8, 3)}, **ends(8)),
        torch.rand(IMAGE),
        0.6,
    )


@case
def rows_written_by_number():
    def forward(m, x):
        y = m.embed(x).flatten(0, 1)
        made = torch.zeros(len(x) * x.shape[1], y.shape[-1], dtype=y.dtype)
        for part in (m.even, m.odd):
            made[part] = y[part].relu()
        return m.head(made)

    model = Apply(forward, embed=nn.Linear(12, 16), head=nn.Linear(16, 3))
    model.register_buffer("even", torch.arange(0, 10, 2))
    model.register_buffer("odd", torch.arange(1, 10, 2))
    return model, torch.rand(TOKENS), 0.55


@case
def norms_without_parameters():
    model = Apply(
        lambda m, x: m.last(m.norm(m.a(m.first(x))).relu()), **ends(8), a=conv(8, 8), norm=nn.InstanceNorm2d(8)
    )
    return model, torch.rand(IMAGE), 0.5


@case
def without_a_batch():
    return Apply(lambda m, x: m.last(m.a(m.first[0](x)).relu()), **ends(8), a=conv(8, 8)), torch.rand(3, 8, 8), 0.5


@case
def grids_cached_in_forward():
    def forward(m, x):
        y = m.a(m.first(x)).relu()
        if m.grid is None or m.grid.shape[-1] != y.shape[-1]:
            m.grid = torch.linspace(0, 1, y.shape[-1], dtype=y.dtype).expand(1, 1, y.shape[-2], -1)
        return m.last(y + m.grid)

    return Apply(forward, **ends(8), a=conv(8, 8), grid=None), torch.rand(IMAGE), 0.5


def hand_written(normalise: Callable[[Tensor], Tensor], twin: bool) -> nn.Module:
    """A network with a norm over channels, by hand or - the twin - as the layer norm that the oracle knows."""

    def forward(m, x):
        y = m.first(x).movedim(1, -1)
        known = twin and F.layer_norm(y, y.shape[-1:], m.gain, m.shift, 1e-5)
        y = known if twin else normalise(y) * m.gain + m.shift
        return m.last(y.movedim(-1, 1))

    return Apply(forward, {"gain": torch.rand(8), "shift": torch.rand(8)}, **ends(8))


def by_mean_and_variance(y: Tensor) -> Tensor:
    mean = y.mean(-1, keepdim=True)
    return (y - mean) / ((y - mean).pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()


def by_var_mean(y: Tensor) -> Tensor:
    variance, mean = torch.var_mean(y, -1, unbiased=False, keepdim=True)
    return (y - mean) * torch.rsqrt(variance + 1e-5)


@pytest.mark.parametrize("normalise", [by_mean_and_variance, by_var_mean])
def test_hand_written_norms(normalise):
    model, twin = (hand_written(normalise, twin) for twin in (False, True))
    cut_and_compare(model, torch.rand(IMAGE, dtype=torch.float64), 0.6, twin)


def cut_and_compare(model: nn.Module, inputs: Any, most: float, twin: nn.Module | None = None) -> nn.Module:
    """Prune half and hold it against the oracle; twin: the same function, written with norms that the oracle knows."""
    torch.manual_seed(0)
    model = number_every_element(model.eval())
    before = snapshot(model)
    pruned = compress.prune(model, inputs, ratio=0.5)
    assert snapshot(model) == before
    if twin is not None:
        twin.double().eval().load_state_dict(model.state_dict())
    compare(twin or model, pruned.model, inputs)
    assert kept(model, pruned.model) <= most
    assert not [name for name, frozen in pruned.frozen.items() if frozen.by == "verification"]
    with warnings.catch_warnings():  # of integers that no longer fit
        warnings.simplefilter("error")
        call(pruned.model, inputs)
    return pruned.model


@pytest.mark.parametrize("name", CASES)
def test_construction(name: str):
    torch.manual_seed(0)
    model, inputs, most = CASES[name]()
    cut_and_compare(model, inputs.double(), most)
