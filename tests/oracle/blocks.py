"""A random generator in, a block of a network out: what real ones are made of, written in the ways people write it."""

from __future__ import annotations

import copy
import random

import torch
import torch.nn.functional as F
from layers import Apply, Made, clean, conv_norm_act
from torch import Tensor, nn


def block(rng: random.Random, cin: int, depth: int, cout: int | None = None) -> Made:
    """Any block; `cout` where the surroundings ask for a width."""
    if depth <= 0:
        return conv_norm_act(rng, cin, cout)
    makers = [residual, concat, split, shared, excite, spread, odd, attention, chain, chain]
    made, width = rng.choice(makers)(rng, cin, depth - 1)
    if cout is not None and width != cout:
        last, _ = conv_norm_act(rng, width, cout)
        return nn.Sequential(made, last), cout
    return made, width


def chain(rng: random.Random, cin: int, depth: int) -> Made:
    layers = []
    for _ in range(rng.randint(1, 3)):
        layer, cin = block(rng, cin, depth - 1)
        layers.append(layer)
    return nn.Sequential(*layers), cin


def residual(rng: random.Random, cin: int, depth: int) -> Made:
    cout = cin if rng.random() < 0.7 else rng.choice([4, 6, 8, 12])
    body, _ = block(rng, cin, depth, cout)
    way = nn.Identity() if cin == cout else nn.Conv2d(cin, cout, 1)
    ways = [
        lambda m, x: m.way(x) + m.body(x),
        lambda m, x: F.relu(m.body(x).add_(m.way(x))),
        lambda m, x: m.way(x) + m.gain * m.body(x),
        lambda m, x: torch.maximum(m.way(x), m.body(x)),
        lambda m, x: torch.stack([m.way(x), m.body(x)]).sum(0),
        lambda m, x: torch.where(m.body(x) > 0, m.body(x), m.way(x)),
        lambda m, x: m.way(x) * torch.sigmoid(m.body(x)),
        lambda m, x: m.way(x.clone()) - m.body(x).detach(),
    ]
    return Apply(rng.choice(ways), {"gain": torch.rand(1, cout, 1, 1)}, way=way, body=body), cout


def concat(rng: random.Random, cin: int, depth: int) -> Made:
    branches = [block(rng, cin, depth) for _ in range(rng.randint(2, 3))]
    width = sum(c for _, c in branches)
    ways = [
        (width, lambda m, x: torch.cat([b(x) for b in m.branches], 1)),
        (width, lambda m, x: torch.cat([b(x) for b in m.branches], -3)),
        (width + cin, lambda m, x: torch.cat([x, *[b(x) for b in m.branches]], dim=1)),
        (width + 2, lambda m, x: torch.cat([*[b(x) for b in m.branches], m.coordinates(x)], 1)),
        (2 * width, lambda m, x: torch.cat([b(x) for b in m.branches], 1).repeat(1, 2, 1, 1)),
        (2 * width, lambda m, x: torch.cat([b(x) for b in m.branches], 1).repeat_interleave(2, dim=1)),
        (width + 3, lambda m, x: F.pad(torch.cat([b(x) for b in m.branches], 1), (0, 0, 0, 0, 1, 2))),
    ]
    cout, forward = rng.choice(ways)
    made = Apply(forward, branches=nn.ModuleList(b for b, _ in branches))
    made.coordinates = lambda x: torch.linspace(-1, 1, x.shape[3], dtype=x.dtype).expand(x.shape[0], 2, *x.shape[2:])
    return made, cout


HALVES = [
    lambda m, x: x.chunk(2, 1),
    lambda m, x: torch.chunk(x, chunks=2, dim=1),
    lambda m, x: torch.split(x, m.half, 1),
    lambda m, x: x.split([m.half, m.channels - m.half], dim=1),
    lambda m, x: x.split((m.half, m.half), 1),
    lambda m, x: (x[:, : m.half], x[:, m.half :]),
    lambda m, x: (x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]),
    lambda m, x: (x.narrow(1, 0, m.half), x.narrow(1, m.half, m.half)),
    lambda m, x: torch.tensor_split(x, 2, dim=1),
    lambda m, x: x.unflatten(1, (2, -1)).unbind(1),
    lambda m, x: x.view(x.size(0), 2, x.size(1) // 2, x.size(2), x.size(3)).unbind(1),
    lambda m, x: (x[:, ::2], x[:, 1::2]),
    lambda m, x: (x[:, -m.half :], x[:, : -m.half]),
]
"""Two halves of the channels, and how people cut them."""


