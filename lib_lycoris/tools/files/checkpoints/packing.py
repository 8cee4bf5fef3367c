"""How the numbers of a stored tensor are kept: as they are, or in fewer bits with scales beside them, to be read only."""

from __future__ import annotations

from math import prod
from typing import Protocol

import torch
from torch import Tensor

from ....errors import ToolError
from ....networks.reading import dtypes
from ....networks.reading.table import TensorInfo
from ....records import dataclass
from .ggml_blocks import unpack


class Packing(Protocol):
    """How a run of numbers lies in a file."""

    @property
    def label(self) -> str:
        """What the packing is called."""

    def size(self, count: int) -> int:
        """Return how many bytes so many numbers take. Raises ToolError where they cannot be told from their neighbours."""

    def numbers(self, stored: Tensor, start: int) -> Tensor:
        """Return the numbers that bytes hold, flat; start: of how many numbers of the tensor they are behind."""


@dataclass(frozen=True)
class Plain:
    """Numbers of a dtype, one behind the other."""

    label: str  # the dtype, in safetensors' spelling

    def size(self, count: int) -> int:
        """Return how many bytes so many numbers take."""
        return count * dtypes.BYTES[self.label]

    def numbers(self, stored: Tensor, start: int) -> Tensor:
        """Return the numbers in their own dtype, in the same memory."""
        return dtypes.unsigned(stored.view(dtypes.memory_dtype(self.label)), self.label)


@dataclass(frozen=True)
class Scaled:
    """Numbers of a dtype that mean number x scale: one scale for all, for a row, or for a block of rows and columns."""

    dtype: str
    scale: Tensor  # (), (rows,), or as many axes as the tensor: each of them a part of the tensor's
    shape: tuple[int, ...]  # of the tensor

    @property
    def label(self) -> str:
        """What the packing is called."""
        return f"scaled {self.dtype}"

    def size(self, count: int) -> int:
        """Return how many bytes so many numbers take."""
        return count * dtypes.BYTES[self.dtype]

    def numbers(self, stored: Tensor, start: int) -> Tensor:
        """Return the numbers in float32."""
        found = Plain(self.dtype).numbers(stored, start).float()
        if self.scale.numel() == 1:
            return found * self.scale.reshape(())
        place = torch.arange(start, start + found.numel())
        index: list[Tensor] = []
        for length, parts in reversed(list(zip(self.shape, self._parts()))):
            index.insert(0, torch.div(place % length, length // parts, rounding_mode="floor"))
            place = torch.div(place, length, rounding_mode="floor")
        return found * self.scale.reshape(self._parts())[tuple(index)]

    def _parts(self) -> tuple[int, ...]:
        return parts_of(tuple(self.scale.shape), self.shape)


def parts_of(scale: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return in how many parts a scale of this shape divides each axis of a tensor. Raises ValueError where it does not."""
    whole = (*scale, *(1 for _ in shape[len(scale) :]))
    if prod(scale) == 1:
        return tuple(1 for _ in shape)
    if len(whole) != len(shape) or any(parts < 1 or length % parts for parts, length in zip(whole, shape)):
        raise ValueError(f"a scale of the shape {scale} does not divide {shape}")
    return whole


@dataclass(frozen=True)
class PackedInfo(TensorInfo):
    """Where a packed tensor is; its shape is the one that it has when it is read."""

    packing: Packing = Plain("F32")

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return self.packing.size(prod(self.shape))


def packing_of(entry: TensorInfo) -> Packing:
    """Return how a tensor's numbers are kept."""
    return entry.packing if isinstance(entry, PackedInfo) else Plain(entry.dtype)


@dataclass(frozen=True)
class Blocks:
    """Numbers in blocks of GGML's kinds, each block with scales of its own."""

    label: str
    length: int  # numbers of a block
    bytes: int  # of a block

    def size(self, count: int) -> int:
        """Return how many bytes so many numbers take. Raises ToolError where they do not end with a block."""
        if count % self.length:
            raise ToolError(f"{count} numbers of the type {self.label} do not end where one of its blocks of {self.length} ends")
        return count // self.length * self.bytes

    def numbers(self, stored: Tensor, start: int) -> Tensor:
        """Return the numbers in float32."""
        return unpack(self.label, stored.reshape(-1, self.bytes)).reshape(-1)
