"""W'_j = rescale_j ⊙ (R_jᵀ · W_j) on blocks of b output rows; R = (I + Q)(I - Q)⁻¹, Q = B - Bᵀ, ‖Q‖ <= constraint.

Diag-OFT and COFT (arXiv 2306.07280) by LyCORIS, OFT by kohya's sd-scripts (``oft_unet_``; few large blocks), and LyCORIS 2.0's
``oft_diag``, which holds R itself. The key "alpha" is no scale: alpha · out is the largest norm that Q may have, over all blocks of
the layer together; 0, negative or absent means none - but in kohya's files, where 0 freezes the layer, which we read as no change.
The bias is not rotated. LyCORIS 2.1.0 broadcast a 1-D rescale along the inputs by mistake; it is read per row.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from ..records import dataclass
from .activation import Bypass, Cost, Layer, block_rows
from .base import Algorithm, exact, precise, stored
from .config import NO_CONFIG, Config
from .products import row_blocks

PRODUCTS = 1 << 20  # bytes of products at a time: they do not leave the processor's cache before they are added


def constrained(skew: Tensor, limit: float) -> Tensor:
    """Return skew-symmetric blocks, scaled down so that their common Frobenius norm is at most limit; limit <= 0: as they are."""
    return skew * (limit / skew.norm()).clamp(max=1.0) if limit > 0 else skew  # no question that an accelerator would have to be waited for


def cayley(skew: Tensor) -> Tensor:
    """Return (I + Q)(I - Q)⁻¹ for blocks (..., b, b), solved together."""
    eye = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
    solved: Tensor = torch.linalg.solve_ex(eye - skew, eye + skew, left=False).result  # never singular: no eigenvalue of Q is real but 0
    return solved


def change_of_rows(matrix: Tensor, weight: Tensor) -> Tensor:
    """Return blockdiag(matrix) · W; matrix: (n, b, b), n·b = out."""
    blocks = precise(matrix, weight)
    rows = precise(weight, weight).reshape(blocks.shape[0], blocks.shape[1], -1)
    return torch.matmul(blocks, rows).reshape(weight.shape)


def add_turned_rows(out: Tensor, base: Tensor, matrix: Tensor, weight: Tensor, strength: float) -> None:
    """Write base + s · blockdiag(matrix) · W into out; matrix: (n, b, b), n·b = out."""
    blocks = precise(matrix, weight) * strength
    shape = (*blocks.shape[:2], -1)
    turned, rows, start = out.view(shape), precise(weight, weight).reshape(shape), base.reshape(shape)
    for some in row_blocks(turned, PRODUCTS):
        torch.add(start[some], torch.bmm(blocks[some], rows[some]), out=turned[some])


def work_of_rows(size: int, shape: Sequence[int]) -> Cost:
    """Return the cost of turning blocks of so many rows of the output, or of the weight."""
    whole, wide = float(prod(shape)), max(size, 64)  # narrower products take as long
    return Cost(wide * shape[0], 3.0 * shape[0], wide * whole, 2.0 * whole)


def not_square(blocks: Tensor, what: str) -> str | None:
    """Say that blocks (..., b, b) are none: nothing of them is a rotation."""
    return None if blocks.shape[-1] == blocks.shape[-2] else f"{what} {tuple(blocks.shape)} holds no square blocks"


def rows_fit(blocks: Tensor, shape: Sequence[int], what: str, rescale: Tensor | None = None) -> str | None:
    """Say that blocks (n, b, b) do not tile the output rows, or that there is not one scale for each of them."""
    if rescale is not None and len(shape) and rescale.numel() != shape[0]:
        return f"rescale has {rescale.numel()} numbers, but the layer is {tuple(shape)} - is this file for another model?"
    if blocks.shape[-1] == blocks.shape[-2] and len(shape) and blocks.shape[-3] * blocks.shape[-2] == shape[0]:
        return None
    got = f"{what} {tuple(blocks.shape)} rotates {blocks.shape[-3] * blocks.shape[-2]} outputs"
    return f"{got}, but the layer is {tuple(shape)} - is this file for another model?"


@dataclass(frozen=True, eq=False, kw_only=True)
class OutputRotation(Algorithm):
    """What LyCORIS stores of rotations of the output rows, in one stage (here) or in several (boft.py)."""

    reads_output: ClassVar[bool] = True
    keeps_zero: ClassVar[bool] = True

    blocks: Tensor = stored("oft_blocks", axes=(3, 4))  # (n, b, b), n·b = out; (m, n, b, b) with m stages
    constraint: float | None = stored("alpha", optional=True, scalar=True)  # of ‖Q‖, per output row
    rescale: Tensor | None = stored("rescale", optional=True)  # (out, 1[, 1, 1])
    turns_bias: bool = False  # LyCORIS' bypass_mode: it is the layer's output that training turned

    def on_bias(self, shape: Sequence[int]) -> Algorithm | None:
        """Return this where the output was turned, which has the bias in it."""
        return self if self.turns_bias else None

    @property
    def rank(self) -> int:
        """The block size."""
        return self.blocks.shape[-1]

    @property
    def is_zero(self) -> bool:
        """Tell whether nothing is rotated or rescaled."""
        return self.rescale is None and not bool(self.blocks.float().any())

    def skew(self) -> Tensor:
        """Return every Q = B - Bᵀ in float64, all of the layer together held to the constraint."""
        blocks = exact(self.blocks)
        outputs = blocks.shape[-3] * blocks.shape[-2]
        return constrained(blocks - blocks.transpose(-1, -2), (self.constraint or 0.0) * outputs)


class Rotated(Algorithm):
    """What all that multiply blocks of output rows by a matrix have in common."""

    reads_output: ClassVar[bool] = True

    @abstractmethod
    def matrix(self) -> Tensor:
        """Return rescale ⊙ Rᵀ - I as (n, b, b), in float64 where it is computed."""

    def delta(self, weight: Tensor) -> Tensor:
        """Return the rotated rows minus the rows."""
        return change_of_rows(self.matrix(), weight)

    def add_delta(self, out: Tensor, base: Tensor, weight: Tensor, strength: float) -> None:
        """Write base + s · ΔW into out in one product."""
        add_turned_rows(out, base, self.matrix(), weight, strength)

    def cost(self, shape: Sequence[int]) -> Cost:
        """Return the cost of one block-diagonal product."""
        return work_of_rows(self.rank or 1, shape)

    def bypass(self, layer: Layer) -> Bypass:
        """Return the rotated output minus the output."""
        return block_rows(layer, self.matrix())

    def bound(self, weight: Tensor) -> Algorithm:
        """Return the matrix alone."""
        return RotationMatrix(blocks=precise(self.matrix(), weight))

    def prepared(self, dtype: torch.dtype) -> Algorithm:
        """Return the matrix alone: the blocks are inverted once, and not kept beside it."""
        made = self.matrix().to(torch.promote_types(dtype, torch.float32))
        return RotationMatrix(blocks=made.contiguous())  # a turned one would be copied for the layer


@dataclass(frozen=True, eq=False, kw_only=True)
class RotationMatrix(Rotated):
    """rescale ⊙ Rᵀ - I itself, in memory only: no file holds it."""

    name: ClassVar[str] = "oft"

    blocks: Tensor  # (n, b, b)

    @property
    def rank(self) -> int:
        """The block size."""
        return self.blocks.shape[-1]

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say that the blocks do not tile the output rows."""
        return rows_fit(self.blocks, shape, self.name)

    def matrix(self) -> Tensor:
        """Return it."""
        return self.blocks

    def prepared(self, dtype: torch.dtype) -> Algorithm:
        """Return this."""
        return self


