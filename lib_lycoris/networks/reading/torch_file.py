"""A file of torch.save -> where its tensors lie: the zip of today and the older form of several pickles one behind the other.

The tensors are then read as those of a safetensors file are, when they are asked for. Archives that hold anything but what torch.save
writes are refused: a TorchScript archive runs code of its own when torch opens it.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, BinaryIO

from ...errors import NetworkFormatError, kind_of, readable, reason
from ...records import dataclass
from .dtypes import BYTES
from .foreign import PICKLE, content_name, tensors_name
from .header import SNIFFED
from .table import TensorInfo
from .unpickle import NotPlainError, Storage, StoredTensor, unpickle

MAGIC = 0x1950A86A20F9469CFC6C  # what the older form begins with
PROTOCOL = 1001
LARGEST_PICKLE = 64 << 20  # bytes without the tensors
MOST_MEMBERS = 100_000
MOST_SHARED = 4  # times that the bytes of a file may be used by its tensors together
NUMBERS = (".alpha", ".scale", ".on_input", ".scalar")  # what would change a network's strength if it were left out
_MEMBER = re.compile(r"(data\.pkl|data/\d+|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id)")
_SCRIPT = re.compile(r"(code/|constants\.pkl|constants/|extra/|.*\.py$)")
Places = dict[str, tuple[int, int]]  # storage -> its first byte in the file, and how many


@dataclass(frozen=True)
class Opened:
    """What a file of torch.save holds."""

    tensors: Mapping[str, TensorInfo]  # ``begin`` is counted from the start of the file
    kind: str | None  # what it is where it is no table of tensors, in words that follow "is"


def open_torch(path: Path) -> Opened:
    """Find the tensors of a file. Raises NetworkFormatError naming it, whatever its bytes are."""
    try:
        with path.open("rb") as file:
            start = file.read(SNIFFED)
            size = path.stat().st_size
            said = content_name(start, size)
            if said is not None and said != PICKLE and not start.startswith(b"PK"):
                raise NetworkFormatError(f"{path.name} {said}")
            file.seek(0)
            content, places = _from_zip(file) if start.startswith(b"PK") else _from_pickles(file, size)
            return _flattened(content, places, size)
    except NotPlainError as error:
        raise NetworkFormatError(f"{path.name} {error}; use a .safetensors file") from error
    except (NetworkFormatError, OSError):
        raise
    except Exception as error:  # a damaged pickle leads to anything; raised again as the one error that names the file
        raise NetworkFormatError(
            f"{path.name} is not opened: it is damaged or no file of torch.save ({reason(error)}); download it again"
        ) from error


def _from_zip(file: BinaryIO) -> tuple[Any, Places]:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) > MOST_MEMBERS:
            raise NotPlainError(f"is not opened: it holds {len(members)} files")
        roots = {member.filename.partition("/")[0] for member in members}
        names = {member.filename.partition("/")[2]: member for member in members}
        if "data.pkl" not in names:
            raise NotPlainError("is a zip archive, not a file of torch.save")
        if found := next((name for name in names if _SCRIPT.match(name)), None):
            raise NotPlainError(f"is a TorchScript archive ({readable(found, 60)}), which is code, not tensors")
        if len(roots) != 1 or len(names) != len(members) or (found := next((n for n in names if not _MEMBER.fullmatch(n)), None)):
            raise NotPlainError(f"is not opened: it is no archive of torch.save alone ({readable(found or 'several folders', 60)})")
        if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members):
            raise NotPlainError("is not opened: its members are packed, which torch.save never does")
        if "byteorder" in names and archive.read(names["byteorder"])[:8] != b"little":
            raise NotPlainError("is not opened: its numbers are of the other byte order")
        if names["data.pkl"].file_size > LARGEST_PICKLE:
            raise NotPlainError("is not opened: it holds more than tensors")
        content = unpickle(io.BytesIO(archive.read(names["data.pkl"])))
        places = {n[5:]: (_data_offset(file, member), member.file_size) for n, member in names.items() if n.startswith("data/")}
    return content, places


def _data_offset(file: BinaryIO, member: zipfile.ZipInfo) -> int:
    file.seek(member.header_offset)
    start = file.read(30)
    if start[:4] != b"PK\x03\x04":
        raise ValueError("a member of the archive is not where it should be")
    return member.header_offset + 30 + int.from_bytes(start[26:28], "little") + int.from_bytes(start[28:30], "little")


class _Within:
    """A file whose reads never ask for more than is there: a pickle may say that a text of 4 GB follows."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size

    def read(self, number: int = -1) -> bytes:
        left = min(max(0, self._size - self._file.tell()), LARGEST_PICKLE)
        return self._file.read(left if number < 0 else min(number, left))

    def readline(self, number: int | None = -1) -> bytes:
        return self._file.readline(1 << 16)


