"""The strict YAML of recipes: what it reads, what it refuses, and that every value knows where it stands."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.recipes.mistakes import RecipeError
from compress.recipes.nodes import Node, dump, parse, scalar

HERE = Path("/somewhere")
TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXTS)
WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4))


def read(text: str) -> Node:
    node, mistakes = parse(text, "r.yaml", HERE)
    assert not mistakes
    return node


@given(st.dictionaries(WORDS, VALUES, max_size=5))
@settings(deadline=None)
def test_what_is_dumped_is_read_as_the_same_values(values: dict[str, Any]) -> None:
    assert read(dump(values)).plain() == values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("11.0e6", 11.0e6), ("1E5", 1e5), (".5", 0.5), ("-.5e+2", -50.0), ("5.", 5.0), ("+3", 3),
        ("-.inf", -math.inf), ("010", 10), ("0o17", 15), ("0x1F", 31), ("1_000", "1_000"), ("12:30:45", "12:30:45"),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("Y", "Y"), ("true", True), ("False", False),
        ("null", None), ("~", None), ("", None), ("2020-01-02", "2020-01-02"), ("0b11", "0b11"), ("1e", "1e"),
        ("<<", "<<"), ("=", "="), (".", "."), ("-", "-"), ("e5", "e5"),
    ],
)  # fmt: skip
def test_plain_scalars_are_those_of_the_yaml_1_2_core_schema(text: str, value: Any) -> None:
    found = scalar(text)
    assert found == value and type(found) is type(value)


def test_pyyaml_alone_would_read_the_published_settings_wrongly() -> None:
    text = "{strength: 1e-3, params: 11.0e6, a: yes, a: no}"
    assert yaml.safe_load(text) == {"strength": "1e-3", "params": "11.0e6", "a": False}
    node, mistakes = parse(text, "r.yaml", HERE)
    assert node.plain() == {"strength": 1e-3, "params": 11.0e6, "a": "yes"}
    assert [str(m) for m in mistakes] == [
        f"r.yaml:1:{text.rindex('a:') + 1}: key 'a' is there twice, first at r.yaml:1:{text.index('a: yes') + 1}"
    ]


@given(st.dictionaries(st.from_regex(r"[a-z]{1,6}", fullmatch=True), VALUES, min_size=1, max_size=4), st.integers(0, 3))
@settings(deadline=None)
def test_every_key_stands_where_its_place_says(values: dict[str, Any], blank: int) -> None:
    text = "# a recipe\n" * blank + dump(values)
    node, lines = read(text), text.split("\n")  # dump folds long texts, so only keys are looked at
    for key, place in node.keys.items():
        assert lines[place.line - 1][place.column - 1 :].lstrip("'\"").startswith(key)
        assert (place.source, place.base) == ("r.yaml", HERE)


def test_values_and_items_know_their_places() -> None:
    node = read("a: 1\nb:\n  - {c: x}\n  - y\n")
    places = {path: str(node.at(path)) for path in [("a",), ("b", 0, "c"), ("b", 1), ("b", 7), ("z",)]}
    assert list(places.values()) == ["r.yaml:1:4", "r.yaml:3:9", "r.yaml:4:5", "r.yaml:3:3", "r.yaml:1:1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x 1\nb: *x", "r.yaml:1:4: recipes have no anchors"),
        ("a: !!python/object/apply:os.system [ls]", "r.yaml:1:4: recipes have no tags"),
        ("a: !!int 3", "r.yaml:1:4: recipes have no tags"),
        ("a: 1\n---\nb: 2", "r.yaml:2:1: expected one YAML document"),
        ("a: [1, 2", "r.yaml:1:9: no YAML"),
        ("a: b: c", "r.yaml:1:5: no YAML"),
        ("a:\n\t- 1", "r.yaml:2:1: no YAML"),
        ("{[1]: 2}", "r.yaml:1:2: expected a plain word as key"),
        ("[" * 60, "r.yaml:1:52: nested more than"),
        ("a: " + "9" * 5000, "r.yaml:1:4: a number of 5000 digits"),
        ("a: \x00", "r.yaml: no YAML"),
    ],
)
def test_what_is_refused_names_its_line(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read(text)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@given(st.text(st.sampled_from("ab1.e-+:?#&*!|>'\"%@`{}[],\n \t~=\\") | st.characters(codec="utf-8"), max_size=40))
@settings(deadline=None, max_examples=400)
def test_any_text_is_read_or_refused_in_one_way(text: str) -> None:
    try:
        parse(text, "r.yaml", HERE)
    except RecipeError as error:
        assert str(error).startswith("r.yaml:")
