"""What a prune stage is asked, before anything runs: budgets, rounds, and the mistakes that can be made with them."""

from __future__ import annotations

from typing import Any

import pytest

from compress.plugins import installed
from compress.stages.prune import Prune


def mistakes(**options: Any) -> list[tuple[str, str]]:
    return list(Prune(**options).mistakes([("baseline", Prune(ratio=0.1))], installed()))


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.5},
        {"blocks": 3},
        {"ratio": 0.5, "blocks": "ranked"},
        {"keep_macs": 0.5, "keep_params": 0.4},
        {"keep": {"bytes": 0.3, "latency": 8.0}},
        {"keep_macs": 0.5, "keep": {"activations": 0.5}, "round": 2, "of": 3},
    ],
)
def test_a_ratio_or_budgets_will_do(options: dict[str, Any]) -> None:
    assert mistakes(**options) == []


@pytest.mark.parametrize(
    ("options", "where", "said"),
    [
        ({}, "uses", "nothing says how much goes; give ratio, or budgets: keep_macs, keep_params, keep"),
        ({"blocks": "ranked"}, "uses", "nothing says how much goes"),
        ({"ratio": 0.5, "keep_macs": 0.5}, "keep_macs", "ratio and keep_macs are given"),
        ({"ratio": 0.5, "keep": {"macs": 0.5}}, "keep", "ratio and keep are given"),
        ({"keep": {"byte": 0.5}}, "keep", "there is no resource 'byte' to keep; did you mean 'bytes'"),
        ({"keep_macs": 0.5, "keep": {"macs": 0.4}}, "keep", "keep_macs is given beside keep's 'macs'"),
        ({"ratio": 0.5, "round": 3, "of": 2}, "round", "round 3 of 2: there are not so many"),
        ({"keep_macs": 1e6, "of": 2}, "of", "several rounds need budgets that are fractions"),
    ],
)
def test_mistakes_say_what_to_do(options: dict[str, Any], where: str, said: str) -> None:
    found = mistakes(**options)
    assert any(place == where and said in message for place, message in found), found
    assert all("\n" not in message for _, message in found)


@pytest.mark.parametrize("schedule", ["polynomial", "exponential"])
def test_rounds_multiply_to_the_whole(schedule: Any) -> None:
    left_by_ratio, left_by_budget = 1.0, 1.0
    for number in range(1, 5):
        left_by_ratio *= 1 - Prune(ratio=0.7, round=number, of=4, schedule=schedule)._round(0.7).ratio
        budgets = Prune(keep_macs=0.3, round=number, of=4, schedule=schedule)._budgets()
        left_by_budget *= budgets["macs"]
    assert left_by_ratio == pytest.approx(0.3) and left_by_budget == pytest.approx(0.3)
