"""The hash by which model sites know a checkpoint: of its whole file, read once and then kept with the file's size and time."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from ...atomic import write_text
from ...networks.hashes import sha256
from ...plain_json import parse_json

NAME = "model-hashes.json"
SHOWN = 10  # characters in an infotext, as the webui writes them
KEPT = 200  # files


def model_file_hash(path: Path, data: Path | None) -> str:
    """Return the short hash of a checkpoint file, kept in a data folder if there is one; raise OSError if the file cannot be read."""
    info = path.stat()
    key = f"{path.resolve()}|{info.st_size}|{info.st_mtime_ns}"
    known = _read(data)
    if key not in known:
        known[key] = sha256(path)
        _write(data, known)
    return known[key][:SHOWN]


def _read(data: Path | None) -> dict[str, str]:
    try:
        found = parse_json((data / NAME).read_text(encoding="utf-8")) if data is not None else {}
    except (OSError, ValueError):  # not there yet, or damaged: it is made again
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _write(data: Path | None, known: dict[str, str]) -> None:
    if data is None:
        return
    with suppress(OSError):  # a folder that takes no files costs the next run the time again, nothing else
        data.mkdir(parents=True, exist_ok=True)
        write_text(data / NAME, json.dumps(dict(list(known.items())[-KEPT:])))
