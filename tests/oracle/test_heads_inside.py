"""Attention that loses width inside its heads: where it divides by the root of it, the query makes up for that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from layers import Apply
from oracle import compare, kept, number_every_element
from torch import Tensor, nn

import compress
from compress.pruning.artifact import read_edits
from compress.pruning.calibration import Calibration
from compress.pruning.compensation import make_compensation
from compress.pruning.remap import compose, remap
from compress.pruning.surgery import cut, edits, scaled
from compress.pruning.verify import TOLERANCE, verify

HEADS, WIDTH = 3, 8
INNER = HEADS * WIDTH
TOKENS = (2, 5, 12)

CASES: dict[str, Callable[[], nn.Module]] = {}
STAYS: dict[str, Callable[[], nn.Module]] = {}
"""Networks whose attention may lose width inside its heads; and those in which nothing can make up for that."""


def case(function: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    CASES[function.__name__] = function
    return function


def stays(function: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    STAYS[function.__name__] = function
    return function


def split(x: Tensor, width: int = -1, heads: int = HEADS) -> Tensor:
    """(N, L, heads x width) -> (N, heads, L, width)."""
    return x.view(*x.shape[:2], heads, width).transpose(1, 2)


def join(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def projections(bias: bool = True, **others: Any) -> dict[str, Any]:
    layers = {name: nn.Linear(16, INNER, bias) for name in "qkv"}
    return {"first": nn.Linear(12, 16), **layers, "out": nn.Linear(INNER, 4), **others}


@case
def packed() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = m.qkv(m.first(x)).reshape(n, length, 3, HEADS, m.width).permute(2, 0, 3, 1, 4)
        return m.out(join(F.scaled_dot_product_attention(q, k, v)))

    return Apply(forward, first=nn.Linear(12, 16), qkv=nn.Linear(16, 3 * INNER), out=nn.Linear(INNER, 4), width=WIDTH)


@case
def chunked() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        q, k, v = (split(part) for part in m.qkv(m.first(x)).chunk(3, -1))
        return m.out(join(F.scaled_dot_product_attention(query=q, key=k, value=v, is_causal=True)))

    return Apply(forward, first=nn.Linear(12, 16), qkv=nn.Linear(16, 3 * INNER), out=nn.Linear(INNER, 4))


@pytest.mark.parametrize("bias", [True, False])
def test_layers_of_their_own(bias: bool) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        q, k, v = (split(layer(m.first(x))) for layer in (m.q, m.k, m.v))
        return m.out(join(F.scaled_dot_product_attention(q, k, v)))

    hold(Apply(forward, **projections(bias)))


def normalised(norm: Callable[[int], nn.Module]) -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.first(x)
        q, k, v = m.norm_q(split(m.q(x))), m.norm_k(split(m.k(x))), split(m.v(x))
        return m.out(join(F.scaled_dot_product_attention(q, k, v)))

    return Apply(forward, **projections(norm_q=norm(WIDTH), norm_k=norm(WIDTH)))


@case
def normalised_queries() -> nn.Module:
    return normalised(nn.LayerNorm)


@case
def normalised_by_their_root_mean_square() -> nn.Module:
    return normalised(nn.RMSNorm)


@case
def scaled_by_a_parameter() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.first(x)
        return m.out(join(F.scaled_dot_product_attention(split(m.q(x)) * m.scale, split(m.k(x)), split(m.v(x)))))

    return Apply(forward, {"scale": torch.rand(WIDTH)}, **projections())


@case
def with_a_bias_of_its_own() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.first(x)
        return m.out(join(F.scaled_dot_product_attention(split(m.q(x)) + m.bias, split(m.k(x)), split(m.v(x)))))

    return Apply(forward, {"bias": torch.rand(HEADS, 1, WIDTH)}, **projections(bias=False))


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]


def turned(x: Tensor, parts: Callable[[Tensor], Sequence[Tensor]], speed: Tensor) -> Tensor:
    """Rotary positions. speed: (width / 2,)."""
    angle = torch.arange(x.shape[2], dtype=x.dtype, device=x.device)[:, None] * torch.cat((speed, speed))  # (L, width)
    one, other = parts(x)
    return x * angle.cos() + torch.cat((-other, one), -1) * angle.sin()


def rotary(parts: Callable[[Tensor], Sequence[Tensor]]) -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.first(x)
        q, k, v = turned(split(m.q(x)), parts, m.speed), turned(split(m.k(x)), parts, m.speed), split(m.v(x))
        return m.out(join(F.scaled_dot_product_attention(q, k, v)))

    model = Apply(forward, **projections())
    model.register_buffer("speed", torch.rand(WIDTH // 2))
    return model


@case
def turned_by_position() -> nn.Module:
    return rotary(lambda x: x.chunk(2, -1))


@case
def turned_by_position_in_slices() -> nn.Module:
    return rotary(halves)


@case
def convolved() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.first(x).mT  # (N, C, L)
        q, k, v = (layer(x).unflatten(1, (HEADS, -1)).mT for layer in (m.q, m.k, m.v))
        return m.out(join(F.scaled_dot_product_attention(q, k, v)))

    layers = {name: nn.Conv1d(16, INNER, 1) for name in "qkv"}
    return Apply(forward, first=nn.Linear(12, 16), out=nn.Linear(INNER, 4), **layers)


@case
def few_keys_for_many_queries() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.first(x)
        q, k, v = split(m.q(x), heads=4), split(m.k(x), heads=2), split(m.v(x), heads=2)
        return m.out(join(F.scaled_dot_product_attention(q, k, v, enable_gqa=True)))

    layers = {"q": nn.Linear(16, 32), "k": nn.Linear(16, 16), "v": nn.Linear(16, 16), "out": nn.Linear(32, 4)}
    return Apply(forward, first=nn.Linear(12, 16), **layers)


@case
def queries_from_elsewhere() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        q, k, v = split(m.q(m.second(x[:, :2]))), split(m.k(m.first(x))), split(m.v(m.first(x)))
        return m.out(join(F.scaled_dot_product_attention(q, k, v)))

    return Apply(forward, **projections(), second=nn.Linear(12, 16))


@stays
def a_query_that_is_the_key() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.first(x)
        q = split(m.q(x))
        return m.out(join(F.scaled_dot_product_attention(q, q, split(m.v(x)))))

    return Apply(forward, **projections())


@stays
def a_layer_of_query_and_key() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        q, k, v = split(m.q(m.first(x))), split(m.q(m.k(x))), split(m.v(m.first(x)))
        return m.out(join(F.scaled_dot_product_attention(q, k, v)))

    return Apply(forward, **projections() | {"k": nn.Linear(12, 16)})


@stays
def a_query_that_is_used_again() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.first(x)
        q, k, v = split(m.q(x)), split(m.k(x)), split(m.v(x))
        return m.out(join(F.scaled_dot_product_attention(q, k, v) + q))

    return Apply(forward, **projections())


@stays
def a_query_of_a_product() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.first(x)
        q, k, v = split(m.q(x)) * split(m.g(x)).sigmoid(), split(m.k(x)), split(m.v(x))
        return m.out(join(F.scaled_dot_product_attention(q, k, v)))

    return Apply(forward, **projections(g=nn.Linear(16, INNER)))


@stays
def a_query_behind_an_activation() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.first(x)
        q, k, v = split(m.q(x)).tanh(), split(m.k(x)), split(m.v(x))
        return m.out(join(F.scaled_dot_product_attention(q, k, v)))

    return Apply(forward, **projections())


def hold(model: nn.Module, shape: tuple[int, ...] = TOKENS, ratio: float = 0.5) -> compress.Pruned:
    """Cut, and hold it against the oracle; nothing is frozen by verification."""
    model = number_every_element(model.eval())
    inputs = torch.rand(shape, dtype=torch.float64)
    pruned = compress.prune(model, inputs, ratio=ratio, heads="inside")
    unscaled = cut(model, replace(pruned.edits, scale={}))
    compare(model, pruned.model, inputs, unscaled=unscaled)
    compare(model, pruned.model, torch.rand(shape, dtype=torch.float64), train=True, unscaled=unscaled)
    assert not [name for name, frozen in pruned.frozen.items() if frozen.by == "verification"]
    return pruned


@pytest.mark.parametrize("name", CASES)
def test_heads_become_narrower(name: str) -> None:
    torch.manual_seed(0)
    model = CASES[name]()
    pruned = hold(model)
    assert pruned.edits.scale and kept(model, pruned.model) < 0.45
    factors = {float(f) for by_dim in pruned.edits.scale.values() for each in by_dim.values() for f in each}
    assert factors <= {1.0, 0.5**0.5} and 0.5**0.5 in factors  # half of the width


@pytest.mark.parametrize("name", STAYS)
def test_heads_stay_as_wide_where_nothing_can_make_up_for_it(name: str) -> None:
    torch.manual_seed(0)
    model = STAYS[name]()
    pruned = hold(model)
    assert not pruned.edits.scale
    assert any("scales attention by its width" in str(frozen) for frozen in pruned.frozen.values())


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 24, dropout=0, batch_first=True, norm_first=True)
    return Apply(lambda m, x: m.out(m.body(m.first(x))), first=nn.Linear(12, 16), body=layer, out=nn.Linear(16, 4))


def test_pytorch_s_own_layer() -> None:
    model = encoder()
    pruned = hold(model)
    attention = pruned.model.body.self_attn
    assert (attention.num_heads, attention.head_dim) == (4, 2) and kept(model, pruned.model) < 0.4


def test_saved_cut_twice_and_remapped(tmp_path: Path) -> None:
    """Factors multiply along with what they belong to, and come back from a file."""
    torch.manual_seed(0)
    model, inputs = packed().eval(), torch.rand(TOKENS)
    first = compress.prune(model, inputs, ratio=0.25, heads="inside")
    second = compress.prune(first.model, inputs, ratio=0.34, heads="inside")
    both = compose(first.edits, second.edits)
    again = cut(model, both)
    assert torch.allclose(again(inputs), second.model(inputs), atol=1e-6)
    state = remap(both, model.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in again.state_dict().items())
    compress.save(replace(second, edits=both), tmp_path)
    assert torch.equal(compress.load(tmp_path, lambda: packed().eval())(inputs), second.model(inputs))
    stored = read_edits(tmp_path).scale
    assert stored.keys() == both.scale.keys() == {"qkv.weight", "qkv.bias"}
    assert all(np.array_equal(stored[name][0], both.scale[name][0]) for name in stored)
    rows = both.scale["qkv.weight"][0]
    assert np.allclose(rows[rows < 1] ** 2, 4 / WIDTH) and (rows < 1).sum() == len(rows) / 3  # of 8, to 6, to 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rounded_factors_are_no_mistake(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """Where float64 decides, the weights of both networks are the same to float64's last digits."""
    torch.manual_seed(0)
    monkeypatch.setitem(TOLERANCE, torch.float32, 0.0)
    pruned = compress.prune(packed().eval().to(dtype), torch.rand(TOKENS, dtype=dtype), ratio=0.3, heads="inside")
    assert pruned.edits.scale and pruned.verification is not None and pruned.verification.dtype == "float64"
    assert pruned.verification.randomised_rel < 1e-9
    assert not [name for name, frozen in pruned.frozen.items() if frozen.by == "verification"]


