"""The facts about network files between two starts: one file in the host's data folder, which may be deleted at any time.

Three lines of JSON: the version; path -> what a start needs; in the same order what only lists show, not parsed before it is asked for.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ...atomic import write_text
from ...plain_json import parse_json
from .facts import NetworkFacts

VERSION = 1  # of what the lines mean: an index of another number is not read
NAME = "index.json"
_HEAD = (int, int, str, str, bool)  # types of a row of the second line: stamp, alias, stored hash, described
_TAIL = (int, bool, str, str, str, str)  # of the third: entries, cover, version, and three tables as texts, which are read quickly
Row = list[Any]


class Index:
    """NetworkFacts by path; without a file it keeps them for this process alone."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._facts: dict[str, NetworkFacts] = {}
        self._stored = _Stored(path)
        self._lock = threading.Lock()
        self._changed = False

    def knows(self, path: str, stamp: tuple[int, int]) -> bool:
        """Tell whether the names in a file are known, as it is now."""
        found = self._facts.get(path)
        return found.stamp == stamp if found is not None else self._stored.stamp(path) == stamp

    def alias(self, path: str) -> str:
        """Return the alias that a file had when it was read; empty for none."""
        found = self._facts.get(path)
        return found.alias if found is not None else self._stored.alias(path)

    def described(self, path: str) -> bool:
        """Tell whether all facts about a file were known when it was read."""
        found = self._facts.get(path)
        return found.described if found is not None else self._stored.described(path)

    def get(self, path: str, stamp: tuple[int, int]) -> NetworkFacts | None:
        """Return the facts about a file as it is now; None where they are not known, or about an older state of the file."""
        found = self._facts.get(path)
        if found is None and (found := self._stored.facts(path)) is not None:
            self._facts[path] = found
        return found if found is not None and found.stamp == stamp else None

    def put(self, path: str, facts: NetworkFacts) -> None:
        """Keep the facts about a file."""
        self._facts[path] = facts
        self._changed = True

    def forget_broken(self) -> None:
        """Forget the files that could not be read: one that is being copied may have its time and size before its content."""
        for path in [path for path, facts in list(self._facts.items()) if facts.broken]:
            self._facts.pop(path, None)

    def save(self, present: Collection[str], folders: Sequence[Path]) -> None:
        """Write what is known of the present files, if it has changed; rows of others are kept while their files exist."""
        with self._lock:
            if self.path is None or not self._changed:
                return
            self._changed = False
            rows = {path: _rows(facts) for path in present if (facts := self._facts.get(path)) is not None and not facts.broken}
            places = tuple(f"{folder}{os.sep}" for folder in folders)
            for path, row in _Stored(self.path).rows():  # another process may have written since
                if path not in rows and (path in present or (not path.startswith(places) and os.path.exists(path))):
                    rows[path] = row
            self._write(self.path, rows)

    def _write(self, path: Path, rows: dict[str, tuple[Row, Row]]) -> None:
        lines = ({"version": VERSION}, {name: head for name, (head, _) in rows.items()}, [tail for _, tail in rows.values()])
        text = "\n".join(json.dumps(line, separators=(",", ":")) for line in lines)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text, "ascii")
        except OSError as error:
            reason = error.strerror or error
            print(f"LyCORIS: {path} cannot be written ({reason}); network files are read anew at the next start", file=sys.stderr)
            self.path = None


class _Stored:
    """The rows of an index file; none of one that is missing, damaged or of another version."""

    def __init__(self, path: Path | None) -> None:
        self._tail_text = "[]"
        self._heads: dict[str, Row] = {}
        try:
            lines = path.read_text(encoding="ascii").split("\n") if path is not None else []
            if len(lines) == 3 and parse_json(lines[0]) == {"version": VERSION}:
                heads = parse_json(lines[1])
                if all(_like(row, _HEAD) for row in heads.values()):
                    self._heads, self._tail_text = heads, lines[2]
        except (OSError, ValueError, AttributeError):
            self._heads = {}

    @cached_property
    def _tails(self) -> dict[str, Row]:
        try:
            found = parse_json(self._tail_text)
        except ValueError:
            found = None
        if not isinstance(found, list) or len(found) != len(self._heads):
            return {}
        return {path: row for path, row in zip(self._heads, found, strict=True) if _like(row, _TAIL)}

    def stamp(self, path: str) -> tuple[int, int] | None:
        head = self._heads.get(path)
        return (head[0], head[1]) if head else None

    def alias(self, path: str) -> str:
        head = self._heads.get(path)
        return str(head[2]) if head else ""

    def described(self, path: str) -> bool:
        head = self._heads.get(path)
        return bool(head and head[4])

    def rows(self) -> Iterable[tuple[str, tuple[Row, Row]]]:
        return [(path, (self._heads[path], tail)) for path, tail in self._tails.items()]

    def facts(self, path: str) -> NetworkFacts | None:
        head, tail = self._heads.get(path), self._tails.get(path) if path in self._heads else None
        if head is None or tail is None:
            return None
        changed, size, alias, stored_hash, described = head
        entries, cover, version, *texts = tail
        try:
            listed, algorithms, tags = ([line.split("\t") for line in text.split("\n") if line] for text in texts)
            return NetworkFacts(
                (changed, size), alias, stored_hash, dict(listed), entries, cover, described, version,
                {title: int(count) for title, count in algorithms}, tuple((tag, int(count)) for tag, count in tags),
            )  # fmt: skip
        except ValueError:
            return None


def _rows(facts: NetworkFacts) -> tuple[Row, Row]:
    tables = (facts.listed.items(), facts.algorithms.items(), facts.tags)
    texts = ["\n".join(f"{_line(key)}\t{_line(str(value))}" for key, value in table) for table in tables]
    head = [*facts.stamp, facts.alias, facts.stored_hash, facts.described]
    return head, [facts.entries, facts.cover, facts.version, *texts]


def _line(text: str) -> str:
    return text.replace("\t", " ").replace("\n", " ")


def _like(row: Any, types: tuple[type, ...]) -> bool:
    return isinstance(row, list) and tuple(map(type, row)) == types
