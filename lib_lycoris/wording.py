"""Counts and times in sentences: every number with a noun, and every duration, is written by one function."""

from __future__ import annotations


def storable(text: str) -> str:
    """Return a text as a file and a page can hold it: half a character, as a name that is no UTF-8 has for each such byte, becomes "?"."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def counted(count: int, one: str, many: str = "") -> str:
    """Return a number with its noun: "1 layer", "2,000 layers"; many: a plural that is not formed with -s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def took(seconds: float) -> str:
    """Return how long a job ran."""
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def remaining(seconds: float) -> str:
    """Return how long something still takes."""
    return f"{duration(seconds)} left" if seconds >= 0.5 else "finishing ..."


def duration(seconds: float) -> str:
    """Return seconds in the unit that fits them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
