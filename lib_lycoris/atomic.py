"""Files written beside their place and renamed when they are whole: a killed run leaves the old file or the new one, never a half.

The one way to write a file. What runs left that were killed is told by the name - the process, the thread and the machine that wrote it -
and removed by the next run: `removed_leftovers`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ENDING = ".part"
LONGEST = 160  # bytes of a target's name that stay in the name beside it; file systems allow 255
_LEFT = re.compile(r"\..*\.(?P<machine>[0-9a-f]{6})-(?P<process>\d+)-\d+\.part")


def beside(path: Path) -> Path:
    """Return a name next to a file's that no other writer uses: another thread, process or machine."""
    start = path.name.encode("utf-8", "surrogateescape")[:LONGEST].decode("utf-8", "ignore")
    return path.with_name(f".{start}.{_machine()}-{os.getpid()}-{threading.get_ident()}{ENDING}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name to write to: on a normal end it becomes this file, on any other it is gone and what was there stays. Raises OSError."""
    part = beside(path)
    try:
        yield part
        _put_on_disk(part)
        os.replace(part, path)
    finally:
        with suppress(OSError):  # of a disk that is gone; what counts is the first error
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str, encoding: str = "utf-8") -> None:
    """Write a text file as a whole or not at all. Raises OSError."""
    with replacing(path) as part:
        part.write_text(text, encoding=encoding)


def removed_leftovers(folder: Path) -> list[str]:
    """Remove what processes of this machine that are gone left half-written in a folder; return the names."""
    removed = []
    for name in _names(folder):
        match = _LEFT.fullmatch(name)
        if match and match["machine"] == _machine() and not _alive(int(match["process"])):
            place = folder / name
            with suppress(OSError):  # another run removed it in the same moment
                shutil.rmtree(place) if place.is_dir() else place.unlink()
                removed.append(name)
    return removed


def _names(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if name.startswith(".") and name.endswith(ENDING)]
    except OSError:
        return []


def _machine() -> str:
    """Return a short name of this machine or container: process numbers mean nothing on another one that shares the folder."""
    return hashlib.blake2b(socket.gethostname().encode(), digest_size=3).hexdigest()


def _alive(process: int) -> bool:
    if os.name != "posix":
        return True  # Windows has no harmless signal, and does not let an open file be removed anyway
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's, or no number of a process
        return True
    return True


def _put_on_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
