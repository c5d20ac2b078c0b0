"""How far each layer ends from the whole network, against the masked network's own modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_folding import Gamma, network
from torch import Tensor, nn

import compress
from compress.pruning.masked import mask


def moved(seed: int) -> tuple[nn.Module, Tensor, Any]:
    """A network without padding, whose norms have seen something, in float64; every second unit has no gamma."""
    torch.manual_seed(seed)
    model = network(seed).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    images = torch.rand(3, 3, 24, 24, dtype=torch.float64)
    graph = compress.trace(model, images[:1])
    with torch.no_grad():
        for group in graph.groups:
            for member in group.members:
                if member.role == "norm" and member.name.endswith("weight") and not group.frozen:
                    model.get_parameter(member.name)[member.index[member.unit % 2 == 1]] = 0
    return model, images, graph


def outputs(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What every norm, and every layer without one behind it, gives."""
    found: dict[str, Tensor] = {}
    handles = [
        m.register_forward_hook(lambda m, i, out, path=path: found.__setitem__(path, out.detach().clone()))
        for path, m in model.named_modules()
        if isinstance(m, nn.BatchNorm2d | nn.Conv2d | nn.Linear)
    ]
    model(images)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("seed", range(12))
def test_they_are_those_of_the_masked_network(seed: int) -> None:
    model, images, graph = moved(seed)
    plan = compress.plan(graph, Gamma(), 0.5)
    pruned = compress.apply(model, graph, plan)
    found = compress.deviations(model, graph, pruned, [images[:1], images[1:]])
    whole, masked = outputs(model, images), outputs(mask(model, pruned.edits), images)
    layers = [p for p, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert list(found) == layers
    for path in layers:
        norm = path[:-1] + "1" if path.endswith(".0") and path[:-1] + "1" in whole else path
        left = pruned.edits.select.get(f"{path}.weight", {}).get(0)
        y, mine = (each[norm] if left is None else each[norm][:, torch.as_tensor(left)] for each in (whole, masked))
        assert found[path] == pytest.approx(float((y - mine).norm() / y.norm()), rel=1e-9, abs=1e-12), path
    assert max(found.values()) > 0.01


@pytest.mark.parametrize("seed", range(12))
def test_what_is_folded_exactly_ends_where_it_was(seed: int) -> None:
    model, images, graph = moved(seed)
    pruned = compress.apply(model, graph, compress.plan(graph, Gamma(), 0.5), compensate="fold")
    assert max(compress.deviations(model, graph, pruned, [images]).values()) < 1e-9


def test_no_batch_is_one_line() -> None:
    model, _, graph = moved(0)
    pruned = compress.apply(model, graph, compress.plan(graph, "l1", 0.5))
    with pytest.raises(compress.CompressError, match="there is no batch"):
        compress.deviations(model, graph, pruned, [])
