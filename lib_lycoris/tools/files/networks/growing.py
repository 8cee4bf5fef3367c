"""A network file that grows: each module is written as soon as it is made, the header when all of them are known.

Room for the header is kept at the start and padded with spaces, which the format allows; memory holds one module at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ....errors import ToolError
from ....networks.reading.dtypes import CODES
from ....wording import storable
from ..checkpoints.stream import as_bytes
from ..output import Output
from .own_config import with_own_config

if TYPE_CHECKING:
    from typing_extensions import Self

ENTRY = 96  # bytes of a header entry besides its key: dtype, shape, offsets, punctuation
METADATA = 1 << 11  # bytes kept for what the metadata says besides the old one: hashes, ranks, a comment
LEGACY = slice(0x100000, 0x110000)  # the bytes of a file that kohya's old hash is of


class GrowingFile:
    """A new network file as a context manager; nothing of it is left unless :meth:`finish` was called and the block ended well."""

    def __init__(self, path: Path, keys: int, longest: int, metadata: Mapping[str, str]) -> None:
        """Keep room for so many keys of at most so many characters, and for metadata of the present size and a recipe."""
        self._room = header_room(keys, longest, metadata) - 8
        self._output = Output(path, hashed=True)
        self._entries: dict[str, Any] = {}
        self._offset = 0
        self._finished = False

    def __enter__(self) -> Self:
        with ExitStack() as stack:  # a disk that is full already here leaves nothing either
            stack.enter_context(self._output)
            self._output.hash_from(8 + self._room)
            self._output.write(bytes(8 + self._room))
            stack.pop_all()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None and not self._finished:
            kind = ToolError
        self._output.__exit__(kind, error, trace)

    @property
    def size(self) -> int:
        """Bytes of the file as it is."""
        return self._output.size

    @property
    def keys(self) -> list[str]:
        """What was written so far."""
        return list(self._entries)

    def add(self, module: str, tensors: Mapping[str, Tensor]) -> None:
        """Append a module's tensors, suffix -> tensor; all tensors of a file are of one dtype."""
        for suffix, tensor in tensors.items():
            if f"{module}.{suffix}" in self._entries:
                raise ToolError(f"two changes would have the name {module}.{suffix}; use another `style`")
            data = as_bytes(tensor.cpu())
            shape, span = list(tensor.shape), [self._offset, self._offset + len(data)]
            code = CODES[str(tensor.dtype).removeprefix("torch.")]
            self._entries[f"{module}.{suffix}"] = {"dtype": code, "shape": shape, "data_offsets": span}
            self._output.write(data)
            self._offset += len(data)

    def finish(self, metadata: Mapping[str, str]) -> dict[str, str]:
        """Write the header with the metadata and the hashes of what was written; return the metadata as it is in the file."""
        digest = self._output.digest()
        full = {**with_own_config(metadata, self._output.path), "sshs_model_hash": digest, **self._legacy()}
        raw = storable(json.dumps({"__metadata__": full, **self._entries}, separators=(",", ":"), ensure_ascii=False)).encode()
        if len(raw) > self._room:
            raise ToolError(
                f"the metadata of {self._output.path.name} is {len(raw)} bytes long and does not fit into its header; shorten it"
            )
        self._output.patch(0, self._room.to_bytes(8, "little") + raw.ljust(self._room))
        self._finished = True
        return full

    def _legacy(self) -> dict[str, str]:
        if 8 + self._room > LEGACY.start:
            return {}  # it would be a hash of the header, which is to hold it
        with self._output.beside.open("rb") as file:
            file.seek(LEGACY.start)
            return {"sshs_legacy_hash": hashlib.sha256(file.read(LEGACY.stop - LEGACY.start)).hexdigest()[:8]}


def header_room(keys: int, longest: int, metadata: Mapping[str, str]) -> int:
    """Return the bytes before the data of a file of so many keys."""
    return room_beside(keys, longest, len(json.dumps(dict(metadata))))


def room_beside(keys: int, longest: int, metadata: int) -> int:
    """Return the bytes before the data of a file of so many keys and so many bytes of metadata."""
    return 8 + (keys * (longest + ENTRY) + metadata + METADATA + 7) // 8 * 8