def split(rng: random.Random, cin: int, depth: int) -> Made:
    half = rng.choice([2, 4, 6])
    first = conv_norm_act(rng, cin, 2 * half)[0]
    a, width = block(rng, half, depth)
    b, _ = block(rng, half, depth, width)
    halves = rng.choice(HALVES)
    joins = [
        (2 * width, lambda m, p, q: torch.cat([m.a(p), m.b(q)], 1)),
        (width, lambda m, p, q: m.a(p) * torch.sigmoid(m.b(q))),
        (width + half, lambda m, p, q: torch.cat([m.a(p), q], 1)),
        (half, lambda m, p, q: p * q.sigmoid()),
        (half, lambda m, p, q: p + q),
        (width, lambda m, p, q: m.a(p) + m.b(p + q)),
        (width + 3 * half, lambda m, p, q: torch.cat([p, q, m.a(q), p - q], 1)),
    ]
    cout, join = rng.choice(joins)
    made = Apply(lambda m, x: join(m, *halves(m, m.first(x))), first=first, a=a, b=b, half=half, channels=2 * half)
    if rng.random() < 0.15:
        made, cout = Apply(lambda m, x: F.glu(m.first(x), 1), first=first), half
    return made, cout


def shared(rng: random.Random, cin: int, depth: int) -> Made:
    body, cout = block(rng, cin, depth)
    other, _ = conv_norm_act(rng, cin, cin)
    ways = [
        (cout, lambda m, x: m.body(x) + m.body(m.other(x))),
        (2 * cout, lambda m, x: torch.cat([m.body(x), m.body(m.other(x))], 1)),
        (cout, lambda m, x: m.twin(m.other(x)) + m.body(x)),
        (cout, lambda m, x: m.body(F.avg_pool2d(x, 2, 1, padding=1)[..., :-1, :-1]) * m.body(m.other(x))),
    ]
    width, forward = rng.choice(ways)
    made = Apply(forward, body=body, other=other, twin=copy.deepcopy(body))
    for mine, theirs in zip(made.twin.modules(), body.modules(), strict=True):
        if rng.random() < 0.5 and isinstance(mine, nn.Conv2d):
            mine.weight = theirs.weight  # tied weights, other biases
    return made, width


def excite(rng: random.Random, cin: int, depth: int) -> Made:
    body, c = block(rng, cin, depth)
    mid = rng.choice([2, 4])
    convs = nn.Sequential(nn.Conv2d(c, mid, 1), nn.ReLU(), nn.Conv2d(mid, c, 1), nn.Sigmoid())
    linears = nn.Sequential(nn.Linear(c, mid), nn.ReLU(), nn.Linear(mid, c), nn.Hardsigmoid())
    ways = [
        (convs, lambda m, x: x * m.gate(x.mean((2, 3), keepdim=True))),
        (convs, lambda m, x: x * m.gate(F.adaptive_avg_pool2d(x, 1)).expand_as(x)),
        (convs, lambda m, x: x * m.gate(F.adaptive_max_pool2d(x, 1))),
        (linears, lambda m, x: x * m.gate(x.mean((-2, -1)))[:, :, None, None]),
        (linears, lambda m, x: x * m.gate(F.adaptive_avg_pool2d(x, 1).flatten(1)).view(x.size(0), -1, 1, 1)),
        (linears, lambda m, x: x * m.gate(x.mean((2, 3)).view(-1, m.channels)).view(x.size(0), m.channels, 1, 1)),
        (linears, lambda m, x: x + m.gate(x.amax((2, 3))).unsqueeze(-1).unsqueeze(-1)),
    ]
    gate, forward = rng.choice(ways)
    return Apply(lambda m, x: forward(m, m.body(x)), body=body, gate=gate, channels=c), c


