"""ΔW[o, c] = B[c mod r, o]: one small matrix repeated over W's input columns; ``bat``: ΔW = W_ij · B_i + B_i on blocks of r x r.

MiSS (arXiv 2409.15371, called Bone before, with ``bone_block``) by PEFT, on linear layers. Three forms, which the shape tells: (r, out);
``mini`` (r, m), repeated over the outputs too; ``bat`` (out/r, r, r). r need not divide the inputs, but in ``bat``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..records import dataclass
from .activation import Bypass, Layer, dense
from .base import Algorithm, Factors, flat, only_linear, precise, stored
from .config import NO_CONFIG, Config
from .factored import Factored


@dataclass(frozen=True, eq=False, kw_only=True)
class MiSS(Factored):
    """A block, repeated."""

    name: ClassVar[str] = "miss"
    additive: ClassVar[bool] = True
    one_of_each_term: ClassVar[tuple[str, ...]] = ("block",)

    block: Tensor = stored("miss_block", axes=(2, 2))  # (r, out), or (r, m) with m a divisor of out

    @classmethod
    def detects(cls, tensors: Mapping[str, Tensor], config: Config = NO_CONFIG) -> bool:
        """Tell whether there is a block; one of three axes is ``bat``'s."""
        return "miss_block" in tensors and tensors["miss_block"].dim() != 3

    @property
    def rank(self) -> int:
        """The rows of the block."""
        return self.block.shape[0]

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say that the block does not tile the layer."""
        if problem := only_linear(self.name, shape):
            return problem
        if self.rank <= shape[1] and shape[0] % self.block.shape[1] == 0:
            return None
        return f"miss_block {tuple(self.block.shape)} does not tile a layer {tuple(shape)} - is this file for another model?"

    def factors(self, weight: Tensor) -> Factors:
        """Return Bᵀ, repeated, and which row of B each input column takes."""
        up = precise(self.block, weight).T
        down = torch.eye(self.rank, dtype=up.dtype, device=up.device).repeat(1, -(-weight.shape[1] // self.rank))
        return up.repeat(weight.shape[0] // up.shape[0], 1), down[:, : weight.shape[1]]


@dataclass(frozen=True, eq=False, kw_only=True)
class MiSSBat(Algorithm):
    """Blocks that multiply W, and are added to it."""

    name: ClassVar[str] = "miss (bat)"
    binds_weight: ClassVar[bool] = True
    one_of_each_term: ClassVar[tuple[str, ...]] = ("blocks",)

    blocks: Tensor = stored("miss_block", axes=(3, 3))  # (out/r, r, r)

    @classmethod
    def detects(cls, tensors: Mapping[str, Tensor], config: Config = NO_CONFIG) -> bool:
        """Tell whether there are blocks."""
        return "miss_block" in tensors and tensors["miss_block"].dim() == 3

    @property
    def rank(self) -> int:
        """The block size."""
        return self.blocks.shape[-1]

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say that the blocks do not tile the layer."""
        if problem := only_linear(self.name, shape):
            return problem
        count, size, other = self.blocks.shape
        if size == other and count * size == shape[0] and shape[1] % size == 0:
            return None
        return f"miss_block {tuple(self.blocks.shape)} does not tile a layer {tuple(shape)} - is this file for another model?"

    def delta(self, weight: Tensor) -> Tensor:
        """Return W_ij · B_i + B_i for every block."""
        blocks = precise(self.blocks, weight)[:, None]  # (out/r, 1, r, r)
        count, size = self.blocks.shape[:2]
        tiles = flat(precise(weight, weight)).reshape(count, size, -1, size).transpose(1, 2)  # (out/r, in/r, r, r)
        return (tiles @ blocks + blocks).transpose(1, 2).reshape(weight.shape)

    def bypass(self, layer: Layer) -> Bypass:
        """Return a second full-size product: every block of outputs sees other inputs."""
        return dense(layer, self.delta(layer.weight))
