"""How a prompt's text is read: fractions of the steps, decimal commas, huge input, names with odd characters, near misses."""

from __future__ import annotations

import re
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_lycoris.prompt import Presets, Tag, TagError, escape_name, find_tags, near_misses, parse_tag, resolve, unescape_name

ATTN = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"
TEXT = "transformer.text_model.encoder.layers.0.mlp.fc1.weight"
PRESETS = Presets.default()


def on(keys: str, steps: int) -> list[int]:
    tag = parse_tag(f"M:0.5:{keys}".split(":"))
    got = resolve(tag, "sd1", 0, PRESETS)
    assert got(TEXT) == 0.5  # the text encoder keeps its strength
    return [step + 1 for step in range(steps) if got.at(ATTN, step, steps) == 0.5]


def reason(text: str) -> str:
    (found,) = find_tags(text)[1]
    assert isinstance(found, TagError)
    return found.reason


@pytest.mark.parametrize(
    ("keys", "same"),
    [
        ("stop=0.4", "stop=8"), ("end=0.4", "stop=8"), ("end=8", "stop=8"), ("start=0.2", "start=4"), ("step=0.2-0.8", "step=4-16"),
        ("start=0.2:stop=16", "step=4-16"), ("step=0.2-1", "start=4"), ("step=0.2-1.0", "start=4"), ("stop=1.0", "start=1"),
        ("stop=8.0", "stop=8"), ("step=0,2-0,8", "step=4-16"), ("start=0,2", "start=4"), ("stop=0.01", "stop=1"),
    ],
)  # fmt: skip
def test_values_below_one_are_fractions_of_the_steps(keys: str, same: str) -> None:
    assert on(keys, 20) == on(same, 20)


@given(st.integers(1, 150), st.integers(1, 150))
def test_a_step_written_as_a_fraction_is_that_step(step: int, steps: int) -> None:
    if step < steps:
        assert on(f"start={step / steps!r}", steps) == list(range(step, steps + 1))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<lyco:M:stop=2.5>", '"2.5" is not a sampling step; give a whole number such as 8, or a fraction of the steps such as 0.4'),
        ("<lyco:M:step=0.8-0.2>", "on from step 0.8 and off from step 0.2 is never on"),
        ("<lyco:M:stop=3:end=4>", '"stop" and "end" say the same thing'),
        ("<lyco:M:1e308>", '"1e308" is too large for the strength of the text encoder; give a number such as 0.7'),
        ("<lyco:M:1" + "0" * 400 + ">", "(401 characters) is too large for the strength"),
        ("<lyco:M:1:1:" + "9" * 16000 + ">", "(16000 characters) is too large for a number of ranks"),
        ("<lyco:M:start=" + "9" * 16000 + ">", "(16000 characters) is too large for a sampling step"),
        ("<lyco:M:0.5,0.7>", '"0.5,0.7" has several values'),
    ],
)
def test_mistakes_in_numbers(text: str, says: str) -> None:
    assert says in reason(text)


@pytest.mark.parametrize("number", ["{}0.5{}", "0{}@{}0{},1@ 1{}", "0.5:1:{}4{}"])
@pytest.mark.parametrize("space", sorted(filter(str.isspace, map(chr, range(sys.maxunicode)))))
def test_every_space_may_stand_beside_a_number(number: str, space: str) -> None:
    """Python's float() leaves some of those that its strip() takes off."""
    assert parse_tag(["M", *number.replace("{}", space).split(":")]) == parse_tag(["M", *number.replace("{}", "").split(":")])


@pytest.mark.parametrize(
    ("text", "same", "note"),
    [
        ("<lyco:M:0,7>", "<lyco:M:0.7>", "0,7 was read as 0.7"),
        ("<lyco:M:1:-0,5>", "<lyco:M:1:-0.5>", "-0,5 was read as -0.5"),
        ("<lyco:M:te=,5:unet=1>", "<lyco:M:0.5:1>", "te=,5 was read as .5"),
    ],
)
def test_a_decimal_comma_is_read_and_noted(text: str, same: str, note: str) -> None:
    (one,), (other,) = find_tags(text)[1], find_tags(same)[1]
    assert isinstance(one, Tag) and one == other
    assert [*one.notes] == [f"{text}: {note}; write numbers with a point"]
    assert resolve(one, "sd1", 0, PRESETS).notes == one.notes


@pytest.mark.parametrize(("text", "says"), [("te=0", True), ("te=0.0:hr=1", True), ("te=0:unet=1", False), ("0:1", False), ("te=1", False)])
def test_te_zero_that_also_turns_the_unet_off_says_so(text: str, says: bool) -> None:
    tag = parse_tag(f"M:{text}".split(":"))
    assert [note.endswith("write te=0:unet=1 to turn only the text encoder off") for note in tag.notes] == [True] * says


