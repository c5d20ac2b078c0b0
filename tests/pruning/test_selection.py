"""Which units go: ratios, budgets, links, rounding - against what can be counted by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hand_made import Given, Silent, make_graph
from hypothesis import given, settings
from hypothesis import strategies as st

from compress import CompressError, Frozen, GroupPolicy, Link
from compress.pruning.selection import plan


def kept(graph, chosen):
    return {g.name: g.size - len(chosen.removed.get(g.name, ())) for g in graph.groups}


def gone(graph, chosen):
    units = np.zeros(graph.n_units, dtype=bool)
    for name, removed in chosen.removed.items():
        units[graph.start(name) + removed] = True
    return units


# --- ratios ---------------------------------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    ratio=st.floats(0, 0.99),
    round_to=st.integers(1, 9),
    min_keep=st.integers(1, 9),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_local_ratio_removes_the_smallest_of_each_group(sizes, ratio, round_to, min_keep, seed):
    graph, weights = make_graph({f"g{i}": n for i, n in enumerate(sizes)}, seed=seed)
    chosen = plan(graph, Given(), ratio, round_to=round_to, min_keep=min_keep, weights=weights)
    for group in graph.groups:
        wanted = max(group.size - int(np.floor(ratio * group.size + 0.5)), min_keep)
        rounded = min(-(-wanted // round_to) * round_to, group.size)
        removed = chosen.removed.get(group.name, np.zeros(0, dtype=int))
        assert group.size - len(removed) == rounded
        scores = weights[f"{group.name}.weight"][:, 0].numpy()
        assert set(removed) == set(np.argsort(scores, kind="stable")[: len(removed)])


@given(
    sizes=st.lists(st.integers(2, 40), min_size=1, max_size=5),
    ratio=st.floats(0, 0.99),
    min_keep=st.integers(1, 3),
    levels=st.integers(1, 50),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_global_ratio_removes_exactly_as_many_as_asked_even_among_ties(sizes, ratio, min_keep, levels, seed):
    graph, weights = make_graph({f"g{i}": n for i, n in enumerate(sizes)}, seed=seed)
    weights = {name: (w * levels).floor() for name, w in weights.items()}  # few distinct scores: many ties
    chosen = plan(graph, Given(), ratio, "global", min_keep=min_keep, weights=weights)
    most = sum(max(n - min_keep, 0) for n in sizes)
    assert gone(graph, chosen).sum() == min(int(np.floor(ratio * sum(sizes) + 0.5)), most)
    assert all(n >= min(min_keep, g.size) for n, g in zip(kept(graph, chosen).values(), graph.groups, strict=True))
    again = plan(graph, Given(), ratio, "global", min_keep=min_keep, weights=weights)
    assert np.array_equal(gone(graph, chosen), gone(graph, again))
    scores = torch.cat([weights[f"g{i}.weight"][:, 0] for i in range(len(sizes))]).numpy()
    removed = gone(graph, chosen)
    for group in graph.groups:  # a unit stays below the largest removed score only where its group is at its minimum
        units = slice(graph.start(group.name), graph.start(group.name) + group.size)
        if removed.any() and (~removed[units]).sum() > min_keep:
            assert scores[units][~removed[units]].min() >= scores[removed].max()


def test_equal_scores_go_in_equal_shares_from_every_group():
    graph, weights = make_graph({"a": 40, "b": 20, "c": 60})
    chosen = plan(graph, Given(), 0.5, "global", weights={name: torch.ones_like(w) for name, w in weights.items()})
    assert kept(graph, chosen) == {"a": 20, "b": 10, "c": 30}


def test_published_ratio_counts_only_what_may_be_cut():
    graph, weights = make_graph({"a": 100, "b": 60, "c": 40}, frozen={"a": Frozen("an output")})
    chosen = plan(graph, Given(), 0.85, "global", weights=weights)
    assert gone(graph, chosen).sum() == 85 and "a" not in chosen.removed


# --- budgets --------------------------------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(2, 24), min_size=1, max_size=5),
    fraction=st.floats(0.02, 1.0),
    scope=st.sampled_from(["local", "global"]),
    what=st.sampled_from(["keep_macs", "keep_params"]),
    absolute=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_a_budget_is_met_with_less_than_one_unit_to_spare_or_refused(sizes, fraction, scope, what, absolute, seed):
    graph, weights = make_graph({f"g{i}": n for i, n in enumerate(sizes)}, seed=seed)
    kind = what.removeprefix("keep_")
    whole = np.ones(graph.n_units, dtype=bool)
    dense, least = getattr(graph.cost_of(whole), kind), getattr(graph.cost_of(np.zeros_like(whole)), kind)
    budget = max(int(fraction * dense), 2) if absolute else fraction * dense
    starts = [graph.start(g.name) for g in graph.groups]
    least = whole.copy()
    least[:] = False
    least[starts] = True
    smallest = getattr(graph.cost_of(least), kind)
    asked = {what: budget if absolute else fraction}
    if smallest > budget:
        with pytest.raises(CompressError, match=rf"{what}=.* cannot be met: at least {smallest:,} of {dense:,} stay"):
            plan(graph, Given(), scope=scope, weights=weights, **asked)
        return
    chosen = plan(graph, Given(), scope=scope, weights=weights, **asked)
    removed = gone(graph, chosen)
    cost = getattr(graph.cost_of(~removed), kind)
    assert cost <= budget
    if removed.any():  # giving one unit back breaks the budget: the last one to go, at least
        back = [
            getattr(graph.cost_of(~removed | (np.arange(graph.n_units) == unit)), kind)
            for unit in np.flatnonzero(removed)
        ]
        assert max(back) > budget


def test_an_impossible_budget_names_what_is_in_the_way():
    graph, weights = make_graph({"head": 30, "body": 20}, frozen={"head": Frozen("an output of the network")})
    with pytest.raises(CompressError, match=r"keep_params=0.1 cannot be met.*ask for keep_params=0\.\d+ or more.*head"):
        plan(graph, Given(), keep_params=0.1, weights=weights)


def test_bisection_asks_the_cost_a_few_times_only():
    graph, weights = make_graph({f"g{i}": 500 for i in range(20)})
    plan(graph, Given(), keep_macs=0.3, scope="global", weights=weights)
    assert graph.costs < 25


# --- links ----------------------------------------------------------------------------------------------------------


@st.composite
def linked_graphs(draw):
    """Groups, and links among random equally long, possibly overlapping ranges of their units."""
    sizes = {f"g{i}": 4 * draw(st.integers(1, 6)) for i in range(draw(st.integers(1, 4)))}
    links = []
    for _ in range(draw(st.integers(1, 4))):
        n = draw(st.sampled_from([2, 4]))
        slots = []
        for _ in range(draw(st.integers(2, 3))):
            name = draw(st.sampled_from(sorted(sizes)))
            units = draw(st.permutations(range(sizes[name])))[:n] if draw(st.booleans()) else None
            first = draw(st.integers(0, sizes[name] // n - 1)) * n
            slots.append((name, np.array(units if units is not None else range(first, first + n))))
        links.append(Link(tuple(slots), "equal halves"))
    frozen = {n: Frozen("an output") for n in sizes if draw(st.integers(0, 5)) == 0}
    return make_graph(sizes, tuple(links), frozen, seed=draw(st.integers(0, 99))), links


@given(
    drawn=linked_graphs(),
    ratio=st.floats(0.05, 0.95),
    scope=st.sampled_from(["local", "global"]),
    round_to=st.integers(1, 4),
)
@settings(max_examples=200, deadline=None)
def test_links_keep_equally_many_whatever_is_asked(drawn, ratio, scope, round_to):
    (graph, weights), links = drawn
    try:
        chosen = plan(graph, Given(), ratio, scope, round_to=round_to, weights=weights)
    except CompressError as error:
        assert "nothing may be cut" in str(error)
        return
    removed = gone(graph, chosen)
    for link in links:
        counts = {int(removed[graph.start(name) + units].sum()) for name, units in link.slots}
        assert len(counts) == 1
    for group in graph.groups:
        left = kept(graph, chosen)[group.name]
        assert left == group.size or (left >= 1 and left % round_to == 0)
        assert group.frozen is None or left == group.size
        assert scope == "global" or group.size - left <= np.floor(ratio * group.size + 0.5)


def test_halves_are_paired_by_rank():
    first, second = np.arange(4), np.arange(4, 8)
    graph, weights = make_graph({"g": 8}, (Link((("g", first), ("g", second))),))
    weights["g.weight"][:, 0] = torch.tensor([4.0, 1, 3, 2, 10, 40, 30, 20])
    chosen = plan(graph, Given(), 0.5, weights=weights)
    assert chosen.removed["g"].tolist() == [1, 3, 4, 7]  # the two smallest of each half


def test_a_chain_of_links_moves_together_and_costs_no_more_than_it_must():
    whole = np.arange(6)
    names = ["a", "b", "c", "d"]
    links = tuple(Link(((x, whole), (y, whole))) for x, y in pairwise(names))
    graph, weights = make_graph(dict.fromkeys(names, 6), links)
    for ratio, left in ((1 / 6, 5), (0.5, 3), (0.9, 1)):
        assert kept(graph, plan(graph, Given(), ratio, weights=weights)) == dict.fromkeys(names, left)


def test_half_a_group_that_is_tied_to_a_frozen_one_stays_and_the_other_half_goes():
    link = Link((("head", np.arange(4)), ("body", np.arange(4))), "a chunk")
    graph, weights = make_graph({"head": 4, "body": 8}, (link,), {"head": Frozen("an output")})
    chosen = plan(graph, Given(), 0.5, weights=weights)
    assert set(chosen.removed["body"]) == {4, 5, 6, 7}
    whole = Link((("head", np.arange(4)), ("tail", np.arange(4))), "a chunk")
    graph, weights = make_graph({"head": 4, "tail": 4, "free": 4}, (whole,), {"head": Frozen("an output")})
    chosen = plan(graph, Given(), 0.5, weights=weights)
    assert set(chosen.removed) == {"free"}
    assert chosen.frozen == {"tail": "keeps as many units as head: a chunk"}


# --- what stays whole -----------------------------------------------------------------------------------------------


def test_ignored_and_silent_groups_stay_whole_with_the_reason():
    graph, weights = make_graph({"head.conv": 8, "body.conv": 8, "stem": 8})
    chosen = plan(graph, Silent(letter="s"), 0.5, ignore=("head.*",), weights=weights)
    assert set(chosen.removed) == {"body.conv"}
    assert chosen.frozen == {"head.conv": "ignore 'head.*'", "stem": "criterion 'silent' says nothing about it"}
    assert chosen.settings["criterion"] == {"uses": "silent", "letter": "s"}
    with pytest.raises(CompressError, match="says nothing about any group"):
        plan(graph, Silent(letter="s"), 0.5, ignore=("head.*", "body.*"), weights=weights)


class KeepsBody(GroupPolicy):
    name = "keeps-body"
    group: str = "body"

    def freeze(self, graph, model):
        return {self.group: "body lore"}


def test_policies_keep_groups_whole_and_must_name_groups():
    graph, weights = make_graph({"body": 8, "tail": 8})
    graph.model = torch.nn.Identity()
    chosen = plan(graph, Given(), 0.5, policy=KeepsBody(), weights=weights)
    assert set(chosen.removed) == {"tail"} and chosen.frozen == {"body": "body lore"}
    with pytest.raises(CompressError, match=r"keeps 'bodi', which is no group; did you mean 'body'"):
        plan(graph, Given(), 0.5, policy=KeepsBody(group="bodi"), weights=weights)


def test_a_graph_without_anything_to_cut_says_what_is_in_the_way():
    graph, weights = make_graph({"a": 8}, frozen={"a": Frozen("an output of the network")})
    with pytest.raises(CompressError, match=r"nothing may be cut; in the way: a .8 units: an output of the network"):
        plan(graph, Given(), 0.5, weights=weights)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": 1.0}, r"ratio: .* expected in \[0, 1\), found 1.0"),
        ({"ratio": -0.1}, "ratio"),
        ({"ratio": float("nan")}, "ratio"),
        ({"ratio": "half"}, "ratio: expected a number, found 'half'"),
        ({"ratio": True}, "ratio: expected a number"),
        ({"ratio": 0.5, "keep_macs": 0.5}, "ratio and keep_macs were given"),
        ({"keep_params": 0}, "keep_params"),
        ({"keep_macs": float("nan")}, "keep_macs"),
        ({"scope": "layer"}, "scope: expected 'local', 'global' or 'isomorphic', found 'layer'"),
        ({"round_to": 0}, "round_to: expected an integer of at least 1"),
        ({"round_to": 2.0}, "round_to"),
        ({"min_keep": 0}, "min_keep"),
        ({"ignore": ("heed.*",)}, r"ignore: 'heed.\*' matches no group; did you mean 'head.a'"),
        ({"ignore": "head.*"}, "expected a list of globs"),
        ({"criterion": "randon"}, "criterion 'randon' is not registered; did you mean 'random'"),
        ({"criterion": Given}, r"found a class; write Given\(\)"),
        ({"criterion": 3}, "criterion"),
        ({"weights": None}, "the traced model is gone"),
        ({"weights": {"head.a.weight": torch.ones(8, 2)}}, "weights: no parameter 'body.weight'"),
        ({"calibration": [1]}, "needs no data"),
    ],
)
def test_mistakes_get_one_clear_line(arguments, message):
    graph, weights = make_graph({"head.a": 8, "body": 8})
    with pytest.raises(CompressError, match=message) as caught:
        plan(graph, **{"criterion": Given(), "weights": weights, **arguments})
    assert "\n" not in str(caught.value)
