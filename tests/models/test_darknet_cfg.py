"""The cfg reader: what it keeps, and how every mistake is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from compress_models.darknet import Darknet, find_cfg, format_cfg, parse_cfg, read_cfg, resize
from hypothesis import given, settings
from hypothesis import strategies as st

from compress import CompressError

NET = "[net]\nwidth=32\nheight=32\nchannels=3\n"
CONV = "[convolutional]\nfilters=8\nsize=3\npad=1\n"
YOLO = "[convolutional]\nfilters=18\n[yolo]\nmask=0,1,2\nanchors=1,2, 3,4, 5,6\nclasses=1\n"


def test_sections_know_where_they_stand() -> None:
    text = "# head\n[net]\n width = 32 # trailing\n\n;other\n[conv]\nfilters = 8\n[shortcut]\nfrom = -1, 0,\n"
    net, conv, shortcut = parse_cfg(text, "a.cfg")
    assert (net.index, net.line, net.kind, dict(net.options)) == (-1, 2, "net", {"width": "32"})
    assert conv.kind == "convolutional"
    assert (conv.index, conv.line, conv.lines["filters"]) == (0, 6, 7)
    assert shortcut.integers("from") == (-1, 0)


@pytest.mark.parametrize("path", sorted(find_cfg("yolov3-hand").parent.glob("*.cfg")), ids=lambda path: path.stem)
def test_round_trip_keeps_every_key(path: Path) -> None:
    sections = read_cfg(path)
    again = parse_cfg(format_cfg(sections))
    assert [(s.kind, list(s.options.items())) for s in again] == [(s.kind, list(s.options.items())) for s in sections]


def test_unknown_keys_survive_a_round_trip_in_their_place() -> None:
    text = "[net]\nwidth=32\nmy-own=1,2 x\n\n[convolutional]\nzebra=a=b\nfilters=8\n"
    assert format_cfg(parse_cfg(text)) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["t.cfg: no section found; expected '[net]' and layers"]),
        ("width=3\n[net]\n[dropout]\n", ["t.cfg:1: expected '[net]' before 'width=3'"]),
        ("[net]\n", ["t.cfg:1: no layer follows [net]"]),
        (CONV, ["t.cfg:1: section [convolutional]: the first section must be [net]"]),
        (NET + NET + CONV, ["t.cfg:5: section 0 [net]: a second [net]; expected one, at the top of the file"]),
        (NET + "[convolutionl]\n", ["t.cfg:5: section 0 [convolutionl]: unknown", "did you mean 'convolutional'?"]),
        (NET + CONV + "[dropout\n", ["t.cfg:9: section 1 [dropout]: expected ']'"]),
        (NET + CONV + "stride\n", ["t.cfg:9: section 0 [convolutional]: expected key=value, found 'stride'"]),
        (NET + CONV + "stide=2\n", ["t.cfg:9: section 0 [convolutional]: unknown key 'stide'; did you mean 'stride'?"]),
        (NET + CONV + "size=1\n", ["t.cfg:9: section 0 [convolutional]: size=1, but line 7 says size=3"]),
        ("[nett]\n[rout]\nlayers=-1\n", ["t.cfg:1: section [nett]", "\nt.cfg:2: section 0 [rout]"]),
    ],
)
def test_reading_names_every_mistake(text: str, said: list[str]) -> None:
    with pytest.raises(CompressError) as error:
        parse_cfg(text, "t.cfg")
    assert all(part in str(error.value) for part in said), str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (NET + "[convolutional]\nsize=3\n", "t.cfg:5: section 0 [convolutional]: 'filters=' is missing"),
        (NET + CONV + "stride=two\n", "t.cfg:9: section 0 [convolutional]: stride=two: expected a whole number"),
        (NET + CONV + "stride=0\n", "t.cfg:9: section 0 [convolutional]: stride=0: expected at least 1"),
        (NET + "[convolutional]\nfilters=9999999999\n", "t.cfg:5: section 0 [convolutional]: asks for 29,999"),
        (NET + "[yolo]\nanchors=1,2\n", "t.cfg:5: section 0 [yolo]: expected a layer before it"),
        (NET + CONV + "groups=3\n", "t.cfg:9: section 0 [convolutional]: groups=3 must divide filters=8 and the 3"),
        (NET + CONV + "activation=leeky\n", "t.cfg:9: section 0 [convolutional]: unknown activation 'leeky'; did you"),
        (NET + CONV + "xnor=1\n", "t.cfg:9: section 0 [convolutional]: xnor=1 is not supported; expected xnor=0"),
        (NET + "[convolutional]\nfilters=8\nsize=33\n", "t.cfg:5: section 0 [convolutional]: nothing is left of the"),
        (NET + CONV + "[route]\nlayers=-1, 2\n", "t.cfg:10: section 1 [route]: layers=-1, 2 names layer 2; expected"),
        (NET + "[route]\nlayers=-1\n", "t.cfg:6: section 0 [route]: layers=-1 names layer -1; there is no earlier"),
        (NET + CONV + "[shortcut]\nfrom=-3\n", "t.cfg:10: section 1 [shortcut]: from=-3 names layer -2; expected"),
        (NET + CONV + "[route]\nlayers=0\ngroups=3\n", "t.cfg:11: section 1 [route]: groups=3 must divide the 8"),
        (NET + CONV + "[route]\nlayers=0\ngroups=2\ngroup_id=2\n", "t.cfg:12: section 1 [route]: group_id=2: expected"),
        (
            NET + CONV + CONV.replace("8", "4") + "[shortcut]\nfrom=-2\n",
            "t.cfg:14: section 2 [shortcut]: adds maps of different shapes: 4 channels of 32x32, 8 channels of 32x32",
        ),
        (NET + CONV + "[dropout]\nprobability=1.5\n", "t.cfg:10: section 1 [dropout]: probability=1.5: expected 0 <="),
        (NET + YOLO.replace("18", "21"), "section 1 [yolo]: expected 3 anchors x (5 + 1 classes) = 18 channels"),
        (NET + YOLO.replace("5,6", "5"), "t.cfg:9: section 1 [yolo]: anchors: expected pairs of positive numbers"),
        (NET + YOLO.replace("0,1,2", "0,1,3"), "t.cfg:8: section 1 [yolo]: mask=0,1,3: expected indices below 3"),
        (NET + YOLO + "num=9\n", "t.cfg:11: section 1 [yolo]: num=9, but 3 anchors are listed"),
        (NET + YOLO + CONV, "t.cfg:11: section 2 [convolutional]: is fed by layer 1, a [yolo] section"),
        (NET.replace("width=32", "width=nan") + CONV, "t.cfg:2: section [net]: width=nan: expected a whole number"),
        (NET + YOLO.replace("5,6", "5,inf"), "t.cfg:9: section 1 [yolo]: anchors=inf: expected a finite number"),
    ],
)
def test_building_names_the_mistake(text: str, said: str) -> None:
    with pytest.raises(CompressError) as error:
        Darknet(parse_cfg(text, "t.cfg"))
    assert said in str(error.value)


LINES = find_cfg("yolov3-tiny-hand").read_text().splitlines()
WORDS = ["", "[route]", "[shortcut]", "[net", "layers=-99", "from=0,-1", "filters=99999999999", "stride=0", "size=1_0"]
WORDS += ["groups=2", "=", "anchors=1", "mask=", "activation=", "width=7", "classes=-1", "pad=1.5", "[yolo]", "\x00"]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(LINES) - 1), st.sampled_from(WORDS)), min_size=1, max_size=4))
def test_a_damaged_cfg_gives_a_network_or_a_located_mistake(damage: list[tuple[int, str]]) -> None:
    lines = list(LINES)
    for where, word in damage:
        lines[where] = word
    try:
        Darknet(resize(parse_cfg("\n".join(lines), "t.cfg"), 1, (64, 64), 0.125))
    except CompressError as error:
        assert all(re.match(r"t\.cfg:\d+: \S", line) for line in str(error).splitlines()), str(error)


def test_other_classes_need_a_convolution_before_yolo() -> None:
    sections = parse_cfg(NET + "[convolutional]\nfilters=6\n[dropout]\n[yolo]\nanchors=1,2\nclasses=1\n", "t.cfg")
    assert Darknet(sections).heads[0].classes == 1
    with pytest.raises(CompressError, match=r"t\.cfg:8: section 2 \[yolo\]: expected \[convolutional\] before"):
        resize(sections, 2, (32, 32))


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00binary"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.cfg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CompressError, match=r"x\.cfg: "):
        read_cfg(path)
