"""Prompt editing around tags in the webui: networks and their conditioning follow the brackets, against a stand-in for its modules."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import Tensor

from lib_lycoris.hosts.webui.prompts import with_brackets
from lib_lycoris.hosts.webui.text_steps import joined
from lib_lycoris.prompt import Tag, parse_tag
from tests.hosts.contract import same
from tests.hosts.standin import running
from tests.hosts.test_contract import WebuiRig

STEPS = 4
Entry = namedtuple("Entry", ["end_at_step", "cond"])


@pytest.fixture
def webui(tmp_path: Path) -> Iterator[WebuiRig]:
    with running(tmp_path) as program:
        yield WebuiRig(program)


def texts(webui: WebuiRig, tags: str) -> list[Tensor]:
    """Return what the text encoder gave for each step of an image."""
    webui.picture(tags, steps=STEPS)
    assert webui.program.p is not None
    return [webui.program.encode(webui.program.p, step).clone() for step in range(STEPS)]


def test_the_unet_follows_the_brackets(webui: WebuiRig) -> None:
    for edited, plain in (
        ("[<lyco:one:0:1>::1]", "<lyco:one:0:1:stop=3>"), ("[<lyco:one:0:1>:1]", "<lyco:one:0:1:start=3>"),
        ("[<lyco:one:0:1>::0.5]", "<lyco:one:0:1:stop=4>"), ("([<lyco:one>])", "<lyco:one>"),
    ):  # fmt: skip
        assert same(webui.picture(edited, steps=STEPS), webui.picture(plain, steps=STEPS)), edited
    assert not same(webui.picture("[<lyco:one:0:1>::1]", steps=STEPS), webui.picture("<lyco:one:0:1>", steps=STEPS))


def test_the_text_encoder_follows_them(webui: WebuiRig) -> None:
    base, one = texts(webui, "")[0], texts(webui, "<lyco:one:1:0>")[0]
    assert not same(base, one)
    got = texts(webui, "[<lyco:one:1:0>::1]")
    assert [same(text, one) for text in got] == [True, True, False, False]
    assert [same(text, base) for text in got] == [False, False, True, True]
    assert all(same(text, one) for text in texts(webui, "<lyco:one:1:0>"))
    assert all(same(text, base) for text in texts(webui, ""))


def test_other_brackets_around_the_same_tags_are_encoded_anew(webui: WebuiRig) -> None:
    first = webui.again("[<lyco:one>:<lyco:two>:1]", steps=STEPS)
    second = webui.again("[<lyco:one><lyco:two>::1]", steps=STEPS)  # the webui sees the same tags and the same words
    assert not same(first, second)
    assert same(webui.picture("[<lyco:one><lyco:two>::1]", steps=STEPS), second)


def test_samplers_of_two_calls_a_step_count_in_calls() -> None:
    tag = parse_tag(["one", "0", "1"])
    (edited,) = with_brackets((tag,), ["[<lyco:one:0:1>::0.5]"], STEPS, 2, 0)
    assert edited.during == (True, True, True, False)  # calls 0 to 4 of 8
    (hires,) = with_brackets((tag,), ["[<lyco:one:0:1>::1.5]"], STEPS, 1, 10)
    assert hires.during == (True, True, True, False)


def test_tags_that_another_extension_put_in_are_always_on() -> None:
    tags = tuple(parse_tag(text.split(":")) for text in ("one", "new:0.5", "one"))
    found = with_brackets(tags, ["[<lyco:one>::1] [<lyco:one>:1]"], 3, 1, 0)
    assert [tag.during for tag in found] == [(True, True, False), None, (False, False, True)]
    assert found[1] == Tag.of("new", parse_tag(["x", "0.5"]).te)
    assert with_brackets(tags, [], 3, 1, 0) == tags


def test_tags_of_the_built_in_loader_follow_too_where_they_are_ours() -> None:
    ours, theirs = parse_tag(["a"]), parse_tag(["a"], "lora")
    prompt = "[<lora:a>::1] <lyco:a>"
    assert with_brackets((ours,), [prompt], 3, 1, 0)[0].during is None
    assert [tag.during for tag in with_brackets((theirs, ours), [prompt], 3, 1, 0)] == [(True, True, False), None]


def test_schedules_of_spans_are_joined_to_one() -> None:
    one = [Entry(3, "a1"), Entry(20, "b1")]
    two = [Entry(3, "a2"), Entry(20, "b2")]
    assert joined([(0, 1), (2, None)], [one, two]) == [(1, "a1"), (3, "a2"), (20, "b2")]
    assert joined([(0, 5), (6, None)], [one, two]) == [(3, "a1"), (5, "b1"), (20, "b2")]
    assert joined([(0, 3), (4, None)], [one, two]) == [(3, "a1"), (20, "b2")]
