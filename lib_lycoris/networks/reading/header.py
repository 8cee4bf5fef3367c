"""The header of a safetensors file, read by the format's own rules: what it says is checked against the file before anything is read.

The only reader of headers; free of torch, so that a folder of files can be listed without it.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from ...errors import NetworkFormatError, readable
from .dtypes import BYTES
from .foreign import content_name

LARGEST_HEADER = 100_000_000  # bytes, the format's own limit
MOST_AXES = 8  # no weight has more than 5
LEADING = 1 << 16  # bytes of a file that are read first for its metadata, which ends within them in most files
SNIFFED = 1 << 10  # bytes by which a file that is none of ours is told
_LONG_NUMBER = 19  # digits; a larger offset is in no file
_START = re.compile(r'\s*\{\s*"__metadata__"\s*:\s*')


def _whole(text: str) -> int:
    if len(text) > _LONG_NUMBER:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


_DECODER = json.JSONDecoder(parse_int=_whole)


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor of a file is, and what; the dtype in safetensors' spelling."""

    dtype: str
    shape: tuple[int, ...]
    begin: int = 0  # bytes from the start of the data
    stride: tuple[int, ...] | None = None  # in values, where they do not lie one behind the other: pickles only

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return prod(self.shape) * BYTES[self.dtype]

    @property
    def end(self) -> int:
        """Where its bytes end, counted from the start of the data."""
        if self.stride is None:
            return self.begin + self.size
        return self.begin + (1 + sum((length - 1) * step for length, step in zip(self.shape, self.stride))) * BYTES[self.dtype]


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
    header = parse(raw, path.name)
    _check_layout(header.tensors, room, path.name)
    return header


def parse(raw: bytes, name: str) -> Header:
    """Return the header in these bytes, whatever lies behind them. Raises NetworkFormatError naming the file."""
    table = _table(raw, name)
    _check_names(table, name)
    order = tuple(table)
    metadata = _texts(table.pop("__metadata__", None), name)
    return Header(raw, {key: _info(name, key, entry) for key, entry in table.items()}, metadata, order)


def data_start(path: Path) -> int:
    """Return where the data of a safetensors file begins, in bytes."""
    with open(path, "rb", buffering=0) as file:
        return 8 + _length(file.read(SNIFFED), os.fstat(file.fileno()).st_size, path.name)


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata alone: without the table of tensors where it comes first, as nearly all writers put it."""
    with open(path, "rb", buffering=0) as file:
        start = file.read(8 + LEADING)
        length = _length(start, os.fstat(file.fileno()).st_size, path.name)
        raw = start[8 : 8 + length]
        found = leading_metadata(raw)
        if found is None and len(raw) < length:
            raw += _exactly(file, length - len(raw))
            found = leading_metadata(raw)
    return _texts(found[0] if found else _table(raw, path.name).get("__metadata__"), path.name)


def leading_metadata(raw: bytes) -> tuple[dict[str, Any], int] | None:
    """Return the metadata at the start of a header, and at which byte it ends; None where it is not there, or not whole."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(raw)  # a character that is cut at the end is no error
        start = _START.match(text)
        if start is None:
            return None
        found, end = _DECODER.raw_decode(text, start.end())
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    return found, end if text.isascii() else len(text[:end].encode())


def raw_header(path: Path) -> tuple[bytes, int]:
    """Return a header as it is in the file, and how many bytes lie behind it."""
    with open(path, "rb", buffering=0) as file:
        start, size = file.read(8 + LEADING), os.fstat(file.fileno()).st_size
        length = _length(start, size, path.name)
        raw = start[8 : 8 + length]
        return raw + _exactly(file, length - len(raw)), size - 8 - length


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
    return length >= 2 and start[8 : 8 + length].lstrip(b" \t\r\n").startswith(b"{")


def _exactly(file: Any, length: int) -> bytes:
    parts = []
    while length > 0 and (part := file.read(length)):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _table(raw: bytes, name: str) -> dict[str, Any]:
    try:
        table = _DECODER.decode(raw.decode("utf-8"))
    except RecursionError as error:
        raise NetworkFormatError(f"{name} is no safetensors file: its header is nested without end") from error
    except ValueError as error:
        said = readable(str(error), 80)
        raise NetworkFormatError(f"{name} is no safetensors file: its header is not JSON ({said}); download it again") from error
    if not isinstance(table, dict):
        raise NetworkFormatError(f"{name} is no safetensors file: its header is not a table of tensors; download it again")
    return table


def _check_names(table: dict[str, Any], name: str) -> None:
    """Raise for a key that is no text: half of a surrogate pair, which JSON can hold and no file can be written with."""
    for key in table:
        if not key.isascii() and any(0xD800 <= ord(character) < 0xE000 for character in key):
            raise NetworkFormatError(f"{name} is damaged: the name of a tensor, {readable(key)}, is no valid text; download it again")


def _texts(metadata: Any, name: str) -> dict[str, str]:
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise NetworkFormatError(f"{name}: its metadata is a {type(metadata).__name__}, but a table of texts is expected; save it again")
    return {_text(key): _text(value) for key, value in metadata.items()}


def _text(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _info(name: str, key: str, entry: Any) -> TensorInfo:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        sound = isinstance(dtype, str) and isinstance(shape, list) and all(type(number) is int for number in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        sound = False
    if not sound:
        raise NetworkFormatError(f"{name}: the header's entry for {readable(key)} cannot be understood; download it again")
    if dtype not in BYTES:
        raise NetworkFormatError(
            f"{name}: {readable(key)} is of the type {readable(dtype, 20)}, which is not read here; the file is whole, "
            f"save it in one of {', '.join(BYTES)}"
        )
    if len(shape) > MOST_AXES or min(shape, default=0) < 0 or not 0 <= begin <= end:
        raise NetworkFormatError(f"{name}: the shape or the place of {readable(key)} cannot be right; download it again")
    info = TensorInfo(dtype, tuple(shape), begin)
    if info.size != end - begin:
        shown = readable(str(info.shape), 60)
        raise NetworkFormatError(
            f"{name}: {readable(key)} {shown} of type {dtype} does not fill its {end - begin} bytes; download it again"
        )
    return info


def _check_layout(tensors: Mapping[str, TensorInfo], room: int, name: str) -> None:
    """Raise where the data is not the tensors one behind the other, without gaps and overlaps, to the file's end."""
    ordered = sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].size))
    end = max((info.end for info in tensors.values()), default=0)
    if end > room:
        last = ordered[-1][0]
        raise NetworkFormatError(
            f"{name} is cut off: {end - room:,} of its {end:,} bytes are missing ({readable(last)} is incomplete); download it again"
        )
    reached = 0
    for key, info in ordered:
        if info.begin != reached:
            what = "overlaps the tensor before it" if info.begin < reached else f"lies behind a hole of {info.begin - reached:,} bytes"
            raise NetworkFormatError(f"{name} is damaged: {readable(key)} {what}; download it again")
        reached = info.begin + info.size
    if reached != room:
        raise NetworkFormatError(f"{name} is damaged: {room - reached:,} bytes behind its last tensor belong to none; download it again")
