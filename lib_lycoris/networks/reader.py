"""File -> keys, shapes, metadata and tensors: the header first, the tensors through a memory map that is closed again.

Nothing in a file is trusted: the header is checked against the file's size before anything is read, and pickles are only opened
by torch's weights-only unpickler.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
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


@dataclass(frozen=True, eq=False)
class TensorFile:
    """A file's header; the tensors are read when asked for."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    header: bytes  # as it is in the file; empty for pickles
    unpickled: Mapping[str, Tensor] | None = None

    def read(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """Return tensors in memory of their own, on the CPU, in the dtype they are stored in; the file is closed afterwards."""
        wanted = list(keys)
        if self.unpickled is not None:
            return {key: self.unpickled[key] for key in wanted}
        if any(self.tensors[key].dtype.startswith("F8") for key in wanted) and not hasattr(torch, "float8_e4m3fn"):
            raise NetworkFormatError(f"{self.path.name} holds fp8 tensors, which need torch 2.1 or newer; this is {torch.__version__}")
        try:
            with safe_open(str(self.path), framework="pt", device="cpu") as mapped:
                # a clone each: the tensors of the map would keep the file open, and on Windows locked
                return {key: mapped.get_tensor(key).clone() for key in wanted}
        except (SafetensorError, OSError) as error:
            raise NetworkFormatError(f"{self.path.name} cannot be read: {error}; download it again") from error


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
    return TensorInfo(dtype, shape)


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
