"""Another metadata for a safetensors file: a new header before the same bytes, and a small file from which the old one comes back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....errors import ToolError, reason
from ....networks.hashes import model_hash
from ....networks.reading.header import LARGEST_HEADER, Header, read_header
from ....plain_json import parse_json, read_json
from ....wording import storable
from ...jobs.progress import Progress
from ...units import megabytes
from ..output import Output, require_space

SUFFIX = ".metadata-undo"  # behind the whole name of the file, in its folder
LARGEST_UNDO = 6 * LARGEST_HEADER + 1000  # bytes: a header as a text in JSON, all of it escapes
FORMAT = 1
ALIGNED = 8  # bytes: where the data of a safetensors file begins


def undo_path(path: Path) -> Path:
    """Return where the old header of a file is kept."""
    return path.with_name(path.name + SUFFIX)


def with_metadata(header: Header, metadata: Mapping[str, str], name: str) -> bytes:
    """Return the bytes of a header with other metadata, its tensors as they are. Raises ToolError when it would be too large."""
    table = {key: entry for key, entry in parse_json(header.raw).items() if key != "__metadata__"}
    first = {"__metadata__": dict(metadata)} if metadata else {}
    text = json.dumps({**first, **table}, separators=(",", ":"), ensure_ascii=False)
    raw = storable(text).encode()
    raw += b" " * (-len(raw) % ALIGNED)
    if len(raw) > LARGEST_HEADER:
        raise ToolError(f"{name} would have a header of {megabytes(len(raw))}; the format allows {megabytes(LARGEST_HEADER)}")
    return raw


def rewrite(path: Path, save_to: Path, raw: bytes, progress: Progress) -> None:
    """Write a file's data behind another header: under another name, or in its place, where a whole file is at every moment."""
    start = read_header(path).data_start
    size = path.stat().st_size - start
    require_space(save_to.parent, size + len(raw), save_to.name)
    progress.start(size, save_to.name, unit="B")
    with path.open("rb", buffering=0) as source, Output(save_to) as output:
        output.write(len(raw).to_bytes(8, "little") + raw)
        output.copy(source, start, size, progress)


def keep_header(path: Path) -> Path:
    """Write down the header that a file has now; one that was kept of the same tensors before is older and stays."""
    undo, digest = undo_path(path), model_hash(path)
    if not undo.exists() or _kept(undo, path.name)["data_sha256"] != digest:
        facts = {"format": FORMAT, "data_sha256": digest, "header": read_header(path).raw.decode("utf-8", "surrogateescape")}
        with Output(undo) as output:
            output.write(json.dumps(facts).encode("utf-8"))
    return undo


def restore(path: Path, progress: Progress) -> None:
    """Give a file the header back that was kept, to the byte, and remove what was kept. Raises ToolError when the data is another now."""
    undo = undo_path(path)
    facts = _kept(undo, path.name)
    if facts["data_sha256"] != model_hash(path):
        raise ToolError(f"{path.name} has other tensors than {undo.name} was made for; nothing was changed")
    rewrite(path, path, facts["header"].encode("utf-8", "surrogateescape"), progress)
    undo.unlink()


def _kept(undo: Path, name: str) -> dict[str, Any]:
    try:
        facts = read_json(undo, LARGEST_UNDO)
        header = facts["header"].encode("utf-8", "surrogateescape")
        if facts["format"] != FORMAT or not isinstance(facts["data_sha256"], str) or not header:
            raise ValueError("it was written by another version")
    except FileNotFoundError as error:
        raise ToolError(f"there is no {undo.name} beside {name}: its metadata was not edited here, or it is restored already") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ToolError(f"{undo.name} is damaged ({reason(error)}); the metadata cannot be restored from it") from error
    return dict(facts)


def legacy_hash(path: Path, metadata: Mapping[str, str]) -> str:
    """Return kohya's old hash: of 64 kB that begin 1 MB into the file as it would be with the training's metadata only."""
    header = read_header(path)
    training = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    head = with_metadata(header, training, path.name)
    begin, end = 0x100000, 0x110000
    front = (len(head).to_bytes(8, "little") + head)[begin:end]
    offset = max(begin - 8 - len(head), 0)
    with path.open("rb") as file:
        file.seek(header.data_start + offset)
        return hashlib.sha256(front + file.read(end - begin - len(front))).hexdigest()[:8]
