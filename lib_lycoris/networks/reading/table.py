"""The table of tensors in a header: what it says is checked entry by entry, and against the size of the file.

The latest tables are kept, by their text: the files of one trainer have the same table to the byte. Errors are in words that follow the
file's name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any

from ...errors import NetworkFormatError, readable, reason
from ...records import dataclass
from .dtypes import BYTES

MOST_AXES = 8  # no weight has more than 5
LARGEST_COUNT = 1 << 62  # numbers, those of empty axes counted as one: torch multiplies in 64 bits, whatever comes of it
KEPT_TABLES, LARGEST_KEPT = 8, 1 << 20  # bytes of text; thousands of tensors have less
_LONG_NUMBER = 19  # digits; a larger offset is in no file


def _whole(text: str) -> int:
    if len(text) > _LONG_NUMBER:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


DECODER = json.JSONDecoder(parse_int=_whole)


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
class Table:
    """A header without what its metadata says elsewhere: the tensors in its order."""

    tensors: Mapping[str, TensorInfo]
    metadata: Any  # as the table has it; may be no table of texts
    order: tuple[str, ...]  # of all entries, the metadata among them


def read_table(text: bytes, room: int | None = None) -> Table:
    """Return the table in a header's text; room: bytes of data behind it, which the tensors must fill. Raises NetworkFormatError."""
    return _kept(text, room) if len(text) <= LARGEST_KEPT else _read(text, room)


def _read(text: bytes, room: int | None) -> Table:
    table = decoded(text)
    _check_names(table)
    order = tuple(table)
    metadata = table.pop("__metadata__", None)
    tensors = {key: _info(key, entry) for key, entry in table.items()}
    if room is not None:
        _check_layout(tensors, room)
    return Table(tensors, metadata, order)


_kept = lru_cache(KEPT_TABLES)(_read)


def decoded(text: bytes) -> dict[str, Any]:
    """Return a header's text as the table that it must be. Raises NetworkFormatError."""
    try:
        table = DECODER.decode(text.decode("utf-8"))
    except RecursionError as error:
        raise NetworkFormatError(" is no safetensors file: its header is nested without end") from error
    except ValueError as error:
        raise NetworkFormatError(f" is no safetensors file: its header is not JSON ({reason(error)}); download it again") from error
    if not isinstance(table, dict):
        raise NetworkFormatError(" is no safetensors file: its header is not a table of tensors; download it again")
    return table


def _check_names(table: dict[str, Any]) -> None:
    """Raise for a key that is no text: half of a surrogate pair, which JSON can hold and no file can be written with."""
    for key in table:
        if not key.isascii() and any(0xD800 <= ord(character) < 0xE000 for character in key):
            raise NetworkFormatError(f" is damaged: the name of a tensor, {readable(key)}, is no valid text; download it again")


def _info(key: str, entry: Any) -> TensorInfo:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        sound = isinstance(dtype, str) and isinstance(shape, list) and all(type(number) is int for number in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        sound = False
    if not sound:
        raise NetworkFormatError(f": the header's entry for {readable(key)} cannot be understood; download it again")
    if dtype not in BYTES:
        raise NetworkFormatError(
            f": {readable(key)} is of the type {readable(dtype, 20)}, which is not read here; the file is whole, "
            f"save it in one of {', '.join(BYTES)}"
        )
    if len(shape) > MOST_AXES or min(shape, default=0) < 0 or not 0 <= begin <= end:
        raise NetworkFormatError(f": the shape or the place of {readable(key)} cannot be right; download it again")
    info = TensorInfo(dtype, tuple(shape), begin)
    if info.size != end - begin:
        shown = readable(str(info.shape), 60)
        raise NetworkFormatError(f": {readable(key)} {shown} of type {dtype} does not fill its {end - begin} bytes; download it again")
    if not is_shape(shape):
        raise NetworkFormatError(f": the shape of {readable(key)} cannot be right; download it again")
    return info


def is_shape(shape: Sequence[int]) -> bool:
    """Tell whether a tensor can have these lengths of its axes."""
    return len(shape) <= MOST_AXES and min(shape, default=0) >= 0 and prod(max(1, length) for length in shape) <= LARGEST_COUNT


def _check_layout(tensors: Mapping[str, TensorInfo], room: int) -> None:
    """Raise where the data is not the tensors one behind the other, without gaps and overlaps, to the file's end."""
    ordered = sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].size))
    end = max((info.end for info in tensors.values()), default=0)
    if end > room:
        last = ordered[-1][0]
        raise NetworkFormatError(
            f" is cut off: {end - room:,} of its {end:,} bytes are missing ({readable(last)} is incomplete); download it again"
        )
    reached = 0
    for key, info in ordered:
        if info.begin != reached:
            what = "overlaps the tensor before it" if info.begin < reached else f"lies behind a hole of {info.begin - reached:,} bytes"
            raise NetworkFormatError(f" is damaged: {readable(key)} {what}; download it again")
        reached = info.begin + info.size
    if reached != room:
        raise NetworkFormatError(f" is damaged: {room - reached:,} bytes behind its last tensor belong to none; download it again")
