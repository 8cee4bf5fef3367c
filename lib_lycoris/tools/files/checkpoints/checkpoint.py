"""Checkpoint <-> canonical names: a single file in LDM, diffusers or bare layout, or a folder, read tensor by tensor.

Quantised ones (GGUF, scaled fp8) are read as the numbers that they stand for, and never written: see :mod:`.packing`.
Names are matched as a live model's are, by ``models.from_live``: a checkpoint's keys are the parameters of the model it is loaded into.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .... import models
from ....errors import ModelMismatchError, NetworkFormatError, ToolError, naming
from ....models import BaseModel, LayerInfo, LiveNames, Piece
from ....models.parameters import BARE, SCALED
from ....networks.keys import sort_out
from ....networks.limits import sound
from ....networks.reading import dtypes
from ....networks.reading.foreign import content_name, is_torch_zip
from ....networks.reading.header import SNIFFED, looks_like_header
from ....networks.reading.reader import open_file
from ....networks.reading.table import TensorInfo
from ....records import dataclass
from .gguf import is_gguf, read_gguf
from .packing import PackedInfo, packing_of
from .scaled import is_scale, packed
from .shards import folder_files, refuse_part


class TensorLocation(NamedTuple):
    """Rows of a stored tensor that hold rows of a canonical parameter."""

    key: str  # of the checkpoint: a folder's keys have their component before them
    rows: slice
    its: slice  # of the canonical parameter, or of the part that was asked for


@dataclass(frozen=True, eq=False)
class CheckpointFile:
    """One weights file of a checkpoint: its header, and its tensors when they are asked for."""

    path: Path
    prefix: str  # before its keys in the checkpoint: "unet." in a folder, nothing in a single file
    order: tuple[str, ...]  # the header's entries, __metadata__ among them
    raw_header: bytes  # empty for a file of torch.save
    entries: Mapping[str, TensorInfo]  # by the file's own keys
    metadata: Mapping[str, str]
    data_start: int  # where the data begins in the file, in bytes

    def read(self, key: str, rows: slice | None = None) -> Tensor:
        """Return one tensor, or some of its rows, in memory of its own.

        It is as it is stored, or the float32 numbers that a packed one stands for.
        """
        entry = self.entries[key]
        packing, shape, first, size = packing_of(entry), entry.shape, 0, entry.end - entry.begin
        if rows is not None:
            shape = (rows.stop - rows.start, *shape[1:])
            first, size = rows.start * prod(shape[1:]), packing.size(prod(shape))
        values = torch.empty(size, dtype=torch.uint8)
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.data_start + entry.begin + packing.size(first))
            fill(file, values, self.path)
        return packing.numbers(values, first).reshape(shape)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The weights of a base model in one file or in the files of a folder."""

    path: Path
    sources: tuple[CheckpointFile, ...]

    @cached_property
    def entries(self) -> dict[str, TensorInfo]:
        """All tensors by key."""
        return {s.prefix + key: entry for s in self.sources for key, entry in s.entries.items()}

    @cached_property
    def names(self) -> LiveNames:
        """Which canonical parameter each tensor holds. Raises ModelMismatchError when the family cannot be told."""
        try:
            return models.from_live(layer_infos(self.entries))
        except ModelMismatchError as error:
            if sort_out(self.entries).modules:
                raise ModelMismatchError(f"{self.path.name} is a network, not a checkpoint; give a base model's file") from error
            raise ModelMismatchError(f"{self.path.name} is of no base model known here: {error}") from error

    @cached_property
    def packing(self) -> tuple[str, ...]:
        """How the quantised weights are kept, the commonest first; empty for a model that is not quantised."""
        kinds = Counter(packing_of(entry).label for entry in self.entries.values() if isinstance(entry, PackedInfo))
        return tuple(kind for kind, _ in kinds.most_common())

    @property
    def base(self) -> BaseModel:
        """The model's layers under canonical names."""
        return self.names.base

    @cached_property
    def model_keys(self) -> frozenset[str]:
        """The keys of the UNet and the text encoders: all that a network could change."""
        return frozenset(self._key(piece) for pieces in self.names.places.values() for piece in pieces)

    def read(self, key: str, rows: slice | None = None) -> Tensor:
        """Return one tensor, or some of its rows, by its key."""
        source = self.source_of(key)
        return source.read(key[len(source.prefix) :], rows)

    def source_of(self, key: str) -> CheckpointFile:
        """Return the file that holds a tensor."""
        return next(s for s in self.sources if key.startswith(s.prefix) and key[len(s.prefix) :] in s.entries)

    def places(self, name: str) -> list[TensorLocation]:
        """Return where a canonical parameter, or a part of one, is kept; empty when this checkpoint lacks it."""
        return [TensorLocation(self._key(piece), piece.live_rows, piece.rows) for piece in self.names.pieces(name)]

    def parameter(self, name: str) -> Tensor:
        """Return a canonical parameter that it has, or a part of one, in float32. Raises ToolError for one that is broken."""
        places = sorted(self.places(name), key=lambda place: place.its.start)
        return self.unbroken(name, torch.cat([self.read(place.key)[place.rows].float() for place in places]))

    def unbroken(self, name: str, values: Tensor) -> Tensor:
        """Return the values of a parameter. Raises ToolError where they are none that a weight can have."""
        if sound(values):
            return values
        raise ToolError(f"{self.path.name} is broken: {name} holds NaN or infinity, or numbers that no weight has; use another copy of it")

    def _key(self, piece: Piece) -> str:
        """Return the key of a piece: what one program calls ``scale``, such as Flux' norms, is ``weight`` in another's file."""
        key = f"{piece.module}.{piece.leaf}" if piece.module else piece.leaf
        plain = f"{piece.module}.weight"
        return plain if key not in self.entries and plain in self.entries and not piece.leaf.endswith("bias") else key


