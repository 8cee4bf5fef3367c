"""Patterns out of PEFT's configs mean what PEFT's regular expressions mean, and cost no more than their length times the name's."""

from __future__ import annotations

import random
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_lycoris.errors import NetworkFormatError
from lib_lycoris.networks.settings.name_patterns import (
    MOST_EXPRESSIONS,
    MOST_FORMS,
    Endings,
    NameTable,
    check_work,
    covers,
    ends_with,
    found_in,
)

NAMES = [
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.0.resnets.0.conv1",
    "mid_block.attentions.0.proj_in",
    "to_q",
    "text_model.encoder.layers.11.self_attn.q_proj",
    "xto_q",
]
PATTERNS = [
    "to_q", "attn1.to_q", r"down_blocks\.0\.resnets.*", r".*attn\d\.to_k", r"^down_blocks\.0\.resnets\.0\.conv1", r"^down_blocks.*to_q",
    r"layers\.(1|11)\.self_attn\.(q|k|v)_proj", r"(?:down|mid)_block.*", "attn[12].to_[a-r]", r"\w+\.\d+\.conv1", "conv1$",
    "to_.", "a*to_q",
    "[^x]to_q", "", "proj_in|to_q", r"layers.1+.*proj", "layers.?1+?.*q_proj",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_means_what_it_means_in_peft(pattern: str) -> None:
    for name in NAMES:
        assert ends_with(pattern, name) == bool(re.match(rf"(.*\.)?({pattern})$", name)), name
        if pattern:
            assert covers(pattern, name) == bool(re.fullmatch(pattern, name)), name


PARTS = st.sampled_from(["a", "b", ".", r"\.", r"\d", r"\w", "[ab]", "1", "_"])
ATOMS = st.recursive(
    PARTS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from("*+?")).map(lambda two: f"({two[0]}){two[1]}"),
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(ATOMS, st.text("ab.1_", max_size=8))
def test_patterns_agree_with_regular_expressions(pattern: str, name: str) -> None:
    assert ends_with(pattern, name) == bool(re.match(rf"(.*\.)?({pattern})$", name))
    assert covers(pattern, name) == bool(re.fullmatch(pattern, name))


@pytest.mark.parametrize("pattern", [r"(a)\1", "(?=a)", "a{2}", "(", "a)", "**", "[", r"\b", "^a|b", "a" * 501 + "*", "(" * 30 + ")" * 30])
def test_what_is_not_read_is_refused_by_name(pattern: str) -> None:
    with pytest.raises(NetworkFormatError, match=r"adapter_config\.json"):
        ends_with(pattern, "down_blocks.0.to_q")


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|a)*b", "(.*)*b", "(a*)*(a*)*(a*)*b"])
def test_no_pattern_takes_long(pattern: str) -> None:
    began = time.process_time()
    assert not covers(pattern, "a" * 400 + "c")
    assert time.process_time() - began < 1


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.one_of(st.text("ab._", max_size=5), ATOMS), st.integers(0, 9), max_size=8), st.text("ab._", max_size=8))
def test_a_table_says_what_its_first_fitting_pattern_says(table: dict[str, int], name: str) -> None:
    assert NameTable(table, "x").first(name) == next((value for pattern, value in table.items() if ends_with(pattern, name)), None)


@given(st.sets(st.text("ab.", max_size=4), max_size=6), st.text("ab.", max_size=6))
def test_ends_are_found_as_one_by_one(ends: set[str], name: str) -> None:
    assert Endings(ends).end(name) == any(name.endswith(end) for end in ends)


@given(st.text("ab.", max_size=4), st.text("ab.", max_size=7))
def test_plain_names_are_found_as_by_re_search(pattern: str, name: str) -> None:
    assert found_in(pattern, name, "x") == bool(re.search(pattern, name))


def test_large_tables_take_no_time() -> None:
    table = NameTable({f"blocks.{n:05}.to_q": n for n in range(20_000)}, "x")
    began = time.process_time()
    assert [table.first(f"unet.blocks.{n:05}.to_q") for n in range(0, 20_000, 10)] == list(range(0, 20_000, 10))
    assert time.process_time() - began < 1


@pytest.mark.parametrize("table", [{"a" * n: 1 for n in range(MOST_FORMS + 1)}, {f"(a|{n})": 1 for n in range(MOST_EXPRESSIONS + 1)}])
def test_tables_that_no_trainer_writes_are_refused(table: dict[str, int]) -> None:
    with pytest.raises(NetworkFormatError, match=r"rank_pattern has more patterns of different kinds"):
        NameTable(table, "rank_pattern")


def test_a_pattern_with_too_many_ways_is_refused_for_the_whole_file() -> None:
    names = ["".join(choice("ab") for _ in range(300)) for choice in (random.Random(n).choice for n in range(300))]
    began = time.process_time()
    with pytest.raises(NetworkFormatError, match="more ways to fit the names of this file"):
        check_work(".*a" + "." * 400 + "(a|b)", names)
    assert time.process_time() - began < 3
    check_work(r"down_blocks\.\d+\..*(to_q|to_k)", NAMES * 300)
