"""Two checkpoints -> the difference of one parameter, read in pieces: neither model, not even one whole tensor of either, is in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from io import FileIO
from math import isfinite, prod
from pathlib import Path

import torch
from torch import Tensor

from ...errors import ToolError
from ...records import dataclass
from ..files.checkpoints.checkpoint import Checkpoint, CheckpointFile
from ..files.checkpoints.packing import Packing, packing_of

PIECE = 1 << 17  # numbers handled at a time, so that a piece stays in the processor's cache


@dataclass(frozen=True)
class Segment:
    """Numbers of a parameter that lie together in a file."""

    source: CheckpointFile
    packing: Packing
    offset: int  # where its tensor begins, in bytes from the start of the file
    first: int  # of the tensor's numbers
    count: int
    key: str


@dataclass(frozen=True)
class Found:
    """What the difference of a parameter is like."""

    energy: float
    base_energy: float
    identical: bool  # bytes, not numbers


class Reader:
    """Reads parameters of one checkpoint by canonical names; each thread has its own files and its own memory."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._mine = threading.local()
        self._handles: list[FileIO] = []

    def segments(self, name: str) -> list[Segment] | None:
        """Return where a canonical parameter is kept, in its order; None when the checkpoint lacks it or keeps it transposed."""
        places = sorted(self.checkpoint.places(name), key=lambda place: place.its.start)
        found = []
        for place in places:
            source = self.checkpoint.source_of(place.key)
            key = place.key[len(source.prefix) :]
            entry = source.entries[key]
            row = prod(entry.shape[1:])
            first, count = place.rows.start * row, (place.rows.stop - place.rows.start) * row
            found.append(Segment(source, packing_of(entry), source.data_start + entry.begin, first, count, key))
        return found or None

    def pieces(self, segments: list[Segment]) -> Iterator[Tensor]:
        """Yield a parameter's numbers as they are stored, packed ones in float32; a piece is good until the next one is asked for."""
        for segment in segments:
            for start in range(0, segment.count, PIECE):
                yield self._piece(segment, start, min(PIECE, segment.count - start))

    def _piece(self, segment: Segment, start: int, count: int) -> Tensor:
        first = segment.first + start
        if not hasattr(self._mine, "memory"):
            self._mine.memory, self._mine.files = torch.empty(PIECE * 8, dtype=torch.uint8), {}
        memory: Tensor = self._mine.memory[: segment.packing.size(count)]
        file = self._file(segment.source.path)
        file.seek(segment.offset + segment.packing.size(first))
        view, done = memoryview(memory.numpy()), 0  # type: ignore[arg-type]
        while done < len(view):
            got = file.readinto(view[done:])
            if not got:
                raise ToolError(f"{segment.source.path.name} is cut off: {len(view) - done} bytes of {segment.key} are missing")
            done += got
        return segment.packing.numbers(memory, first)

    def _file(self, path: Path) -> FileIO:
        files: dict[Path, FileIO] = self._mine.files
        if path not in files:
            files[path] = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close()
            self._handles.append(files[path])
        return files[path]

    def has(self, name: str) -> bool:
        """Tell whether a parameter can be read: also a bias that its layer lacks, which is one of zeros."""
        layer, _, leaf = name.rpartition(".")
        return bool(self.checkpoint.places(name) or (leaf == "bias" and self.checkpoint.places(f"{layer}.weight")))

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return a parameter in float32, in memory of its own; it is one that :meth:`has` knows."""
        if not self.checkpoint.places(name) and self.has(name):
            return torch.zeros(shape)
        segments = self.segments(name)
        assert segments is not None
        out = torch.empty(prod(shape))
        done = 0
        for piece in self.pieces(segments):
            out[done : done + piece.numel()].copy_(piece)
            done += piece.numel()
        return self.checkpoint.unbroken(name, out).reshape(shape)

    def close(self) -> None:
        """Close the files of all threads."""
        for handle in self._handles:
            handle.close()
        self._handles.clear()


class PieceBuffers:
    """One thread's memory for a difference, kept from parameter to parameter: new memory costs more than what is done with it."""

    def __init__(self) -> None:
        self._mine = threading.local()

    def get(self, count: int) -> Tensor:
        """Return float32 memory for so many numbers, of any content, good until the next call."""
        held: Tensor | None = getattr(self._mine, "held", None)
        if held is None or held.numel() < count:
            self._mine.held = None  # the old one goes before the new one comes
            self._mine.held = held = torch.empty(count)
        return held[:count]

    def scratch(self) -> Tensor:
        """Return float32 memory for one piece."""
        if not hasattr(self._mine, "scratch"):
            self._mine.scratch = torch.empty(PIECE)
        scratch: Tensor = self._mine.scratch
        return scratch


def difference(tuned: Reader, base: Reader, name: str, out: Tensor, scratch: Tensor) -> Found:
    """Write tuned - base of a parameter into out (float32, flat) and return its energy and the base's."""
    mine, other = tuned.segments(name), base.segments(name)
    assert mine is not None and other is not None
    changed, size, base_size, done = False, 0.0, 0.0, 0
    for new, old in _together(tuned.pieces(mine), base.pieces(other)):
        piece, count = out[done : done + new.numel()], new.numel()
        before = scratch[:count]
        before.copy_(old)
        base_size += float(before @ before)
        if new.dtype == old.dtype and _same_bytes(new, old):
            piece.zero_()
        else:
            changed = True
            torch.sub(piece.copy_(new), before, out=piece)
            size += float(piece @ piece)
        done += count
    if not isfinite(size + base_size):
        broken = tuned if isfinite(base_size) else base
        raise ToolError(f"{broken.checkpoint.path.name} is broken: {name} holds NaN or infinity; use another copy of it")
    return Found(size, base_size, not changed)


def _together(first: Iterator[Tensor], second: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pieces of the same length from two parameters that may be kept in different segments."""
    a = b = torch.empty(0)
    while True:
        a = a if a.numel() else next(first, torch.empty(0))
        b = b if b.numel() else next(second, torch.empty(0))
        count = min(a.numel(), b.numel())
        if not count:
            return
        yield a[:count], b[:count]
        a, b = a[count:], b[count:]


def _same_bytes(a: Tensor, b: Tensor) -> bool:
    """Compare bytes, not numbers: -0 is not 0, and a NaN is itself."""
    words = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return torch.equal(a.view(words), b.view(words))
