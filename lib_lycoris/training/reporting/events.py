"""How a run is followed and stopped from outside: a file of JSON lines, and a file whose being there means stop."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from ...atomic import write_text
from ...plain_json import parse_json
from ...tools.training.runs import PROGRESS, STOP


class Events:
    """Writes what happens; the same for a terminal, in words."""

    def __init__(self, folder: Path, quiet: bool = False) -> None:
        self.path, self.stop_file, self.quiet = folder / PROGRESS, folder / STOP, quiet
        self.started = time.monotonic()
        self._next = 0.0
        self.begun = False
        self.wished = False  # that the run stops, by a signal

    def begin(self, step: int) -> None:
        """Keep the lines of the steps that stay done, remove the others and an old wish to stop."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.stop_file.unlink(missing_ok=True)
        kept = [line for line in _lines(self.path) if line.get("step", 0) <= step] if step else []
        self.begun = True
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def tell(self, kind: str, words: str = "", **facts: Any) -> None:
        """Write one line; ``words``: for people, who see not more than two a second of one kind."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": kind, "time": round(time.time(), 3), **facts}) + "\n")
        if words and not self.quiet:
            print(words, file=sys.stderr, flush=True)

    def step(self, words: str, **facts: Any) -> None:
        """Write the line of a step."""
        now = time.monotonic()
        shown = now >= self._next
        self._next = now + 2.0 if shown else self._next
        self.tell("step", words if shown else "", **facts)

    @property
    def stopped(self) -> bool:
        """Whether somebody wants the run to stop."""
        return self.wished or self.stop_file.exists()


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file; the last may be half of one, after a crash."""
    found = []
    for text in path.read_text("utf-8").splitlines() if path.is_file() else ():
        try:
            found.append(parse_json(text))
        except ValueError:
            break
    return found