def spread(rng: random.Random, cin: int, depth: int) -> Made:
    """Channels to and from other axes: shuffles, pixel (un)shuffle, permutations."""
    body, c = block(rng, cin, depth, rng.choice([4, 8, 12]))
    g = rng.choice([2, 4])
    ways = [
        lambda m, x: x.view(len(x), g, x.shape[1] // g, *x.shape[2:]).transpose(1, 2).reshape(x.shape),
        lambda m, x: (
            x.view(x.size(0), m.groups, m.per_group, x.size(2), x.size(3))
            .transpose(1, 2)
            .contiguous()
            .view(x.size(0), m.channels, x.size(2), x.size(3))
        ),
        lambda m, x: x.reshape(x.shape[0], m.groups, -1, *x.shape[2:]).permute(0, 2, 1, 3, 4).flatten(1, 2),
        lambda m, x: F.channel_shuffle(x, m.groups),
        lambda m, x: F.pixel_unshuffle(m.bring(F.pixel_shuffle(x, 2)), 2),
        lambda m, x: m.fold(F.pixel_unshuffle(x, 2)),
        lambda m, x: F.interpolate(F.pixel_shuffle(x, 2), scale_factor=0.5).repeat(1, 4, 1, 1),
        lambda m, x: x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, m.channels).transpose(1, 2).reshape(x.shape),
        lambda m, x: torch.stack([x[:, ::2], x[:, 1::2]], 1).flatten(1, 2),
        lambda m, x: torch.stack([x[:, ::2], x[:, 1::2]], 2).flatten(1, 2),
    ]
    forward = rng.choice(ways)
    bring, fold = conv_norm_act(rng, c // 4, c // 4)[0], nn.ConvTranspose2d(4 * c, c, 2, stride=2)
    made = Apply(lambda m, x: forward(m, m.body(x)), body=body, bring=bring, fold=fold)
    made.groups, made.per_group, made.channels = g, c // g, c
    return made, c


def odd(rng: random.Random, cin: int, depth: int) -> Made:
    """What a rule must either know or refuse: ops across channels, in-place writes, constants."""
    c = rng.choice([4, 8])
    order = list(range(c))
    rng.shuffle(order)
    ways = [
        lambda m, x: x * torch.sigmoid(x.sum(1, keepdim=True)),
        lambda m, x: F.normalize(x, dim=1) + x,
        lambda m, x: x.softmax(1),
        lambda m, x: x - x.amax(1, keepdim=True),
        lambda m, x: x.flip(1),
        lambda m, x: x.roll(1, 1),
        lambda m, x: x[:, order],
        lambda m, x: x.index_select(1, m.order),
        lambda m, x: x.cumsum(1),
        lambda m, x: x.sort(1).values,
        lambda m, x: x + x.topk(1, dim=1).values,
        lambda m, x: F.local_response_norm(x, 3),
        lambda m, x: x.view(x.shape[0], -1, 2, *x.shape[2:]).amax(2).repeat(1, 2, 1, 1),
        lambda m, x: torch.cat([x, x.new_zeros(x.shape[0], 2, *x.shape[2:])], 1)[:, : x.shape[1]],
        lambda m, x: m.write(x.clone()),
        lambda m, x: m.twice(x.clone()),
        lambda m, x: x * 2 + 1 - x.mean((2, 3), keepdim=True),
        lambda m, x: x * m.row,
        lambda m, x: x + m.row.expand(1, -1, 1, x.shape[3]),
        lambda m, x: F.batch_norm(x, m.mean, m.row.abs().flatten() + 0.5, None, m.row.flatten()),
        lambda m, x: x.masked_fill(x > 1, 0.5),
        lambda m, x: x.clamp(min=0.1).log().nan_to_num(),
        lambda m, x: torch.cat(torch.unbind(x, 1)[::-1]).view(x.shape[1], -1, *x.shape[2:]).transpose(0, 1),
        lambda m, x: x.unfold(1, 2, 2).flatten(-1).permute(0, 1, 4, 2, 3).flatten(1, 2),
        lambda m, x: x @ x.mean(1, keepdim=True).transpose(2, 3) @ x,
        lambda m, x: F.unfold(x, 3, padding=1).view(x.shape[0], x.shape[1], 9, *x.shape[2:]).mean(2),
        lambda m, x: x.transpose(1, 3).contiguous().transpose(1, 3),
        lambda m, x: x.squeeze().view_as(x),
        lambda m, x: torch.gather(x, 1, m.order.view(1, -1, 1, 1).expand_as(x)),
        lambda m, x: x.abs().sqrt(),
        lambda m, x: x * m.plain,
        lambda m, x: x * torch.arange(x.shape[1], dtype=x.dtype).view(1, -1, 1, 1),
        lambda m, x: x * torch.linspace(0, 1, m.channels, dtype=x.dtype)[:, None, None],
        lambda m, x: x.sigmoid() if x.shape[1] > 3 else x.tanh(),
        lambda m, x: x / x.shape[1],
        lambda m, x: x.sigmoid() * m.channels**-0.5,
        lambda m, x: x.view(x.shape[0], m.channels, -1).reshape(x.shape),
        lambda m, x: x + (m.tied.t() @ (m.tied @ x.flatten(2)).relu()).view(x.shape),
        lambda m, x: F.avg_pool3d(x.unsqueeze(1), (3, 1, 1), stride=1, padding=(1, 0, 0)).squeeze(1),
        lambda m, x: torch.einsum("bchw,c->bchw", x, m.row.flatten()),
        lambda m, x: (x.movedim(1, -1) * m.row.flatten()).movedim(-1, 1),
        lambda m, x: F.dropout2d(x, 0.5, False),
        lambda m, x: x.reshape(-1, *x.shape[2:]).view(x.shape),
        lambda m, x: x.flatten(0, 1).unsqueeze(1).view(x.shape),
    ]
    forward = rng.choice(ways)
    made = Apply(
        lambda m, x: forward(m, m.first(x)),
        {"row": torch.rand(1, c, 1, 1), "tied": torch.rand(6, c)},
        first=clean(cin, c),
        half=c // 2,
        channels=c,
    )
    made.plain = torch.rand(c, 1, 1, dtype=torch.float64)
    made.register_buffer("order", torch.tensor(order))
    made.register_buffer("mean", torch.rand(c))

    def write(x: Tensor) -> Tensor:
        x[:, : made.half] = x[:, made.half :] * 2
        return x

    def twice(x: Tensor) -> Tensor:
        part = x[:, : made.half]
        part.mul_(2)
        x[:, made.half :] += 1
        return x

    made.write, made.twice = write, twice
    return made, c


def attention(rng: random.Random, cin: int, depth: int) -> Made:
    heads, width = rng.choice([(2, 4), (4, 2), (1, 6), (2, 3)])
    inner = heads * width

    def by_hand(m: nn.Module, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        q, k, v = m.qkv(x.flatten(2).transpose(1, 2)).reshape(b, h * w, 3, m.heads, m.width).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * m.width**-0.5).softmax(-1)
        return m.out((weights @ v).transpose(1, 2).reshape(b, h * w, -1)).transpose(1, 2).reshape(b, -1, h, w)

    def chunked(m: nn.Module, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        q, k, v = m.qkv(x.flatten(2).mT).chunk(3, -1)
        q, k, v = (t.view(b, h * w, m.heads, -1).transpose(1, 2) for t in (q, k, v))
        return m.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)).mT.unflatten(2, (h, w))

    def non_local(m: nn.Module, x: Tensor) -> Tensor:
        q, k, v = (t.flatten(2) for t in m.wide(x).chunk(3, 1))
        return m.project((v @ (q.mT @ k).softmax(-1).mT).view(x.shape[0], m.inner, *x.shape[2:]))

    def by_size(m: nn.Module, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = m.qkv(x.flatten(2).mT).view(b, h * w, 3, m.heads, c // m.heads).permute(2, 0, 3, 1, 4)
        weights = (q * (c // m.heads) ** -0.5 @ k.mT).softmax(-1)
        return m.out((weights @ v).transpose(1, 2).reshape(b, h * w, c)).mT.reshape(x.shape)

    def multihead(m: nn.Module, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        return m.attention(tokens, tokens, tokens, need_weights=False)[0].mT.reshape(x.shape)

    forward = rng.choice([by_hand, chunked, non_local, by_size, multihead])
    own = rng.choice([h for h in (2, 3, 4) if cin % h == 0] or [1])
    if forward is by_size:
        made = Apply(forward, qkv=nn.Linear(cin, 3 * cin), out=nn.Linear(cin, cin), heads=own)
    elif forward is multihead:
        made = Apply(forward, attention=nn.MultiheadAttention(cin, own, batch_first=True))
    elif forward is non_local:
        made = Apply(forward, wide=nn.Conv2d(cin, 3 * inner, 1), project=nn.Conv2d(inner, cin, 1), inner=inner)
    else:
        made = Apply(forward, qkv=nn.Linear(cin, 3 * inner), out=nn.Linear(inner, cin), heads=heads, width=width)
    return (made, cin) if rng.random() < 0.5 else (Apply(lambda m, x: x + m.body(x), body=made), cin)
