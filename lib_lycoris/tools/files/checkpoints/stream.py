"""A weights file, rewritten as a stream: changed tensors are computed one by one, all other bytes are copied as they are.

The order of the tensors and of the header stays; memory holds one tensor at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor

from ....networks.reading.dtypes import BYTES
from ....networks.reading.table import TensorInfo
from ....records import dataclass
from ....wording import storable
from ...jobs.progress import Progress
from ..output import Output
from .ahead import Ahead
from .checkpoint import CheckpointFile

# Stands in a header for the hash of the data, which is known when all data is written; as long as a hash.
DATA_HASH = "sha256-of-the-data-behind-this-header".ljust(64, "-")
INPUT_HASH = "sha256-of-the-input-file".ljust(64, "-")

Rows = slice | None  # of a tensor; None: all of them


class Maker(Protocol):
    """Makes the tensors of a file that are not copied; keys are the file's own."""

    def portions(self, key: str) -> Sequence[Rows]:
        """Return the rows that can be made one after the other."""

    def make(self, key: str, dtype: str, rows: Rows) -> Tensor:
        """Return a tensor, or one of its portions, in a dtype (safetensors' spelling); any thread may call this."""

    def written(self, key: str) -> None:
        """Learn that a tensor is in the file."""


@dataclass(frozen=True)
class Slot:
    """One tensor of the new file."""

    key: str
    dtype: str
    begin: int  # bytes from the start of the data
    end: int
    old: TensorInfo
    made: bool  # computed, not copied


@dataclass(frozen=True)
class Layout:
    """The new file: its header's bytes with the eight of the length before them, and its tensors in the order of the data."""

    head: bytes
    slots: tuple[Slot, ...]

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.head) + (self.slots[-1].end if self.slots else 0)


def lay_out(source: CheckpointFile, dtypes: Mapping[str, str], made: frozenset[str] | set[str], metadata: Mapping[str, str]) -> Layout:
    """Return the new file for a source of which some tensors are made anew, some of them in another dtype."""
    slots, offset = {}, 0
    for key, entry in sorted(source.entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        dtype = dtypes.get(key, entry.dtype)
        size = (entry.end - entry.begin) // BYTES[entry.dtype] * BYTES[dtype]
        slots[key] = Slot(key, dtype, offset, offset + size, entry, key in made)
        offset += size
    header: dict[str, Any] = {}
    for key in source.order if "__metadata__" in source.order else ("__metadata__", *source.order):
        if key == "__metadata__":
            header.update({key: dict(metadata)} if metadata else {})
        else:
            slot = slots[key]
            header[key] = {"dtype": slot.dtype, "shape": list(slot.old.shape), "data_offsets": [slot.begin, slot.end]}
    return Layout(encode_header(header), tuple(slots.values()))


def encode_header(header: Mapping[str, Any]) -> bytes:
    """Return a header with its length before it, padded so that the data is aligned."""
    raw = storable(json.dumps(header, separators=(",", ":"), ensure_ascii=False)).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


def write_stream(
    output: Output, source: CheckpointFile, layout: Layout, maker: Maker, pool: ThreadPoolExecutor, progress: Progress
) -> None:  # fmt: skip
    """Write the new file behind what the output holds; progress counts bytes written."""
    output.hash_from(output.size + len(layout.head))
    output.write(layout.head)
    portions = {slot.key: maker.portions(slot.key) for slot in layout.slots if slot.made}
    items = [((slot, rows), count(slot.old.shape, rows)) for slot in layout.slots if slot.made for rows in portions[slot.key]]
    ahead = Ahead(pool, lambda item: maker.make(item[0].key, item[0].dtype, item[1]), items)
    with source.path.open("rb", buffering=0) as file:
        for run in runs(layout.slots):
            slot = run[0]
            if slot.made:
                for _ in portions[slot.key]:
                    tensor = ahead.take()
                    output.write(as_bytes(tensor))
                    progress.advance(tensor.nbytes, slot.key)
                maker.written(slot.key)
            else:
                start = source.data_start + run[0].old.begin
                output.copy(file, start, run[-1].old.end - run[0].old.begin, progress)


def count(shape: Sequence[int], rows: Rows) -> int:
    """Return how many elements some rows of a tensor have."""
    return prod(shape) if rows is None else (rows.stop - rows.start) * prod(shape[1:])


def runs(slots: tuple[Slot, ...]) -> Iterator[list[Slot]]:
    """Yield each made tensor alone, and copied ones together as long as they lie together in the source."""
    run: list[Slot] = []
    for slot in slots:
        if run and (slot.made or slot.old.begin != run[-1].old.end):
            yield run
            run = []
        if slot.made:
            yield [slot]
        elif slot.end > slot.begin:
            run.append(slot)
    if run:
        yield run


def as_bytes(tensor: Tensor) -> memoryview:
    """Return a tensor's bytes without copying them."""
    return memoryview(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


def fill_in(output: Output, head: bytes, hashes: Mapping[str, str]) -> bytes:
    """Put hashes in the place of their stand-ins in a written header; return the header as it then is."""
    final = head
    for stand_in, value in hashes.items():
        final = final.replace(stand_in.encode(), value.encode())
    if final != head:
        output.patch(0, final)
    return final