def test_off_is_what_never_acts_on_the_parameters_given() -> None:
    def is_off(text: str, *names: str) -> bool:
        return resolve(parse_tag(text.split(":")), "sd1", 0, PRESETS).is_off(names, 20)

    assert is_off("M:0", ATTN, TEXT) and is_off("M:lbw=NONE", ATTN, TEXT) and is_off("M:1:start=30", ATTN)
    assert is_off("M:0:1", TEXT) and not is_off("M:0:1", TEXT, ATTN)
    assert not is_off("M:1:start=20", ATTN) and not is_off("M:0.001", TEXT)


@pytest.mark.parametrize(
    "prompt",
    [
        "<a:" * 16_000, "<lyco:" * 8_000, "<" * 48_000, "< " * 24_000, "<lyco:" + ":" * 48_000 + ">", "<lyco:M:" + "9" * 48_000 + "x>",
        "<lyco:M:lbwe=" + "IN01:attn:1," * 4_000 + ">", "<lyco:M:1:" + "0@0," * 12_000 + "1>", "<lyco:M:" + "k" * 48_000 + "=1>",
        "<lyco:" + "a" * 48_000 + ":te=0>", "<" + " " * 48_000, "<" + "w" * 48_000,
    ],
    ids=lambda prompt: prompt[:12],
)  # fmt: skip
def test_long_prompts_take_no_time_and_short_sentences(prompt: str) -> None:
    began = time.process_time()
    rest, found = find_tags(prompt)
    sentences = [str(error) for error in found if isinstance(error, TagError)] + [miss.sentence for miss in near_misses(rest)]
    assert time.process_time() - began < 1
    assert len(sentences) <= 6 and all(len(sentence) < 600 for sentence in sentences)


@given(st.text("<>:ab lyco=\n", max_size=60))
def test_tags_are_found_where_the_webui_finds_them(text: str) -> None:
    tags = re.compile(r"<(\w+):([^>]+)>")
    rest, found = find_tags(text)
    assert len(found) == sum(match[1] == "lyco" for match in tags.finditer(text))
    assert rest == tags.sub(lambda match: "" if match[1] == "lyco" else match[0], text)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_every_name_can_be_written_in_a_tag(name: str) -> None:
    escaped = escape_name(name)
    assert unescape_name(escaped) == name
    if name.strip(" \t\r\n") == name.strip():  # other blanks at the ends are not escaped
        (tag,) = find_tags(f"<lyco:{escaped}:0.5>")[1]
        assert isinstance(tag, Tag) and unescape_name(tag.name) == name


def test_ordinary_names_stay_as_they_are() -> None:
    for name in ("style", "my style_v1.5", "ブロック", "folder/file", "100%", "50%off", "a=b", "x,y"):
        assert escape_name(name) == name
    assert escape_name(" a:b>c\\d ") == "%20a%3Ab%3Ec%5Cd%20"


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("a <lyco:", '"<lyco:" was read as plain words: a tag is <lyco:NAME:STRENGTH>, and the closing > is missing'),
        ("a <lyco:x:1", "the closing > is missing"),
        ("a <lyco:> b", '"<lyco:>" was read as plain words: a tag is <lyco:NAME:STRENGTH>, and the name is missing'),
        ("a <Lyco:x:1>", '"<Lyco:x:1>" was read as plain words: a tag is <lyco:NAME:STRENGTH>; write <lyco: in small letters'),
        ("a < lyco:x:1>", "without blanks before the first colon"),
        ("a <lyco>", ", and the name is missing"),
        ("a <lyco : >", ", and the name is missing"),
        ("a <lyco", ", and the closing > is missing"),
        ("a <LYCO x:1>", "write <lyco: in small letters"),
        ("a <lyco x:1>", ", and the colon behind lyco is missing"),
        ("a <lyoc:x:1>", "did you mean <lyco:?"),
        ("a <lycro:x:1", "did you mean <lyco:?"),
        ("a <zebra:x:1>", "nothing here reads <zebra:"),
    ],
)
def test_what_looks_like_a_tag_gets_a_sentence(prompt: str, says: str) -> None:
    (miss,) = near_misses(find_tags(prompt)[0])
    assert says in miss.sentence and miss.ours == ("lyco" in prompt.lower())


def test_kinds_that_others_read_and_plain_signs_get_none() -> None:
    assert near_misses("<hypernet:x:1> <3:00> a < b <b> <lycos> <3", known=("hypernet",)) == []
