"""The header of a GGUF file -> its tensors' places: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.

Versions 2 and 3, little-endian. What converters of image models add is known too: a kernel that was flattened so that its rows are whole
blocks has its own shape in the metadata.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from ....errors import NetworkFormatError, readable
from ....networks.reading.header import LARGEST_HEADER
from ....networks.reading.table import MOST_AXES, TensorInfo, is_shape
from ....records import dataclass
from .ggml_blocks import KINDS
from .packing import Blocks, PackedInfo

MAGIC = b"GGUF"
ALIGNMENT = 32  # bytes, where the file says nothing else
LARGEST_ALIGNMENT = 1 << 16
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."  # + a tensor's name: its shape before it was flattened
PLAIN = {0: "F32", 1: "F16", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 30: "BF16"}
PACKED = {
    2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 20: "IQ4_NL",
    23: "IQ4_XS",
}  # fmt: skip
OTHERS = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S", 29: "IQ1_M", 34: "TQ1_0",
    35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says of its tensors."""

    raw: bytes
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    data_start: int


def is_gguf(path: Path) -> bool:
    """Tell whether a file begins as one of GGUF's does."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_gguf(path: Path) -> GgufHeader:
    """Read a GGUF file's header. Raises NetworkFormatError naming the file, what is wrong or which type of blocks is not read."""
    with path.open("rb") as file:
        size = path.stat().st_size
        reader = _Reader(file, path.name, size)
        version, tensors, entries = reader.start()
        if version not in (2, 3):
            raise NetworkFormatError(f"{path.name} is a GGUF file of version {version}; versions 2 and 3 are read")
        facts = dict(reader.entry() for _ in range(entries))
        places = [reader.place() for _ in range(tensors)]
        end = file.tell()
        alignment = facts.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or not 1 <= alignment <= LARGEST_ALIGNMENT:
            raise reader.error(f"says that its data is aligned to {readable(alignment, 20)} bytes")
        start = -(-end // alignment) * alignment
        found = {name: _info(reader, facts, name, axes, kind, offset) for name, axes, kind, offset in places}
        if len(found) != len(places):
            raise reader.error("names a tensor twice")
        for name, info in found.items():
            if start + info.end > size:
                missing = start + info.end - size
                raise NetworkFormatError(f"{path.name} is cut off: {missing:,} bytes of {readable(name)} are missing; download it again")
        file.seek(0)
        texts = {key: value for key, value in facts.items() if isinstance(value, str)}
        return GgufHeader(file.read(end), found, texts, start)


def _info(reader: _Reader, facts: Mapping[str, Any], name: str, axes: tuple[int, ...], kind: int, offset: int) -> TensorInfo:
    original = facts.get(ORIGINAL_SHAPE + name)
    shape = tuple(original) if isinstance(original, list) and all(type(one) is int and one > 0 for one in original) else axes[::-1]
    if prod(shape) != prod(axes):
        raise reader.error(f"says that {readable(name)} {axes[::-1]} is {readable(shape, 60)}")
    if kind in PLAIN:
        return TensorInfo(PLAIN[kind], shape, offset)
    label = PACKED.get(kind)
    if label is None:
        what = OTHERS.get(kind, f"number {kind}")
        raise NetworkFormatError(
            f"{reader.name} keeps {readable(name)} in blocks of the type {what}, which is not read; read are {', '.join(PACKED.values())}"
        )
    length, size, _ = KINDS[label]
    if not axes or axes[0] % length:
        raise reader.error(f"keeps {readable(name)} {axes[::-1]} in blocks of {length} numbers, which its rows are not made of")
    return PackedInfo(label, shape, offset, packing=Blocks(label, length, size))


class _Reader:
    """Reads a header's values; none is believed to be longer than the file, and the header no longer than a header can be."""

    def __init__(self, file: BinaryIO, name: str, size: int) -> None:
        self.name = name
        self._file, self._left, self._whole = file, min(size, LARGEST_HEADER), size <= LARGEST_HEADER

    def error(self, what: str) -> NetworkFormatError:
        return NetworkFormatError(f"{self.name} is damaged: its GGUF header {what}; download it again")

    def _bytes(self, count: int) -> bytes:
        if count > self._left:
            raise self.error("ends too early" if self._whole else "has no end")
        self._left -= count
        return self._file.read(count)

    def _number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self._bytes(struct.calcsize(form)))[0]

    def start(self) -> tuple[int, int, int]:
        """Return (version, count of tensors, count of entries)."""
        self._bytes(len(MAGIC))
        version = self._number("I")
        if version not in (2, 3):
            return version, 0, 0
        tensors, entries = self._number("Q"), self._number("Q")
        if (tensors * 24 + entries * 13) > self._left:  # the least that they take
            raise self.error(f"says that it has {tensors:,} tensors and {entries:,} entries, which do not fit into the file")
        return version, tensors, entries

    def _text(self) -> str:
        return self._bytes(self._number("Q")).decode("utf-8", "replace")

    def entry(self) -> tuple[str, Any]:
        """Return the next entry of the metadata; a list of numbers is a list, of texts or lists is left out (None)."""
        name = self._text()
        return name, self._value(self._number("I"), 0)

    def _value(self, kind: int, depth: int) -> Any:
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind == _TEXT:
            return self._text()
        if kind != _ARRAY or depth > 4:
            raise self.error(f"has a value of the type {kind}")
        inner, length = self._number("I"), self._number("Q")
        if inner in _NUMBERS:
            width = struct.calcsize(_NUMBERS[inner])
            data = self._bytes(length * width)
            return list(struct.unpack(f"<{length}{_NUMBERS[inner]}", data)) if length <= MOST_AXES else None
        if length > self._left:
            raise self.error("ends too early")
        for _ in range(length):
            self._value(inner, depth + 1)
        return None

    def place(self) -> tuple[str, tuple[int, ...], int, int]:
        """Return the next tensor's (name, lengths of its axes from the innermost, type, offset)."""
        name = self._text()
        count = self._number("I")
        axes = tuple(self._number("Q") for _ in range(min(count, MOST_AXES + 1)))
        if not is_shape(axes):
            raise self.error(f"gives {readable(name)} axes that no tensor has")
        kind, offset = self._number("I"), self._number("Q")
        return name, axes, kind, offset
