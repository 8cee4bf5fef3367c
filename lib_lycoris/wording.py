"""Counts in sentences: every number with a noun is written by one function."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """Return a number with its noun: "1 layer", "2,000 layers"; many: a plural that is not formed with -s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
