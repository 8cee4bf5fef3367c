"""The numbers people type in a tag: plain decimals, never NaN or infinite."""

from __future__ import annotations

import math
import re

from ..errors import PromptError

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)


def is_number(text: str) -> bool:
    """Say whether a text is written as a number (it may still be too large for one)."""
    return _NUMBER.fullmatch(text.strip()) is not None


def is_integer(text: str) -> bool:
    """Say whether a text is written as a whole number."""
    return _INTEGER.fullmatch(text.strip()) is not None


def parse_number(text: str, what: str) -> float:
    """Read a finite number; `what` names it in the PromptError raised otherwise."""
    if not is_number(text):
        raise PromptError(f'"{text.strip()}" is not {what}; give a number such as 0.7')
    value = float(text)
    if not math.isfinite(value):
        raise PromptError(f'"{text.strip()}" is too large for {what}; give a number such as 0.7')
    return value + 0.0  # -0.0 becomes 0.0, so that equal values have equal digests


def parse_whole(text: str, what: str) -> int:
    """Read a whole number from 0 up; `what` names it in the PromptError raised otherwise."""
    if not is_integer(text) or int(text) < 0:
        raise PromptError(f'"{text.strip()}" is not {what}; give a whole number such as 8')
    return int(text)


def format_number(value: float) -> str:
    """Write a number so that reading it gives the same float, without a needless `.0`."""
    text = repr(float(value) + 0.0)
    return text[:-2] if text.endswith(".0") else text
