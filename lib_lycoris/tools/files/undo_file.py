"""The file that takes a merge back: the bytes of the tensors that were changed, and the headers, in a ZIP.

A changed tensor differs from the old one mostly in its low bits, so what is kept is old XOR new, byte plane by byte plane: the planes of
high bytes are nearly all zero and pack well. A plane that does not pack is stored as it is.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import torch
from torch import Tensor

from ...errors import ToolError, readable, reason
from ...networks.reading.dtypes import BYTES
from ...networks.reading.table import TensorInfo
from ...plain_json import parse_json
from ...records import dataclass
from ..units import megabytes
from .checkpoints.checkpoint import CheckpointFile, fill
from .checkpoints.stream import Layout, as_bytes
from .output import Output

if TYPE_CHECKING:
    from typing_extensions import Self

FORMAT = 1
SAMPLE = 1 << 17  # bytes tried before a plane is packed
LEVEL = 1
MOST_PACKED = 100  # times its own size: what the manifest and the headers, which are texts, unpack to at most
ENCRYPTED = 1  # bit of a member's flags
# what zipfile ends with on an archive that is damaged, or made by another program in a way that it does not know (RuntimeError)
UNREADABLE = (BadZipFile, RuntimeError, OSError, EOFError, ValueError, OverflowError, zlib.error)
EPOCH = (1980, 1, 1, 0, 0, 0)  # no dates: the same merge gives the same file


class UndoFile:
    """Collects what an undo needs while files are merged; with no output it does nothing."""

    def __init__(self, output: Output | None, merged: str) -> None:
        self._output = output
        self._zip: ZipFile | None = None if output is None else ZipFile(_Sink(output), "w", ZIP_DEFLATED)  # type: ignore[call-overload]
        self._manifest: dict[str, Any] = {"format": FORMAT, "merged": merged, "files": []}
        self._source: CheckpointFile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._zip is None or self._output is None:
            return
        if kind is None:
            self._write("manifest.json", Plane.of(json.dumps(self._manifest, indent=1).encode()))
            self._zip.close()
            self._output.settle()
        else:
            self._zip.fp = None  # nothing more is written, not even when the object is collected

    def begin(self, source: CheckpointFile) -> None:
        """Begin with a file that is about to be rewritten."""
        self._source = source
        if self._zip is not None:
            self._manifest["files"].append({"prefix": source.prefix, "name": source.path.name, "tensors": {}})
            self._write(f"{self._number}/header", Plane.of(source.raw_header))

    def packed(self, key: str, dtype: str, new: Tensor) -> Kept:
        """Return what is to be kept of a tensor that is replaced; new: what replaces it, in a dtype (safetensors' spelling).

        For threads beside the one that writes: packing takes longer than all the rest of a merge.
        """
        assert self._source is not None
        entry = self._source.entries[key]
        old = self._source.read(key).reshape(-1).view(torch.uint8)
        same = dtype == entry.dtype
        if same:
            old = old ^ new.contiguous().reshape(-1).view(torch.uint8)
        size = BYTES[entry.dtype]
        return Kept(same, tuple(Plane.of(as_bytes(old[plane::size])) for plane in range(size)))

    def keep(self, key: str, kept: Kept) -> None:
        """Write what was packed of a tensor."""
        tensors = self._manifest["files"][-1]["tensors"]
        tensors[key] = {"number": len(tensors), "xor": kept.xor}
        for number, plane in enumerate(kept.planes):
            self._write(f"{self._number}/{tensors[key]['number']}.{number}", plane)

    def end(self, sha256: str, layout: Layout) -> None:
        """Finish a file; sha256 of the original, layout of the merged file."""
        if self._zip is None:
            return
        made = {slot.key: [slot.begin, slot.end] for slot in layout.slots}
        self._manifest["files"][-1].update(sha256=sha256, merged_size=layout.size, merged_head=len(layout.head), places=made)

    @property
    def _number(self) -> int:
        return len(self._manifest["files"]) - 1

    def _write(self, name: str, plane: Plane) -> None:
        info = ZipInfo(name, EPOCH)
        info.file_size, info.compress_type = len(plane.data), ZIP_STORED if plane.stream is None else ZIP_DEFLATED
        assert self._zip is not None
        with self._zip.open(info, "w") as member:
            if plane.stream is not None:  # where a Python has no such attribute to be set, its own stream is written, which holds the same
                member._compressor = plane  # type: ignore[attr-defined]
            member.write(plane.data)


@dataclass(frozen=True, eq=False)
class Plane:
    """Bytes, and the raw deflate stream that stands for them, as zipfile takes one: it is asked once for all of them."""

    data: memoryview
    stream: bytes | None  # None: they do not pack

    @classmethod
    def of(cls, data: Any) -> Plane:
        """Pack bytes, if a sample of them packs."""
        view = memoryview(data)
        sample = view[:SAMPLE]
        return cls(view, _deflated(view) if len(_deflated(sample)) < 0.97 * len(sample) else None)

    def compress(self, data: Any) -> bytes:
        """Return the stream of all bytes, which were packed before."""
        assert self.stream is not None and len(data) == len(self.data)
        return self.stream

    def flush(self) -> bytes:
        """Return what is left of the stream: nothing."""
        return b""


@dataclass(frozen=True, eq=False)
class Kept:
    """What stands for the old bytes of a tensor: byte plane by byte plane, as they were or XOR the new ones."""

    xor: bool
    planes: tuple[Plane, ...]


def _deflated(data: memoryview) -> bytes:
    """Return the raw deflate stream of runs of one byte alone: what zipfile would make takes 2.5 times as long and is larger."""
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    return packer.compress(data) + packer.flush()


class _Sink:
    """An output as ZipFile wants one: written from the front to the back."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def write(self, data: Any) -> int:
        """Append bytes."""
        self._output.write(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing: the output is put on disk when it is whole."""


class Undo:
    """An undo file, opened. It may come from anybody: what it holds is believed as far as it fits the merged file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise ToolError(f"{path.name} is not there (looked in {path.absolute().parent}); give the undo file that the merge wrote")
        try:
            self._zip = ZipFile(path)
        except UNREADABLE as error:
            raise ToolError(f"{path.name} is no undo file, or is damaged ({reason(error)}); give the one that the merge wrote") from error
        try:
            found = parse_json(self._packed("manifest.json"))
        except ValueError as error:
            raise self._damaged("manifest.json", reason(error)) from error
        if isinstance(found, dict) and found.get("format") != FORMAT:
            raise ToolError(f"{path.name} was written by another version (format {readable(found.get('format'), 20)}, not {FORMAT})")
        if not is_manifest(found):
            raise self._damaged("manifest.json", "it lists no files as a merge does")
        self.merged: str = found["merged"]
        self.files: list[dict[str, Any]] = found["files"]

    def header(self, number: int) -> bytes:
        """Return the original header of a file."""
        return self._packed(f"{number}/header")

    def original(self, number: int, key: str, entry: TensorInfo, merged: CheckpointFile) -> Tensor:
        """Return the original bytes of a changed tensor; entry: what it was."""
        facts, place = self.files[number]["tensors"][key], self.files[number]["places"][key]
        length, size = entry.end - entry.begin, BYTES[entry.dtype]
        if facts["xor"] and place[1] - place[0] != length:
            raise self._damaged(key, "it has another length than in the merged file")
        old = torch.empty(length, dtype=torch.uint8)
        for plane in range(size if length else 0):
            data = self._read(f"{number}/{facts['number']}.{plane}", length // size)
            old[plane::size] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return old ^ merged_bytes(merged, place) if facts["xor"] else old

    def _packed(self, name: str) -> bytes:
        """Return a text of the archive; one that would unpack to far more than the file stores is none of ours."""
        stored = self.path.stat().st_size
        info = self._info(name)
        if info.file_size > MOST_PACKED * stored:
            raise self._damaged(name, f"it would unpack to {megabytes(info.file_size)}")
        return self._read(name, info.file_size)

    def _info(self, name: str) -> ZipInfo:
        try:
            info = self._zip.getinfo(name)
        except KeyError:
            raise self._damaged(name, "it is missing") from None
        if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED) or info.flag_bits & ENCRYPTED:
            raise self._damaged(name, "it is packed as no merge packs it")
        return info

    def _read(self, name: str, size: int) -> bytes:
        """Return a part of so many bytes; not more are ever unpacked."""
        if self._info(name).file_size != size:
            raise self._damaged(name, f"it has another length than the {size} bytes that belong there")
        try:
            with self._zip.open(name) as file:
                data = file.read(size)
        except UNREADABLE as error:
            raise self._damaged(name, reason(error)) from error
        if len(data) != size:
            raise self._damaged(name, "it is cut off")
        return data

    def _damaged(self, name: str, reason: object) -> ToolError:
        return ToolError(f"{self.path.name} is damaged at {readable(name)} ({reason}); the original cannot be restored from it")


def is_manifest(found: Any) -> bool:
    """Tell whether a value has the form of what :class:`UndoFile` writes as manifest.json."""
    return (
        isinstance(found, dict) and isinstance(found.get("merged"), str) and isinstance(found.get("files"), list) and bool(found["files"])
        and all(isinstance(facts, dict) and _is_file(facts) for facts in found["files"])
    )  # fmt: skip


def _is_file(facts: dict[str, Any]) -> bool:
    texts = all(isinstance(facts.get(name), str) for name in ("name", "sha256"))
    tensors, places = facts.get("tensors"), facts.get("places")
    if not texts or type(facts.get("merged_size")) is not int or not isinstance(tensors, dict) or not isinstance(places, dict):
        return False
    kept = (isinstance(one, dict) and type(one.get("number")) is int and type(one.get("xor")) is bool for one in tensors.values())
    return tensors.keys() <= places.keys() and all(kept)


def merged_bytes(merged: CheckpointFile, place: list[int]) -> Tensor:
    """Return bytes of a merged file's data."""
    values = torch.empty(place[1] - place[0], dtype=torch.uint8)
    with merged.path.open("rb", buffering=0) as file:
        file.seek(merged.data_start + place[0])
        fill(file, values, merged.path)
    return values
