"""JSON that strangers wrote: read to a value, or refused by one kind of error, whatever it holds; and written, whatever it holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from stat import S_ISREG
from typing import Any

from .wording import storable

LARGEST_FILE = 4 << 20  # bytes; a list of a million nothings becomes a hundred times that in memory
LONGEST_NUMBER = 400  # digits: more is no count, size or strength, and takes a time that grows with the square of their number


def parse_json(text: str | bytes) -> Any:
    """Return the value that a JSON text has. Raises ValueError for one that is none, that nests too deeply or has endless numbers."""
    try:
        return json.loads(text, parse_int=_whole)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path, largest: int = LARGEST_FILE) -> Any:
    """Return the value in a JSON file. Raises OSError, and ValueError for one that is none, is no file or has more bytes than that."""
    info = path.stat()
    if not S_ISREG(info.st_mode):
        raise ValueError("it is no file")
    if info.st_size > largest:
        raise ValueError(f"it has {info.st_size:,} bytes, more than any such file")
    return parse_json(path.read_text("utf-8-sig"))


def plain(value: Any) -> Any:
    """Return a value as every reader of JSON takes it: no tuples, paths, numbers that are none or halves of characters."""
    if isinstance(value, Mapping):
        return {storable(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if isfinite(value) else None
    return value if value is None or isinstance(value, (int, bool)) else storable(str(value))


def json_text(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON that can be written: with its letters as they are, or in escapes where one is half a character."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return text if storable(text) == text else json.dumps(value, indent=indent)


def _whole(text: str) -> int:
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"a number in it has {len(text)} digits")
    return int(text)
