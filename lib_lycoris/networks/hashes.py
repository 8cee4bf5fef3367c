"""The hashes that programs know network files by."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .reading.folder import file_of
from .reading.header import data_start

CHUNK = 1 << 20  # bytes


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
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
