"""The header of a safetensors file, read by the format's own rules: what it says is checked against the file before anything is read.

The only reader of headers; free of torch, so that a folder of files can be listed without it.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field
from io import FileIO
from pathlib import Path
from stat import S_ISREG
from typing import Any

from ...errors import NetworkFormatError, kind_of
from ...records import dataclass
from ...wording import storable
from .foreign import content_name
from .table import DECODER, TensorInfo, decoded, read_table

LARGEST_HEADER = 100_000_000  # bytes, the format's own limit
LEADING = 1 << 16  # bytes of a file that are read first for its metadata, which ends within them in most files
SNIFFED = 1 << 10  # bytes by which a file that is none of ours is told
_SPACES = b" \t\r\n"  # that JSON knows
_BEHIND_METADATA = b'{"__metadata__":null'  # stands before the rest of a header whose metadata is read already
_START = re.compile(r'[ \t\r\n]*\{[ \t\r\n]*"__metadata__"[ \t\r\n]*:[ \t\r\n]*')


@dataclass(frozen=True)
class Header:
    """A header, parsed: the tensors in its order."""

    raw: bytes
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    order: tuple[str, ...] = field(default=())  # of all its entries, the metadata among them

    @property
    def data_start(self) -> int:
        """Where the data begins in the file, in bytes."""
        return 8 + len(self.raw)


def read_header(path: Path) -> Header:
    """Return a safetensors file's header. Raises NetworkFormatError naming the file, and what it is where it is none."""
    raw, room = raw_header(path)
    return parse(raw, path.name, room)


def parse(raw: bytes, name: str, room: int | None = None) -> Header:
    """Return the header in these bytes; room: bytes behind it, None where they do not matter. Raises NetworkFormatError naming the file."""
    metadata, end = leading_metadata(raw) or (None, 0)
    text = _BEHIND_METADATA + raw[end:].rstrip(_SPACES) if end else raw  # writers fill up with spaces, as many as the metadata makes it
    with _named(name):
        table = read_table(text, room)
        if end and table.metadata is not None:
            raise NetworkFormatError(" is damaged: its header has the entry __metadata__ twice; download it again")
    return Header(raw, table.tensors, _texts(metadata if end else table.metadata, name), table.order)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Put the file's name before what is said of its table."""
    try:
        yield
    except NetworkFormatError as error:
        raise NetworkFormatError(f"{name}{error}") from error.__cause__


def data_start(path: Path) -> int:
    """Return where the data of a safetensors file begins, in bytes."""
    with _opened(path) as file:
        return 8 + _length(file.read(SNIFFED), os.fstat(file.fileno()).st_size, path.name)


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata alone: without the table of tensors where it comes first, as nearly all writers put it."""
    with _opened(path) as file:
        start = file.read(8 + LEADING)
        length = _length(start, os.fstat(file.fileno()).st_size, path.name)
        raw = start[8 : 8 + length]
        found = leading_metadata(raw)
        if found is None and len(raw) < length:
            raw += _exactly(file, length - len(raw))
            found = leading_metadata(raw)
    with _named(path.name):
        metadata = found[0] if found else decoded(raw).get("__metadata__")
    return _texts(metadata, path.name)


def leading_metadata(raw: bytes) -> tuple[dict[str, Any], int] | None:
    """Return the metadata at the start of a header, and at which byte it ends; None where it is not there, or not whole."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(raw)  # a character that is cut at the end is no error
        start = _START.match(text)
        if start is None:
            return None
        found, end = DECODER.raw_decode(text, start.end())
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    return found, end if text.isascii() else len(text[:end].encode())


def raw_header(path: Path) -> tuple[bytes, int]:
    """Return a header as it is in the file, and how many bytes lie behind it."""
    with _opened(path) as file:
        start, size = file.read(8 + LEADING), os.fstat(file.fileno()).st_size
        length = _length(start, size, path.name)
        raw = start[8 : 8 + length]
        return raw + _exactly(file, length - len(raw)), size - 8 - length


def _opened(path: Path) -> FileIO:
    """Open a file; what is none, such as a pipe, would never come to an end."""
    if not S_ISREG(os.stat(path).st_mode):
        raise NetworkFormatError(f"{path.name} is no file; give a network file")
    return open(path, "rb", buffering=0)


def _length(start: bytes, size: int, name: str) -> int:
    """Return the length of the header of a file of this size that begins with these bytes."""
    length, table = header_length(start), looks_like_header(start)
    if table and length <= LARGEST_HEADER:
        if length > size - 8:
            raise NetworkFormatError(f"{name} is cut off: {8 + length - size:,} bytes of its header are missing; download it again")
    elif said := content_name(start[:SNIFFED], size):
        raise NetworkFormatError(f"{name} {said}")
    elif size < 8:
        raise NetworkFormatError(f"{name} is cut off: it has {size} bytes; download it again")
    else:
        raise NetworkFormatError(f"{name} is cut off or no safetensors file ({size} bytes); download it again")
    return length


def header_length(start: bytes) -> int:
    """Return the length of the header that the first eight bytes of a file say."""
    return int.from_bytes(start[:8], "little")


def looks_like_header(start: bytes) -> bool:
    """Tell whether a table begins behind the first eight bytes of a file: ``{``, which some writers put spaces before."""
    length = header_length(start)
    return length >= 2 and start[8 : 8 + length].lstrip(_SPACES).startswith(b"{")


def _exactly(file: Any, length: int) -> bytes:
    parts = []
    while length > 0 and (part := file.read(length)):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _texts(metadata: Any, name: str) -> dict[str, str]:
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise NetworkFormatError(f"{name}: its metadata is {kind_of(metadata)}, but a table of texts is expected; save it again")
    return {_text(key): _text(value) for key, value in metadata.items()}


def _text(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
    return storable(text)
