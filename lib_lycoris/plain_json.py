"""JSON that strangers wrote: read to a value, or refused by one kind of error, whatever it holds."""

from __future__ import annotations

import json
from typing import Any

LONGEST_NUMBER = 400  # digits: more is no count, size or strength, and takes a time that grows with the square of their number


def parse_json(text: str | bytes) -> Any:
    """Return the value that a JSON text has. Raises ValueError for one that is none, that nests too deeply or has endless numbers."""
    try:
        return json.loads(text, parse_int=_whole)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _whole(text: str) -> int:
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"a number in it has {len(text)} digits")
    return int(text)
