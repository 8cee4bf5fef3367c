"""W' = W · blockdiag(R)ᵀ on the flattened input columns (PEFT since 0.13, OneTrainer); W' = blockdiag(D)ᵀ · W before it.

Three layouts of OFT (arXiv 2306.07280) that share the idea and no detail:

* ``oft_R.weight``: the packed upper triangle of Q (PEFT >= 0.16, OneTrainer). R = I + 2Q + 2Q² + 2Q³ + Q⁴ (Cayley-Neumann), or
  (I - Q)(I + Q)⁻¹ where the config asks for it. OneTrainer: always the former, Q divided by 2√(b-1) when ``scaled_oft`` is
  there, and W · blockdiag(R) - not transposed - on convolutions, as its forward computes.
* ``oft_r`` and ``oft_s`` (PEFT 0.13 to 0.15): input side, D = (I - S)(I + S)⁻¹ with S = (A - Aᵀ)/2, rows scaled by oft_s.
* ``oft_r`` alone (PEFT <= 0.12): output side, the last block cut off where the blocks are larger than the layer.

Disputed: PEFT's forward on convolutions larger than 1x1 is not a rotation of the weight and disagrees with PEFT's own merge; we follow
the merge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, sqrt
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..records import dataclass
from .activation import Bypass, Layer, block_rows, on_inputs
from .base import Algorithm, columns, exact, flat, precise, stored
from .config import NO_CONFIG, Config
from .oft import cayley, change_of_rows, not_square

MOST_TERMS = 100  # of a series that ends as soon as the next term is nothing


def neumann(skew: Tensor, terms: int) -> Tensor:
    """Return I + 2Q + ... + 2Qⁿ⁻² + Qⁿ⁻¹ for blocks (..., b, b): the Cayley transform with its inverse as a short series.

    PEFT's code makes two exceptions, followed here: 2 terms are I + 2Q, and 3 are I + 2Q + 2Q² + Q³.
    """
    coefficients = [] if terms < 2 else [2.0] if terms == 2 else [2.0] * max(terms - 2, 2) + [1.0]
    total = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device).expand_as(skew).clone()
    power = skew
    for coefficient in coefficients:
        total = total + coefficient * power
        power = power @ skew
    return total


def projected(skew: Tensor, limit: float) -> Tensor:
    """Return blocks whose own Frobenius norm is above limit scaled down to it."""
    norm = skew.flatten(-2).norm(dim=-1).clamp_min(torch.finfo(skew.dtype).tiny)[..., None, None]
    return torch.where(norm > limit, skew * (limit / norm), skew)


def turn_columns(rotations: Tensor, x: Tensor) -> Tensor:
    """Return blockdiag(rotations) applied to the last axis; rotations: (n, b, b), n·b the last axis' size."""
    count, size = rotations.shape[:2]
    return torch.einsum("nij,...nj->...ni", rotations, x.unflatten(-1, (count, size))).flatten(-2)


def columns_fit(count: int, size: int, shape: Sequence[int], what: str, rows: Tensor | None = None) -> str | None:
    """Say that blocks do not tile the flattened input columns, or that the row scales do not match the outputs."""
    shared = count == 1 and size and len(shape) > 1 and columns(shape) % size == 0
    if len(shape) < 2 or not (shared or count * size == columns(shape)):
        got = f"{what} of {count} blocks of {size} rotates {count * size} inputs"
        return f"{got}, but the layer is {tuple(shape)} - is this file for another model?"
    if rows is not None and rows.numel() != shape[0]:
        return f"{rows.numel()} row scales do not fit the layer's {shape[0]} outputs"
    return None


