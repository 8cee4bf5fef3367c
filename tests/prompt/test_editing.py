"""Prompt editing around words and tags, AND, and emphasis, against what the webui makes of the same texts."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_lycoris.errors import PromptError
from lib_lycoris.prompt import Presets, Schedule, Tag, TagError, plan_negative, plan_prompt, resolve, text_spans
from lib_lycoris.prompt.attention import BREAK, read_attention
from lib_lycoris.prompt.editing import read_editing, text_at

ATTN = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"
TEXT = "transformer.text_model.encoder.layers.0.mlp.fc1.weight"


def schedule(text: str, steps: int = 10, earlier: int = 0) -> list[tuple[int, str]]:
    """Return (last step, text) as the webui lists its prompt schedules."""
    nodes = read_editing(text)
    found = [text_at(nodes, step, steps, earlier) for step in range(1, steps + 1)]
    return [(step, text) for step, text in enumerate(found, 1) if step == steps or found[step] != text]


@pytest.mark.parametrize(
    ("text", "expected"),
    [  # read off the webui's own parser, v1.10.1
        ("test", [(10, "test")]),
        ("a [b:3]", [(3, "a "), (10, "a b")]),
        ("a [b: 3 ]", [(3, "a "), (10, "a b")]),
        ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
        ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
        ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
        ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
        ("a [unbalanced", [(10, "a [unbalanced")]),
        ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
        ("a [{b|d{:.5] c", [(10, "a [{b|d{:.5] c")]),
        ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
        ("[a|(b:1.1)]", [(step, ("a", "(b:1.1)")[(step - 1) % 2]) for step in range(1, 11)]),
        ("[fe|]male", [(step, ("female", "male")[(step - 1) % 2]) for step in range(1, 11)]),
        ("[a:b:1.5]", [(10, "a")]),
        ("[a:b:-1]", [(10, "b")]),
        ("a | b [c:d:3]", [(10, "a | b [c:d:3]")]),
        ("a\\[b:3\\] [c:d:3]", [(3, "a\\[b:3\\] c"), (10, "a\\[b:3\\] d")]),
        ("[c:d:3]\\", [(10, "[c:d:3]\\")]),
    ],
)
def test_words_change_where_the_webui_changes_them(text: str, expected: list[tuple[int, str]]) -> None:
    assert schedule(text) == expected


@pytest.mark.parametrize(
    ("text", "first", "hires"),
    [
        ("[a:b:0.5]", [(5, "a"), (10, "b")], [(4, "b")]),
        ("[a:b:1.5]", [(10, "a")], [(2, "a"), (4, "b")]),
        ("[a:b:12]", [(10, "a")], [(2, "a"), (4, "b")]),
    ],
)
def test_the_hires_pass_counts_on(text: str, first: list[tuple[int, str]], hires: list[tuple[int, str]]) -> None:
    assert schedule(text) == first
    assert schedule(text, 4, earlier=10) == hires


def on(prompt: str, steps: int = 10, earlier: int = 0) -> list[str]:
    """Return the names that are on at each step, without blanks between them."""
    plan = plan_prompt(prompt, ("lyco",), steps, earlier)
    return ["".join(tag.name for tag in plan.on(step)) for step in range(steps)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("[<lyco:a:1>:<lyco:b:1>:0.5]", "aaaaaabbbb"),
        ("[<lyco:a:1>::0.6]", "aaaaaaa---"),
        ("[<lyco:a:1>:8]", "---------a"),
        ("[<lyco:a>|<lyco:b>]", "aabababab" + "a"),
        ("[<lyco:a>|]", "aa-a-a-a-a"),
        ("[x:[<lyco:a>:<lyco:b>:4]:2]", "---aabbbbb"),
        ("(<lyco:a:1>:1.3) [<lyco:b>]", "*" * 10),
        ("<lyco:a> [<lyco:b>", "*" * 10),
        ("red AND [<lyco:a:1>::3] blue", "aaaa------"),
    ],
)
def test_tags_are_on_where_a_word_would_be(prompt: str, expected: str) -> None:
    got = on(prompt)
    assert "".join({"": "-", "ab": "*"}.get(names, names) for names in got) == expected
    words = plan_prompt(
        prompt.replace("<lyco:a:1>", "A").replace("<lyco:a>", "A").replace("<lyco:b>", "B").replace("<lyco:b:1>", "B"), (), 10
    )
    assert [any("A" in part.text.replace("AND", "") for part in parts) for parts in words.parts] == ["a" in names for names in got]


def test_strengths_follow_the_brackets_in_text_encoder_and_unet() -> None:
    tag = plan_prompt("[<lyco:a:0.5:1:start=3>::6]", ("lyco",), 10).tags[0]
    assert isinstance(tag, Tag)
    got = resolve(tag, "sd1", 0, Presets.default())
    assert [got.at(TEXT, step, 10) for step in range(10)] == [0.5] * 7 + [0] * 3
    assert [got.at(ATTN, step, 10) for step in range(10)] == [0, 0] + [1] * 5 + [0] * 3
    assert got.digest != resolve(plan_prompt("<lyco:a:0.5:1:start=3>", ("lyco",), 10).tags[0], "sd1", 0, Presets.default()).digest  # type: ignore[arg-type]


def test_a_tag_that_is_always_on_is_a_plain_tag_and_one_that_never_is_says_so() -> None:
    always, never = plan_prompt("[<lyco:a>::20] [<lyco:b>:20]", ("lyco",), 10).tags
    assert always == Tag.of("a")
    assert isinstance(never, Tag) and "turn it on at no step of 10" in never.notes[0]
    assert resolve(never, "sd1", 0, Presets.default())(ATTN) == 0


def test_bad_tags_between_brackets_stay_errors_and_others_are_left() -> None:
    plan = plan_prompt("[<lyco:a:x>:<lora:b:1>:3] c", ("lyco",), 10)
    assert [type(tag) for tag in plan.tags] == [TagError]
    assert [parts[0].text for parts in plan.parts] == ["c"] * 4 + ["<lora:b:1> c"] * 6


def test_and_splits_into_weighted_parts() -> None:
    plan = plan_prompt("a [b:c:3] AND d :0.7 <lyco:x> AND e: -1", ("lyco",), 5)
    assert [[(part.text, part.weight) for part in parts] for parts in plan.parts] == [
        *[[("a b", 1), ("d", 0.7), ("e", -1)]] * 4, [("a c", 1), ("d", 0.7), ("e", -1)],
    ]  # fmt: skip
    assert [part.text for part in plan_prompt("SAND and ANDY", (), 1).parts[0]] == ["SAND and ANDY"]
    assert plan_negative("a AND [b:c:1]", 3) == ("a AND b", "a AND b", "a AND c")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("normal text", [("normal text", 1)]),
        ("an (important) word", [("an ", 1), ("important", 1.1), (" word", 1)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        ("\\(literal\\]", [("(literal]", 1)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        ),
        ("a BREAK b", [("a", 1), BREAK, ("b", 1)]),
        ("(a BREAK b:2)", [("a", 2), BREAK, ("b", 2)]),
        ("", [("", 1)]),
        ("a:b) c]", [("a:b) c]", 1)]),
        ("\\\\(a)", [("\\", 1), ("a", 1.1)]),
    ],
)
def test_emphasis_is_the_webuis(text: str, expected: list[tuple[str, float]]) -> None:
    got = read_attention(text)
    assert [piece for piece, _ in got] == [piece for piece, _ in expected]
    assert [weight for _, weight in got] == pytest.approx([weight for _, weight in expected])


@pytest.mark.parametrize(("text", "says"), [("(a:1.2.3)", "1.2.3"), ("(a:99999999)", "too large"), ("(a" * 200, "more than 100 open (")])
def test_weights_that_are_none_are_refused(text: str, says: str) -> None:
    with pytest.raises(PromptError, match=says.replace("(", "\\(")):
        read_attention(text)


@pytest.mark.parametrize(
    "text", ["[" * 48_000, "[a:" * 16_000, "(" * 24_000 + ")" * 24_000, "[a|" * 99 + "b" + "]" * 99, "]" * 48_000, "a:" * 24_000]
)
def test_long_prompts_are_planned_in_no_time(text: str) -> None:
    began = time.process_time()
    plan_prompt(text, ("lyco",), 20)
    assert time.process_time() - began < 2


@given(st.text("[]():|\\ab 0.53<>lyco", max_size=40), st.integers(1, 12))
def test_any_text_has_a_plan(text: str, steps: int) -> None:
    plan = plan_prompt("<lyco:m>" + text, ("lyco",), steps)
    assert len(plan.parts) == steps and len([*plan.tags]) >= 1
    if not set("[|") & set(text):
        assert all(tag.during is None for tag in plan.tags if isinstance(tag, Tag))


def test_steps_are_counted_as_the_words_count_them() -> None:
    half = Schedule.constant(1).only_during((True, False))
    assert [half.value(step, 4) for step in range(4)] == [1, 0, 0, 0]  # whatever the count: image to image makes fewer steps than it says


def test_spans_are_where_the_text_encoders_strengths_stay() -> None:
    def spans(prompt: str) -> list[tuple[int, int]]:
        tags = plan_prompt(prompt, ("lyco",), 6).tags
        return text_spans([resolve(tag, "sdxl", 0, Presets.default()) for tag in tags if isinstance(tag, Tag)], 6)

    assert spans("<lyco:a:1:start=3>") == spans("[<lyco:a:0:1>::2]") == [(0, 5)] == spans("a")
    assert spans("[<lyco:a>::2] [<lyco:b:te=0:te2=1>:4]") == [(0, 2), (3, 4), (5, 5)]
    assert spans("<lyco:a:0@0,1@2>") == [(0, 0), (1, 1), (2, 5)]
