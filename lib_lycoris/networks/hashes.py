"""The hashes that programs know network files by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .reading.folder import file_of
from .reading.header import data_start

if TYPE_CHECKING:
    from hashlib import _Hash

CHUNK = 1 << 20  # bytes, which stay in the processor's cache from the system's to the hash


def sha256(path: str | Path) -> str:
    """Return the hash of the whole file, as model sites list it; of a folder that of the network in it."""
    return _sha256_from(file_of(Path(path)), 0)


def model_hash(path: str | Path) -> str:
    """Return kohya's ``sshs_model_hash`` as the webui computes it: of everything behind a safetensors file's header."""
    path = Path(path)
    return _sha256_from(path, data_start(path)) if path.suffix.lower() == ".safetensors" else sha256(path)


def short(digest: str) -> str:
    """Return the first 12 characters, as infotexts show a hash; without LyCORIS' own ``0x``."""
    return digest.removeprefix("0x")[:12]


def _sha256_from(path: Path, offset: int) -> str:
    digest = hashlib.sha256()
    for _ in added(digest, path, offset):
        pass
    return digest.hexdigest()


def added(digest: _Hash, path: Path, begin: int = 0, end: int | None = None) -> Iterator[int]:
    """Add a file's bytes from a place on, to another one or the end, to a hash; give how many were added each time. Raises OSError."""
    memory = memoryview(bytearray(CHUNK))  # one for all pieces: new memory is made page by page
    with path.open("rb", buffering=0) as file:
        file.seek(begin)
        while count := file.readinto(memory if end is None else memory[: end - begin]):
            digest.update(memory[:count])
            begin += count
            yield count