def repeated(rotations: Tensor, total: int) -> Tensor:
    """Return one shared block repeated until the blocks cover total columns or rows; several as they are."""
    return rotations.expand(-(-total // rotations.shape[-1]), -1, -1) if rotations.shape[0] == 1 else rotations


@dataclass(frozen=True, eq=False, kw_only=True)
class InputRotation(Algorithm):
    """W' = gain ⊙ (W · blockdiag(R)ᵀ): what the layouts on the input side share."""

    @property
    def gain(self) -> Tensor | None:
        """The scale of each output row; None for none."""
        return None

    def rotations(self, shape: Sequence[int]) -> Tensor:
        """Return R as (n, b, b) in float64 for a layer of this shape."""
        raise TypeError("a layout of OFT gives its own rotations")

    def delta(self, weight: Tensor) -> Tensor:
        """Return the turned columns, rows scaled, minus the weight."""
        base = precise(weight, weight)
        turned = turn_columns(precise(self.rotations(weight.shape), weight), flat(base))
        if self.gain is not None:
            turned = turned * precise(self.gain, weight).reshape(-1, 1)
        return turned.reshape(weight.shape) - base

    def bypass(self, layer: Layer) -> Bypass:
        """Return the output of the turned input, rows scaled, minus the output."""
        back = layer.to_compute(self.rotations(layer.shape).transpose(1, 2))
        return on_inputs(layer, lambda x: turn_columns(back, x), None if self.gain is None else self.gain.flatten())


@dataclass(frozen=True, eq=False, kw_only=True)
class PackedOFT(InputRotation):
    """``oft_R``: the upper triangle of every Q as one row."""

    name: ClassVar[str] = "oft (peft)"
    reads_output: ClassVar[bool] = True

    packed: Tensor = stored("oft_R.weight", axes=(2, 2))  # (n, b(b-1)/2), n·b = in·k; n = 1 when one block is shared
    divided: Tensor | None = stored("oft_R.scaled_oft", optional=True, whole=True)  # OneTrainer: there or not
    terms: int | None = 5  # of the Neumann series; None: the exact inverse
    largest: float | None = None  # COFT: the norm that a block of Q may have
    transposed_convolutions: bool = False  # OneTrainer

    @classmethod
    def from_config(cls, config: Config, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return how R is made of Q, and COFT's limit. Raises NetworkFormatError for a series that no training can have had."""
        terms = config.integer("num_cayley_neumann_terms", 5, least=1, most=MOST_TERMS)
        limit = config.number("eps", 6e-5) / sqrt(tensors["oft_R.weight"].shape[0]) if config.flag("coft") else None
        return {"terms": terms if config.flag("use_cayley_neumann", True) else None, "largest": limit}

    @property
    def block_size(self) -> int:
        """b from the b(b-1)/2 numbers of a triangle."""
        return int((1 + (1 + 8 * self.packed.shape[1]) ** 0.5) / 2 + 0.5)

    @property
    def rank(self) -> int:
        """The block size."""
        return self.block_size

    @property
    def is_zero(self) -> bool:
        """Tell whether nothing is rotated."""
        return not bool(self.packed.float().any())

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say that the blocks do not tile the input columns."""
        if self.packed.shape[1] != self.block_size * (self.block_size - 1) // 2:
            return f"oft_R {tuple(self.packed.shape)} is the upper triangle of no block"
        return columns_fit(self.packed.shape[0], self.block_size, shape, "oft_R")

    def rotations(self, shape: Sequence[int]) -> Tensor:
        """Unpack Q, constrain it, and return R."""
        size, packed = self.block_size, exact(self.packed)
        row, col = torch.triu_indices(size, size, 1, device=packed.device)
        block = torch.arange(len(packed), device=packed.device)[:, None]
        upper = packed.new_zeros(packed.shape[0], size, size).index_put((block, row, col), packed)
        skew = upper - upper.transpose(1, 2)
        if self.divided is not None:
            skew = skew / (2 * (size - 1) ** 0.5)
        if self.largest is not None:
            skew = projected(skew, self.largest)
        turned = cayley(-skew) if self.terms is None else neumann(skew, self.terms)
        if self.transposed_convolutions and len(shape) > 2:
            turned = turned.transpose(1, 2)
        return repeated(turned, columns(shape))


@dataclass(frozen=True, eq=False, kw_only=True)
class InputOFT(InputRotation):
    """``oft_r`` with ``oft_s``: PEFT 0.13 to 0.15."""

    name: ClassVar[str] = "oft (peft 0.13)"
    reads_output: ClassVar[bool] = True

    blocks: Tensor = stored("oft_r", axes=(3, 3))  # (n, b, b), n·b = in·k
    row_scale: Tensor = stored("oft_s")  # (out, 1)
    eps: float | None = None  # COFT: what limits the norm of a block

    @classmethod
    def from_config(cls, config: Config, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return COFT's eps."""
        return {"eps": config.number("eps", 6e-5) if config.flag("coft") else None}

    @property
    def rank(self) -> int:
        """The block size."""
        return self.blocks.shape[-1]

    @property
    def gain(self) -> Tensor | None:
        """oft_s."""
        return self.row_scale

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say that the blocks do not tile the input columns."""
        fitting = columns_fit(self.blocks.shape[0], self.blocks.shape[1], shape, "oft_r", self.row_scale)
        return not_square(self.blocks, "oft_r") or fitting

    def rotations(self, shape: Sequence[int]) -> Tensor:
        """Return D."""
        return repeated(half_cayley(self.blocks, self._largest(shape)), columns(shape))

    def _largest(self, shape: Sequence[int]) -> float | None:
        """Return the norm that a block may have: it grows with the outputs for each block of inputs."""
        if self.eps is None:
            return None
        outputs = ceil(shape[0] / (columns(shape) // self.rank))
        return self.eps * outputs**2 / sqrt(self.blocks.shape[0])


@dataclass(frozen=True, eq=False, kw_only=True)
class OutputOFT(Algorithm):
    """``oft_r`` alone: PEFT <= 0.12, W' = blockdiag(D)ᵀ · W."""

    name: ClassVar[str] = "oft (peft 0.11)"
    reads_output: ClassVar[bool] = True

    blocks: Tensor = stored("oft_r", axes=(3, 3))  # (n, b, b), n·b >= out; n = 1 when one block is shared
    largest: float | None = None  # COFT: the norm that a block may have

    @classmethod
    def detects(cls, tensors: Mapping[str, Tensor], config: Config = NO_CONFIG) -> bool:
        """Tell whether there are blocks and no row scales."""
        return "oft_r" in tensors and "oft_s" not in tensors

    @classmethod
    def from_config(cls, config: Config, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return COFT's limit."""
        count, size = tensors["oft_r"].shape[:2]  # PEFT <= 0.13: it grew with the blocks
        return {"largest": config.number("eps", 6e-5) * size**2 / sqrt(count) if config.flag("coft") else None}

    @property
    def rank(self) -> int:
        """The block size."""
        return self.blocks.shape[-1]

    @property
    def is_zero(self) -> bool:
        """Tell whether nothing is rotated."""
        return not bool(self.blocks.float().any())

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say that the blocks do not cover the output rows."""
        count, size = self.blocks.shape[:2]
        if problem := not_square(self.blocks, "oft_r"):
            return problem
        if len(shape) and (count == 1 or 0 <= count * size - shape[0] < size * count):
            return None
        return f"oft_r {tuple(self.blocks.shape)} does not cover the outputs of a layer {tuple(shape)} - is this file for another model?"

    def matrix(self, rows: int) -> Tensor:
        """Return Dᵀ - I as (n, b, b) in float64; of the last block the rows and columns beyond the layer's meet zeros only."""
        blocks = repeated(half_cayley(self.blocks, self.largest), rows).transpose(1, 2)
        return blocks - torch.eye(blocks.shape[-1], dtype=blocks.dtype, device=blocks.device)

    def delta(self, weight: Tensor) -> Tensor:
        """Return the turned rows minus the rows."""
        matrix, rows = self.matrix(weight.shape[0]), flat(weight)
        beyond = matrix.shape[0] * matrix.shape[1] - len(rows)
        return change_of_rows(matrix, F.pad(rows, (0, 0, 0, beyond)))[: len(rows)].reshape(weight.shape)

    def bypass(self, layer: Layer) -> Bypass:
        """Return the turned output minus the output."""
        matrix, rows = self.matrix(layer.shape[0]), layer.shape[0]
        turn = block_rows(layer, matrix)
        beyond = matrix.shape[0] * matrix.shape[1] - rows
        if not beyond:
            return turn
        axis = -1 if layer.convolution is None else 1
        edge = (0, beyond) if layer.convolution is None else (0, 0) * (len(layer.shape) - 2) + (0, beyond)
        return Bypass(lambda x, y: turn(x, F.pad(y, edge)).narrow(axis, 0, rows))


def half_cayley(blocks: Tensor, largest: float | None = None) -> Tensor:
    """Return D = (I - S)(I + S)⁻¹ with S = (A - Aᵀ)/2 for PEFT's blocks (..., b, b), in float64."""
    raw = exact(blocks) if largest is None else projected(exact(blocks), largest)
    return cayley(-(raw - raw.transpose(-1, -2)) / 2)