def _from_pickles(file: BinaryIO, size: int) -> tuple[Any, Places]:
    inside: IO[bytes] = _Within(file, size)  # type: ignore[assignment]
    if file.read(1) != b"\x80":
        raise NotPlainError("is no file of torch.save")
    file.seek(0)
    first = unpickle(inside)
    if first != MAGIC:
        raise NotPlainError(_bare(first))
    if unpickle(inside) != PROTOCOL or not isinstance(about := unpickle(inside), dict) or not about.get("little_endian", True):
        raise NotPlainError("is not opened: it was saved by another version of torch or in the other byte order")
    content = unpickle(inside)
    storages = _storages(content)
    places: Places = {}
    for key in unpickle(inside):
        storage = storages.get(key)
        values = int.from_bytes(file.read(8), "little")
        if storage is None or not storage.dtype or values != storage.values:
            raise ValueError("a storage is missing")
        places[key] = (file.tell(), values * BYTES[storage.dtype])
        file.seek(values * BYTES[storage.dtype], io.SEEK_CUR)
    return content, places


def _bare(content: Any) -> str:
    """Say what a pickle is that torch.save did not write."""
    return f"is a pickle of {kind_of(content)}, not a file of torch.save"


def _storages(content: Any) -> dict[str, Storage]:
    return {tensor.storage.key: tensor.storage for tensor in _tensors(content)}


def _tensors(content: Any) -> list[StoredTensor]:
    """Return every tensor inside nested tables and lists, each container looked at once."""
    found, seen, waiting = [], set(), [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, StoredTensor):
            found.append(value)
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)
    return found


def _flattened(content: Any, places: Places, size: int) -> Opened:
    """Return the tensors of a table, or of the state dict inside it."""
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise NotPlainError(f"holds {kind_of(content)}, but a table of tensors is expected")
    kind = tensors_name(str(key) for key in content)
    found: dict[str, TensorInfo] = {}
    for key, value in content.items():
        if isinstance(value, StoredTensor):
            if any(0xD800 <= ord(character) < 0xE000 for character in str(key)):
                raise NotPlainError("is damaged: the name of a tensor is no valid text")
            found[str(key)] = _placed(value, places, size)
        elif isinstance(value, (int, float)) and str(key).endswith(NUMBERS):
            raise NotPlainError(f"is not opened: {readable(key)} is a bare number, where a tensor is expected")
    if sum(info.size for info in found.values()) > MOST_SHARED * size:
        raise NotPlainError("is not opened: its tensors share their bytes more often than any network's")
    return Opened(found, kind)


def _placed(tensor: StoredTensor, places: Places, size: int) -> TensorInfo:
    info = tensor.info
    if not info.size:
        return info
    offset, held = places[tensor.storage.key]
    if info.end > held or offset + info.end > size:
        raise NotPlainError(f"is cut off: a tensor of {readable(str(info.shape), 60)} ends behind the {held:,} bytes that are there")
    return replace(info, begin=offset + info.begin)