def test_another_mistake_is_not_blamed_on_the_attention() -> None:
    """What the factors change on the way from the query's layer to its product with the key is meant."""
    torch.manual_seed(0)

    def forward(m: Any, x: Tensor) -> Tensor:
        q, k, v = (split(layer(m.first(x))) for layer in (m.q, m.k, m.v))
        return m.last(m.out(join(F.scaled_dot_product_attention(q, k, v))).relu())

    model = Apply(forward, **projections() | {"out": nn.Linear(INNER, 8)}, last=nn.Linear(8, 4)).eval()
    graph = compress.trace(model, torch.rand(TOKENS), heads="inside")
    plan = compress.plan(graph, ratio=0.5)
    made = edits(graph, plan, model)
    index = made.select["last.weight"][1]
    wrong = np.sort(np.append(index[1:], np.setdiff1d(np.arange(8), index)[0]))
    broken = cut(model, replace(made, select={**made.select, "last.weight": {1: wrong}}))
    verification, blame = verify(model, broken, graph, plan, made)
    assert not verification.passed and blame is not None and blame.step is not None
    assert blame.step.module == "last"


@pytest.mark.parametrize("name", ["fold", "bias-correct", "reconstruct"])
def test_what_is_given_back_is_scaled_too(name: str) -> None:
    """A query's layer gets what it would get without factors, times the factors."""
    torch.manual_seed(0)
    model, batches = chunked().eval(), [torch.rand(8, 5, 12) for _ in range(4)]
    graph = compress.trace(model, batches[0], heads="inside")
    plan = compress.plan(graph, ratio=0.25)
    made = edits(graph, plan, model)
    without, compensation = replace(made, scale={}), make_compensation(name)
    data = {"calibration": Calibration(batches)} if compensation.needs_batches else {}
    given, plain = (
        compensation.compensate(model, cut(model, each), graph, plan, each, **data).qkv for each in (made, without)
    )
    assert not torch.allclose(plain.bias, cut(model, without).qkv.bias, atol=1e-3)  # there was something to give
    for leaf in ("weight", "bias"):
        factors = made.scale[f"qkv.{leaf}"]
        assert (factors[0] < 1).any()
        want = scaled(plain.get_parameter(leaf), factors)
        torch.testing.assert_close(given.get_parameter(leaf).detach(), want.detach(), atol=1e-6, rtol=1e-5)