def torch_dtype(code: str) -> torch.dtype:
    """Return torch's dtype for safetensors' spelling. Raises ToolError for fp8 on a torch that lacks it."""
    try:
        return dtypes.torch_dtype(code)
    except NetworkFormatError as error:
        raise ToolError(f"tensors of the type {code} cannot be handled: {error}") from error


def fill(file: Any, values: Tensor, path: Path) -> None:
    """Read a file's next bytes into a tensor of bytes."""
    view = memoryview(values.numpy())  # type: ignore[arg-type]
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])
        if not count:
            raise ToolError(f"{path.name} is cut off: {len(view) - done} bytes of a tensor are missing; download it again")
        done += count


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Read the headers of a checkpoint. Raises NetworkFormatError or ToolError naming the file when it is none."""
    path = Path(path)
    with naming(path):
        if path.is_dir():
            checkpoint = Checkpoint(path, tuple(open_source(file, prefix) for prefix, file in folder_files(path)))
        else:
            refuse_part(path)
            checkpoint = Checkpoint(path, (open_source(path),))
        _refuse_twice(checkpoint)
        _refuse_strided(checkpoint)
        return checkpoint


def open_source(path: Path, prefix: str = "") -> CheckpointFile:
    """Read the header of one weights file."""
    if path.is_file() and is_gguf(path):
        found = read_gguf(path)
        return CheckpointFile(path, prefix, tuple(found.tensors), found.raw, found.tensors, found.metadata, found.data_start)
    _refuse_foreign(path)
    file = open_file(path)
    order = file.order or tuple(file.tensors)
    source = CheckpointFile(path, prefix, order, file.header, file.tensors, file.metadata, file.data_start)
    scaled = packed(source.entries, source.metadata, source.read, path.name)
    return replace(source, entries={**source.entries, **scaled}) if scaled else source


def _refuse_foreign(path: Path) -> None:
    """Raise for what is no file of weights at all, in words about a checkpoint; the reader's own are about networks."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        start, size = file.read(SNIFFED), path.stat().st_size
    if looks_like_header(start) or is_torch_zip(start) or start[:1] == b"\x80":
        return
    if said := content_name(start, size, "a checkpoint"):
        raise NetworkFormatError(f"{path.name} {said}")


def refuse_packed(checkpoint: Checkpoint) -> None:
    """Raise ToolError for a quantised model, which is to be changed and written: a change of the stored numbers alone would ruin it."""
    scale = next((key for key in checkpoint.entries if is_scale(key)), None)
    if checkpoint.packing or scale is not None:
        how = ", ".join(checkpoint.packing) or scale
        raise ToolError(
            f"{checkpoint.path.name} keeps its weights scaled or in blocks ({how}), which is read here and not written; "
            "use its fp16, bf16 or plain fp8 version"
        )


def _refuse_twice(checkpoint: Checkpoint) -> None:
    """Raise ToolError when two files of a folder hold one tensor, as a model beside its own numbered files does."""
    holders: dict[str, CheckpointFile] = {}
    for source in checkpoint.sources:
        for key in source.entries:
            other = holders.setdefault(source.prefix + key, source)
            if other is not source:
                name = f"{checkpoint.path.name}: {other.path.name} and {source.path.name}"
                raise ToolError(f"{name} both hold {source.prefix}{key}; leave only one model's files in the folder")


def _refuse_strided(checkpoint: Checkpoint) -> None:
    """Numbers that do not lie one behind the other cannot be streamed; no trainer saves a whole model like that."""
    strided = next((key for key, entry in checkpoint.entries.items() if entry.stride is not None), None)
    if strided:
        raise ToolError(f"{checkpoint.path.name} keeps {strided} as a view of other tensors; save it as .safetensors")


def layer_infos(entries: Mapping[str, TensorInfo]) -> dict[str, LayerInfo]:
    """Return what each module of a state dict is, as far as names and shapes show it."""
    found = {}
    for key, entry in entries.items():
        module, _, leaf = key.rpartition(".")
        if (
            key.endswith(BARE)
            or (leaf == "text_projection" and len(entry.shape) == 2)
            or key in ("positional_embedding", "text_projection")
        ):
            found[key] = LayerInfo("Parameter", entry.shape, False)
        elif leaf == "in_proj_weight":
            found[module] = LayerInfo("MultiheadAttention", entry.shape, f"{module}.in_proj_bias" in entries)
        elif entry.shape and (leaf == "weight" or (leaf == "scale" and module.endswith(SCALED))):
            found[module] = LayerInfo(_kind(module, entry.shape), entry.shape, f"{module}.bias" in entries)
    return found


def _kind(module: str, shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return "Embedding" if module.endswith(("token_embedding", "position_embedding", "embed_tokens", "shared")) else "Linear"
    return {1: "LayerNorm", 3: "Conv1d", 4: "Conv2d", 5: "Conv3d"}.get(len(shape), "Parameter")
