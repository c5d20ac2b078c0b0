"""Integers that the code writes: attributes follow by provenance, constants and coincidences do not."""

import torch
from torch import nn

import compress


def cut(model, x=None, **options):
    pruned = compress.prune(model, torch.randn(2, 3, 8, 8) if x is None else x, ratio=0.5, **options)
    assert pruned.verification.passed
    assert not [why for why in pruned.frozen.values() if why.by == "verification"]
    return pruned


class Split(nn.Module):
    """Two attributes of one value; only one of them is the split's."""

    def __init__(self) -> None:
        super().__init__()
        self.half, self.repeats = 8, 8
        self.a, self.b, self.c = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        left, right = torch.split(self.a(x), self.half, 1)
        for _ in range(self.repeats):
            left = left.relu()
        return self.b(left) + self.c(right)


def test_a_split_size_follows_and_a_coincidence_does_not():
    pruned = cut(Split())
    assert (pruned.model.half, pruned.model.repeats) == (4, 8)
    assert pruned.model.a.out_channels == 8


class View(nn.Module):
    """A product of attributes written into a view."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.rows = 4, 64
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Linear(256, 5)

    def forward(self, x):
        return self.b(self.a(x).reshape(x.size(0), self.width * self.rows))


def test_an_expression_of_attributes_follows():
    pruned = cut(View())
    assert pruned.model.width * pruned.model.rows == 128
    assert pruned.model.b.in_features == 128


class Constant(nn.Module):
    """A size written as a constant pins what it counts."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Linear(256, 5)

    def forward(self, x):
        return self.b(self.a(x).view(-1, 256))


def test_a_constant_size_freezes_with_its_reason():
    graph = compress.trace(Constant(), torch.randn(2, 3, 8, 8))
    assert "256" in graph["a"].frozen.reason


class Shuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x):
        y = self.a(x)
        n, c, h, w = y.shape
        return self.b(y.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w))


def test_channel_shuffle_written_with_views():
    pruned = cut(Shuffle())
    assert pruned.model.a.out_channels == 8


class Slices(nn.Module):
    def __init__(self, own: bool) -> None:
        super().__init__()
        self.k, self.own = 4, own
        self.a, self.b, self.c = nn.Conv2d(3, 16, 1), nn.Conv2d(4, 2, 1), nn.Conv2d(12, 2, 1)

    def forward(self, x):
        y = self.a(x)
        k = self.k if self.own else 4
        return self.b(y[:, :k]) + self.c(y[:, k:])


def test_slices_follow_an_attribute_and_pin_a_constant():
    pruned = cut(Slices(own=True))
    assert pruned.model.k == 2 and pruned.model.a.out_channels == 8
    graph = compress.trace(Slices(own=False), torch.randn(2, 3, 8, 8))
    frozen = [g for g in graph.groups if g.frozen and "constant position 4" in g.frozen.reason]
    assert [g.size for g in frozen] == [4]
    assert cut(Slices(own=False)).model.a.out_channels == 10


def test_slices_from_the_end():
    class Tail(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.k = 6
            self.a, self.b, self.c = nn.Conv2d(3, 16, 1), nn.Conv2d(6, 2, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            y = self.a(x)
            return self.b(y[:, -self.k :]) + self.c(y[:, :4])

    pruned = cut(Tail())
    assert pruned.model.k == 3 and pruned.model.c.in_channels == 4


def test_chunks_stay_equally_long():
    class Chunked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 12, 1), nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 1)

        def forward(self, x):
            left, right = self.a(x).chunk(2, 1)
            return self.b(left) + self.c(right.sigmoid())

    graph = compress.trace(Chunked(), torch.randn(1, 3, 4, 4))
    assert {link.reason.split(" in ")[-1] for g in graph.groups for link in g.links} == {"2"}
    pruned = cut(Chunked(), criterion="random")
    assert pruned.model.b.in_channels == pruned.model.c.in_channels == 3


def test_pixel_shuffle_and_shared_layers():
    class Up(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.same = nn.Conv2d(3, 16, 1), nn.Conv2d(4, 4, 3, padding=1)
            self.up, self.out = nn.PixelShuffle(2), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.out(self.same(self.same(self.up(self.a(x))).relu()))

    pruned = cut(Up())
    assert pruned.model.a.out_channels == 8 and pruned.model.same.weight.shape[:2] == (2, 2)


def test_whole_heads_go_with_their_number():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads, self.dim = 4, 8
            self.embed = nn.Linear(12, 32)
            self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 6)

        def forward(self, x):
            b, n, _ = x.shape
            q, k, v = self.qkv(self.embed(x)).reshape(b, n, 3, self.heads, self.dim).permute(2, 0, 3, 1, 4).unbind(0)
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            return self.out(y.transpose(1, 2).reshape(b, n, self.heads * self.dim))

    x = torch.randn(2, 5, 12)
    pruned = cut(Attention(), x)
    assert (pruned.model.heads, pruned.model.dim) == (2, 8)
    assert pruned.model.qkv.out_features == 48 and pruned.model.out.in_features == 16