@dataclass(frozen=True, eq=False, kw_only=True)
class OFT(OutputRotation, Rotated):
    """A block-diagonal rotation of the output rows."""

    name: ClassVar[str] = "oft"

    zero_constraint_freezes: bool = False  # kohya's files

    @classmethod
    def detects(cls, tensors: Mapping[str, Tensor], config: Config = NO_CONFIG) -> bool:
        """Tell whether the blocks are one layer of rotations; four axes are BOFT's."""
        return "oft_blocks" in tensors and tensors["oft_blocks"].dim() == 3

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say that the blocks do not tile the output rows."""
        return rows_fit(self.blocks, shape, "oft_blocks", self.rescale)

    def matrix(self) -> Tensor:
        """Return rescale ⊙ Rᵀ - I as (n, b, b) in float64."""
        count, size = self.blocks.shape[:2]
        eye = torch.eye(size, dtype=torch.float64, device=self.blocks.device)
        if self.zero_constraint_freezes and self.constraint == 0:
            return torch.zeros(count, size, size, dtype=torch.float64, device=self.blocks.device)
        turned = cayley(self.skew()).transpose(1, 2)
        if self.rescale is not None:
            turned = turned * exact(self.rescale).reshape(count, size, 1)
        return turned - eye


@dataclass(frozen=True, eq=False, kw_only=True)
class StoredRotation(Rotated):
    """LyCORIS 2.0's form: W'_j = R_jᵀ · W_j with R in the file, constraint and rescale already in it."""

    name: ClassVar[str] = "oft (2.0)"

    rotation: Tensor = stored("oft_diag", axes=(3, 3))  # (n, b, b)

    @property
    def rank(self) -> int:
        """The block size."""
        return self.rotation.shape[-1]

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say that the blocks do not tile the output rows."""
        return rows_fit(self.rotation, shape, "oft_diag")

    def matrix(self) -> Tensor:
        """Return Rᵀ - I as (n, b, b) in float64."""
        turned = exact(self.rotation).transpose(1, 2)
        return turned - torch.eye(turned.shape[-1], dtype=turned.dtype, device=turned.device)
