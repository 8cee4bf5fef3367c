"""File -> keys, shapes, metadata and tensors: the header first, then the tensors that are asked for, in few pieces of memory.

Nothing in a file is trusted: the header is checked against the file's size before anything is read, and pickles are only opened
by torch's weights-only unpickler.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..errors import NetworkFormatError

LARGEST_HEADER = 100_000_000  # bytes, the format's own limit
BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
         "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1}  # fmt: skip
EXTENSIONS = (".safetensors", ".pt", ".ckpt")


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of a tensor; the dtype in safetensors' spelling."""

    dtype: str
    shape: tuple[int, ...]
    begin: int = 0  # bytes from the start of the data

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return prod(self.shape) * BYTES[self.dtype]


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
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    header: bytes  # as it is in the file; empty for pickles
    unpickled: Mapping[str, Tensor] | None = None

    def read(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Return tensors on the CPU in the dtype they are stored in; the file is closed afterwards."""
        return {key: tensor for block in self.blocks(keys) for key, tensor in block.tensors().items()}

    def blocks(self, keys: Iterable[str]) -> list[Block]:
        """Return the same in as few pieces of memory as possible.

        They are read, not mapped: a mapped file that another program writes to would end this process, and on Windows it would be locked.
        """
        if self.unpickled is not None:
            return [Block(tensor.reshape(-1), (key,), (tuple(tensor.shape),)) for key in keys for tensor in [self.unpickled[key]]]
        runs = _runs({key: self.tensors[key] for key in keys})
        if any(info.dtype.startswith("F8") for run in runs for _, info in run) and not hasattr(torch, "float8_e4m3fn"):
            raise NetworkFormatError(f"{self.path.name} holds fp8 tensors, which need torch 2.1 or newer; this is {torch.__version__}")
        try:
            with self.path.open("rb") as file:
                return [self._block(file, run) for run in runs]
        except OSError as error:
            raise NetworkFormatError(f"{self.path.name} cannot be read: {error}; download it again") from error

    def _block(self, file: BinaryIO, run: Sequence[tuple[str, TensorInfo]]) -> Block:
        first, size = run[0][1], sum(info.size for _, info in run)
        memory = torch.empty(size, dtype=torch.uint8)
        file.seek(8 + len(self.header) + first.begin)
        if size and file.readinto(memory.numpy()) != size:  # type: ignore[attr-defined]
            raise NetworkFormatError(f"{self.path.name} is cut off: it ends inside {run[-1][0]}; download it again")
        values = memory.view(getattr(torch, DTYPES[first.dtype]))
        return Block(values, tuple(key for key, _ in run), tuple(info.shape for _, info in run))


def _runs(infos: Mapping[str, TensorInfo]) -> list[list[tuple[str, TensorInfo]]]:
    """Return tensors in the order in which they lie in the file, those of one dtype without a gap between them together."""
    runs: list[list[tuple[str, TensorInfo]]] = []
    for key, info in sorted(infos.items(), key=lambda item: (item[1].begin, item[1].size)):
        last = runs[-1][-1][1] if runs else None
        if last is not None and last.dtype == info.dtype and last.begin + last.size == info.begin:
            runs[-1].append((key, info))
        else:
            runs.append([(key, info)])
    return runs


def open_file(path: str | Path) -> TensorFile:
    """Read a file's header. Raises NetworkFormatError naming the file when it is not what its name says."""
    path = Path(path)
    if path.is_dir():
        raise NetworkFormatError(f"{path.name} is a folder; give the file in it that is meant")
    if not path.is_file():
        raise NetworkFormatError(f"{path.name} is not there (looked in {path.parent})")
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    if path.suffix in EXTENSIONS:
        return _open_pickle(path)
    raise NetworkFormatError(f"{path.name} is no network file: its name must end in one of {', '.join(EXTENSIONS)}")


def read_header(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return a safetensors file's header, parsed and as bytes; checks that it lies inside the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if len(start) < 8 or length > min(LARGEST_HEADER, size - 8):
            raise NetworkFormatError(f"{path.name} is cut off or no safetensors file ({size} bytes); download it again")
        raw = file.read(length)
    try:
        header = json.loads(raw)
    except ValueError as error:
        raise NetworkFormatError(f"{path.name} is no safetensors file: its header is not JSON; download it again") from error
    if not isinstance(header, dict):
        raise NetworkFormatError(f"{path.name} is no safetensors file: its header is not a table of tensors; download it again")
    return header, raw


def _open_safetensors(path: Path) -> TensorFile:
    header, raw = read_header(path)
    metadata = header.pop("__metadata__", None) or {}
    room = path.stat().st_size - 8 - len(raw)
    tensors = {key: _checked(path, key, entry, room) for key, entry in header.items()}
    return TensorFile(path, tensors, {str(k): str(v) for k, v in metadata.items()}, raw)


def _checked(path: Path, key: str, entry: Any, room: int) -> TensorInfo:
    try:
        dtype, shape, (begin, end) = str(entry["dtype"]), tuple(map(int, entry["shape"])), entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise NetworkFormatError(f"{path.name}: the header's entry for {key} cannot be understood; download it again") from error
    if not 0 <= begin <= end <= room:
        raise NetworkFormatError(
            f"{path.name} is cut off: {key} ends at byte {end} of the data, but only {room} are there; download it again"
        )
    count = 1
    for length in shape:
        count *= length
    if dtype not in BYTES or count * BYTES[dtype] != end - begin or min(shape, default=0) < 0:
        raise NetworkFormatError(f"{path.name}: {key} {shape} of type {dtype} does not fill its {end - begin} bytes; download it again")
    return TensorInfo(dtype, shape, int(begin))


def _open_pickle(path: Path) -> TensorFile:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever the bytes lead it to
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise NetworkFormatError(
            f"{path.name} is not opened: it holds more than tensors or is damaged ({reason[:120]}); use a .safetensors file"
        ) from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict):
        raise NetworkFormatError(f"{path.name} holds a {type(loaded).__name__}, but a table of tensors is expected")
    tensors = {str(key): value.detach() for key, value in loaded.items() if isinstance(value, Tensor)}
    names = {getattr(torch, name, None): code for code, name in DTYPES.items()}
    infos = {key: TensorInfo(names.get(value.dtype, str(value.dtype)), tuple(value.shape)) for key, value in tensors.items()}
    return TensorFile(path, infos, {}, b"", tensors)


DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32", "I16": "int16",
          "I8": "int8", "U8": "uint8", "BOOL": "bool", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}  # fmt: skip
