"""The numbers people type in a tag: plain decimals, never NaN, infinite or absurdly large."""

from __future__ import annotations

import re
from typing import Union

from ..errors import PromptError, readable

LARGEST = 10_000  # of any number in a tag: half precision ends at 65504, and a strength far below it already wrecks every image
QUOTED = 40  # characters of the user's text that a sentence repeats
Moment = Union[int, float]  # of the sampling: a 1-based step, or, above 0 and below 1, a fraction of the steps

# No two parts can match the same digits: reading takes a time in proportion to the length, also where it fails.
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_DECIMAL_COMMA = re.compile(r"([+-]?\d*),(\d+)", re.ASCII)


def quoted(text: str) -> str:
    """Return what the user typed for a sentence: in quotation marks, cut when it is long."""
    text = text.strip()
    shown = readable(text[:QUOTED])
    return f'"{shown}"' if len(text) <= QUOTED else f'"{shown}..." ({len(text)} characters)'


def is_number(text: str) -> bool:
    """Say whether a text is written as a number (it may still be too large for one)."""
    return _NUMBER.fullmatch(text.strip()) is not None


def is_integer(text: str) -> bool:
    """Say whether a text is written as a whole number."""
    return _INTEGER.fullmatch(text.strip()) is not None


def decimal_comma(text: str) -> str | None:
    """Return `0.7` for `0,7`; None for a text that is no number with a decimal comma."""
    match = _DECIMAL_COMMA.fullmatch(text.strip())
    return f"{match[1]}.{match[2]}" if match else None


def parse_number(text: str, what: str) -> float:
    """Read a number of a usable size; `what` names it in the PromptError raised otherwise."""
    if not is_number(text):
        raise PromptError(f"{quoted(text)} is not {what}; give a number such as 0.7")
    value = float(text.strip())  # float() leaves separators such as \x1c, which strip() takes off
    if abs(value) > LARGEST:
        raise PromptError(f"{quoted(text)} is too large for {what}; give a number such as 0.7, from -{LARGEST} to {LARGEST}")
    return value + 0.0  # -0.0 becomes 0.0, so that equal values have equal digests


def parse_whole(text: str, what: str) -> int:
    """Read a whole number from 0 up; `what` names it in the PromptError raised otherwise."""
    value = float(text.strip()) if is_integer(text) else -1.0
    if value < 0:
        raise PromptError(f"{quoted(text)} is not {what}; give a whole number such as 8")
    if value > LARGEST:
        raise PromptError(f"{quoted(text)} is too large for {what}; give a whole number such as 8, up to {LARGEST}")
    return int(value)


def parse_moment(text: str, what: str) -> Moment:
    """Read a step, counted from 1, or a fraction of the steps (above 0, below 1); raise PromptError naming `what`."""
    text = text.strip()
    if is_number(text) and 0 < float(text) < 1:
        return float(text)
    if is_number(text) and not is_integer(text) and float(text).is_integer():
        text = text.partition(".")[0] or "0"
    if not is_integer(text) or text.startswith("-"):
        raise PromptError(f"{quoted(text)} is not {what}; give a whole number such as 8, or a fraction of the steps such as 0.4")
    return parse_whole(text, what)


def step_of(moment: Moment, steps: int) -> int:
    """Return the 1-based step that a moment is in a sampling of so many steps; 0 for a fraction before the first."""
    if 0 < moment < 1:
        return int(moment * steps + 1e-9)  # 0.58 of 50 is step 29, which floating point misses by a hair
    return int(moment)


def format_number(value: float) -> str:
    """Write a number so that reading it gives the same float, without a needless `.0`."""
    text = repr(float(value) + 0.0)
    return text[:-2] if text.endswith(".0") else text
