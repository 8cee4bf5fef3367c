"""What people chose on our pages, kept between visits in one small file; a broken or missing file means: nothing is kept yet."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

from ..atomic import write_text
from ..plain_json import parse_json


class Settings:
    """The kept values of the pages' fields: page -> field -> plain JSON value."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._values = _read(path)

    def get(self, page: str, field: str, default: Any = None) -> Any:
        """Return a kept value, or the default."""
        return self._values.get(page, {}).get(field, default)

    def keep(self, page: str, field: str, value: Any) -> None:
        """Keep a value; one that JSON cannot hold is not kept."""
        with self._lock:
            before = self._values.setdefault(page, {})
            if (field in before and before[field] == value) or not _plain(value):
                return
            before[field] = value
            self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._path, json.dumps(self._values, indent=1))
        except OSError as error:  # a full disk must not keep anybody from merging
            print(f"LyCORIS: {self._path} cannot be written ({error.strerror}); fields are not kept for the next visit", file=sys.stderr)
            self._path = None


def _plain(value: Any) -> bool:
    try:
        parse_json(json.dumps(value))
    except (TypeError, ValueError):
        return False
    return True


def _read(path: Path | None) -> dict[str, dict[str, Any]]:
    try:
        found = parse_json(path.read_text(encoding="utf-8")) if path is not None else {}
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {page: dict(fields) for page, fields in found.items() if isinstance(fields, dict)}