def test_attention_width_stays_where_the_scale_depends_on_it():
    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(5, 8)
            self.out = nn.Linear(8, 3)

        def forward(self, x):
            return self.out(torch.nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x)))

    pruned = cut(Narrow(), torch.randn(2, 4, 5))
    assert "width" in pruned.frozen["q"].reason
    assert pruned.model.q.out_features == 6 and pruned.model.v.out_features == 4


def test_expanding_to_a_size_that_was_read_carries_its_channels():
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            y = torch.nn.functional.normalize(self.a(x), dim=1)
            gate = x.mean(1, keepdim=True).expand(-1, y.shape[1], -1, -1)
            return self.b(y * gate)

    assert cut(Normalised()).model.a.out_channels == 4


def test_gated_linear_units_and_channels_last_pooling():
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 8, 1)
            self.pool, self.c = nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            y = self.b(torch.nn.functional.glu(self.a(x), 1).contiguous(memory_format=torch.channels_last))
            return self.c(self.pool(y))

    pruned = cut(Gated())
    assert pruned.model.a.out_channels == 8 and pruned.model.b.weight.shape[:2] == (4, 4)


def test_pooling_and_convolving_over_channels_freezes_them():
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv3d(1, 1, 3, padding=1), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            y = self.a(x).unsqueeze(1)
            return self.c(torch.nn.functional.avg_pool3d(self.b(y), (3, 1, 1), 1, (1, 0, 0)).squeeze(1))

    graph = compress.trace(Deep(), torch.randn(1, 3, 6, 6))
    assert "convolves over it" in graph["a"].frozen.reason


def test_a_size_used_as_a_number_stays():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width = 6
            self.embed, self.q, self.k, self.v = (nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(8, 4))
            self.out = nn.Linear(4, 3)

        def forward(self, x):
            y = self.embed(x)
            q = self.q(y).view(x.shape[0], -1, self.width)
            scores = torch.softmax(q @ self.k(y).mT * self.width**-0.5 / y.shape[-1], -1)
            return self.out(scores @ self.v(y))

    x = torch.randn(2, 3, 5)
    graph = compress.trace(Scaled(), x)
    assert "width" in graph["q"].frozen.reason and "number" in graph["embed"].frozen.reason
    pruned = cut(Scaled(), x)
    assert pruned.model.width == 6 and pruned.model.v.out_features == 2


def test_a_size_that_cannot_follow_keeps_what_it_was_read_from_and_nothing_else():
    class Squared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Linear(n, m) for n, m in ((5, 16), (16, 16), (16, 12), (12, 3)))

        def forward(self, x):
            y = self.a(x)
            rows = self.b(y).view(len(x), 4, y.shape[1] * y.shape[1] // 64)
            return self.d(self.c(rows.softmax(-1).flatten(1)).relu())

    pruned = cut(Squared(), torch.rand(2, 5))
    assert (pruned.model.a.out_features, pruned.model.c.out_features) == (16, 6)


def test_an_attribute_that_divides_a_size_is_a_number():
    class Divided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.heads = nn.Linear(5, 8), nn.Linear(2, 3), 4

        def forward(self, x):
            return self.b(self.a(x).view(len(x), self.heads, -1)) * (x.shape[-1] / self.heads)

    pruned = cut(Divided(), torch.rand(2, 5))
    assert (pruned.model.heads, pruned.model.a.out_features) == (4, 4)


def test_types_that_the_code_fixes_are_verified_as_they_are():
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)
            self.plain = torch.rand(8, 1, 1, dtype=torch.float64)

        def forward(self, x):
            return self.c(self.b(self.a(x) * self.plain) + torch.ones((), dtype=torch.float64)).to(torch.float64)

    pruned = cut(Mixed().double(), torch.rand(1, 3, 4, 4, dtype=torch.float64))
    assert pruned.model.b.out_channels == 4


def test_a_size_put_into_a_tensor_is_a_number():
    class Correlated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            y = self.b(self.a(x).relu())
            return self.c(y / torch.sqrt(torch.tensor(y.shape[-1])))

    pruned = cut(Correlated(), torch.rand(2, 6))
    assert "number" in pruned.frozen["b"].reason and pruned.model.a.out_features == 4
