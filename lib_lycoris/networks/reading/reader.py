"""File -> keys, shapes, metadata and tensors: the header first, then the tensors that are asked for, in few pieces of memory.

Nothing in a file is trusted: what it is is told by its bytes, its header is checked against its size before anything is read, and of a
pickle nothing is executed (see :mod:`.unpickle`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ...errors import NetworkFormatError, naming, readable
from ...records import dataclass
from .dtypes import memory_dtype, torch_dtype, unsigned
from .folder import EXTENSIONS, SAFETENSORS, file_of
from .foreign import content_name
from .header import LARGEST_HEADER, SNIFFED, header_length, looks_like_header, read_header
from .table import TensorInfo
from .torch_file import open_torch

PIECE = 4 << 20  # bytes that one reader takes at a time: side by side, so that a disk still goes through the file from front to end
READERS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True, eq=False)
class Block:
    """Tensors of one dtype that lie side by side in a file, in one piece of memory."""

    values: Tensor  # all of them, flat
    keys: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors as views; the memory is freed with the last of them."""
        parts = self.values.split([prod(shape) for shape in self.shapes])
        return {key: part.view(shape) for key, part, shape in zip(self.keys, parts, self.shapes)}

    def to(self, dtype: torch.dtype) -> Block:
        """Return the same in another dtype."""
        return Block(self.values.to(dtype), self.keys, self.shapes)


@dataclass(frozen=True, eq=False)
class TensorFile:
    """A file's header; the tensors are read when asked for."""

    path: Path
    tensors: Mapping[str, TensorInfo]  # in the order of the header
    metadata: Mapping[str, str]
    header: bytes  # as it is in the file; empty for pickles
    data_start: int = 0  # where the tensors' places are counted from, in bytes
    order: tuple[str, ...] = ()  # all entries of the header, __metadata__ among them
    kind: str | None = None  # what a file of torch.save is, where that is no table of tensors

    def read(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Return tensors on the CPU in the dtype they are stored in; the file is closed afterwards."""
        return {key: tensor for block in self.blocks(keys) for key, tensor in block.tensors().items()}

    def blocks(self, keys: Iterable[str]) -> list[Block]:
        """Return the same in as few pieces of memory as possible. Raises NetworkFormatError."""
        runs = _runs({key: self.tensors[key] for key in keys})
        try:
            with self.path.open("rb") as file:
                return [self._block(file, run) for run in runs]
        except OSError as error:
            raise NetworkFormatError(f"{self.path.name} cannot be read: {error.strerror or error}; download it again") from error

    def _block(self, file: BinaryIO, run: Sequence[tuple[str, TensorInfo]]) -> Block:
        (key, first), last = run[0], run[-1][1]
        memory = torch.empty(last.end - first.begin, dtype=torch.uint8)
        if not _fill(memory, file, self.data_start + first.begin):
            raise NetworkFormatError(f"{self.path.name} is cut off: it ends inside {readable(run[-1][0])}; download it again")
        try:
            values = unsigned(memory.view(memory_dtype(first.dtype)), first.dtype)
        except NetworkFormatError as error:
            raise NetworkFormatError(f"{self.path.name}: {readable(key)}: {error}") from error
        if first.stride is not None:
            values = values.as_strided(first.shape, first.stride).flatten()
        return Block(values, tuple(key for key, _ in run), tuple(info.shape for _, info in run))


def _fill(memory: Tensor, file: BinaryIO, start: int) -> bool:
    """Fill bytes from a place in a file; False where it ends before.

    Several readers share a large block: the system clears new pages for whoever first writes to them, which takes longer than the copy.
    """
    view = memory.numpy().data
    if len(view) <= PIECE or not hasattr(os, "preadv"):  # Windows
        file.seek(start)
        return not len(view) or file.readinto(view) == len(view)  # type: ignore[attr-defined]
    pieces = range(0, len(view), PIECE)
    with ThreadPoolExecutor(READERS) as readers:
        return all(readers.map(lambda at: _fill_piece(view[at : at + PIECE], file.fileno(), start + at), pieces))


def _fill_piece(view: memoryview, file: int, start: int) -> bool:
    done = 0
    while done < len(view) and (more := os.preadv(file, [view[done:]], start + done)):
        done += more
    return done == len(view)


def _runs(infos: Mapping[str, TensorInfo]) -> list[list[tuple[str, TensorInfo]]]:
    """Return tensors in the order in which they lie in the file, those of one dtype without a gap between them together."""
    runs: list[list[tuple[str, TensorInfo]]] = []
    for key, info in sorted(infos.items(), key=lambda item: (item[1].begin, item[1].size)):
        last = runs[-1][-1][1] if runs else None
        plain = last is not None and last.stride is None and info.stride is None
        if last is not None and plain and last.dtype == info.dtype and last.end == info.begin:
            runs[-1].append((key, info))
        else:
            runs.append([(key, info)])
    return runs


def open_file(path: str | Path) -> TensorFile:
    """Read a file's header. Raises NetworkFormatError naming the file when it is not what its name says.

    A folder stands for the network in it (PEFT, diffusers). A safetensors file may have the ending of a pickle; not the other way round,
    since programs take that ending as a promise.
    """
    path = Path(path)
    with naming(path):
        path = file_of(path)
        if not path.exists():
            raise NetworkFormatError(f"{path.name} is not there (looked in {path.absolute().parent})")
        if not path.is_file():
            raise NetworkFormatError(f"{path.name} is no file; give a network file")
        ending = path.suffix.lower()
        if ending not in EXTENSIONS:
            said = content_name(_start(path), path.stat().st_size)
            also = f"; it {said}" if said else ""
            raise NetworkFormatError(f"{path.name} is no network file: its name must end in one of {', '.join(EXTENSIONS)}{also}")
        if ending == SAFETENSORS or _is_safetensors(path):
            return _open_safetensors(path)
        opened = open_torch(path)
        for info in opened.tensors.values():
            torch_dtype(info.dtype)  # says when this torch lacks it
        return TensorFile(path, opened.tensors, {}, b"", kind=opened.kind)


def _open_safetensors(path: Path) -> TensorFile:
    header = read_header(path)
    for dtype in {info.dtype for info in header.tensors.values()}:
        torch_dtype(dtype)
    return TensorFile(path, header.tensors, header.metadata, header.raw, header.data_start, header.order)


def _is_safetensors(path: Path) -> bool:
    """Tell whether a file with the ending of a pickle is a safetensors file: eight bytes of a length, and a table."""
    start = _start(path)
    return header_length(start) <= LARGEST_HEADER and looks_like_header(start)


def _start(path: Path) -> bytes:
    """Return the bytes by which a file is told."""
    with path.open("rb") as file:
        return file.read(SNIFFED)
