"""The jobs that ended, of earlier days too, one line of JSON each; and the folder that deleted results go to."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from ....atomic import write_text
from ....errors import ToolError
from ....plain_json import json_text, parse_json
from ....records import dataclass
from ....tools.jobs.queue import Job

KEPT = 300  # entries
NAME, DELETED = "results.jsonl", "deleted"


@dataclass(frozen=True)
class Entry:
    """One job that ended."""

    id: str
    tool: str
    when: float  # seconds since 1970
    seconds: float
    options: Mapping[str, Any]  # paths as texts
    outputs: tuple[Path, ...]

    @property
    def files(self) -> list[Path]:
        """The outputs that are still there."""
        return [path for path in self.outputs if path.exists()]


class History:
    """The list of results in a folder that people keep."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = Lock()

    def add(self, job: Job) -> None:
        """Keep a job that made files; a full disk keeps nobody from working."""
        if job.result is None or not job.result.outputs:
            return
        entry = {"id": job.id, "tool": job.tool, "when": job.ended_at, "seconds": job.seconds, "options": _plain(job.options),
                 "outputs": [str(path) for path in job.result.outputs]}  # fmt: skip
        with self._lock:
            lines = [*self._lines()[-(KEPT - 1) :], json_text(entry)]
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_text(self.folder / NAME, "\n".join(lines) + "\n")
            except OSError as error:
                print(f"LyCORIS: {self.folder / NAME} cannot be written ({error.strerror}); this job is not in the list of results")

    def entries(self) -> list[Entry]:
        """Return the entries, the newest first; a line that is none is left out."""
        found = (_entry(line) for line in reversed(self._lines()))
        return [entry for entry in found if entry is not None]

    def entry(self, name: str) -> Entry:
        """Return one entry. Raises ToolError if there is none of this id."""
        found = next((entry for entry in self.entries() if entry.id == name), None)
        if found is None:
            raise ToolError("this result is not in the list any more")
        return found

    def delete(self, paths: Sequence[Path]) -> Path:
        """Move files to the folder of deleted ones and return it. Raises ToolError if one cannot be moved."""
        place = self.folder / DELETED
        try:
            place.mkdir(parents=True, exist_ok=True)
            for path in paths:
                shutil.move(str(path), str(place / f"{time.time_ns()}-{path.name}"))
        except OSError as error:
            raise ToolError(f"{error.filename or paths[0].name} could not be moved to {place} ({error.strerror})") from error
        return place

    def deleted(self) -> tuple[int, int]:
        """Return how many files were deleted and are still there, and their bytes."""
        try:
            with os.scandir(self.folder / DELETED) as found:
                sizes = [one.stat().st_size for one in found]
        except OSError:
            return 0, 0
        return len(sizes), sum(sizes)

    def empty(self) -> None:
        """Remove what was deleted, for good. Raises ToolError if that fails."""
        try:
            shutil.rmtree(self.folder / DELETED)
        except FileNotFoundError:
            return
        except OSError as error:
            raise ToolError(f"{self.folder / DELETED} could not be emptied ({error.strerror})") from error

    def _lines(self) -> list[str]:
        try:
            return (self.folder / NAME).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return []


def _entry(line: str) -> Entry | None:
    try:
        found = parse_json(line)
        outputs = tuple(Path(str(path)) for path in found["outputs"])
        return Entry(str(found["id"]), str(found["tool"]), float(found["when"]), float(found["seconds"]), dict(found["options"]), outputs)
    except (ValueError, TypeError, KeyError):
        return None


def _plain(value: Any) -> Any:
    """Return options as plain JSON values."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool)) else str(value)
