"""W' = boft_s ⊙ (W · Tᵀ), T = B_N ... B_1, B_i = P_i · blockdiag(D_i) · P_iᵀ on the flattened input columns.

BOFT (arXiv 2311.06243) by PEFT. D as in peft_oft.py; P_i is the identity for one stage, else it brings together, in every run of
b · 2^i columns (i from 0), the chunks of b/2 with even numbers before those with odd ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..records import dataclass
from .activation import Bypass, Layer, on_inputs
from .base import Algorithm, columns, flat, precise, stored
from .oft import not_square
from .peft_oft import columns_fit, half_cayley, turn_columns


def permutation(total: int, size: int, stage: int, device: torch.device) -> Tensor:
    """Return for stage i the column that comes to each place: (total,)."""
    chunks = torch.arange(total, device=device).reshape(-1, 2**stage * 2, size // 2)
    return torch.cat((chunks[:, 0::2], chunks[:, 1::2]), 1).flatten()


@dataclass(frozen=True, eq=False, kw_only=True)
class PeftBOFT(Algorithm):
    """A product of butterfly rotations of the input columns, and a scale of each output row."""

    name: ClassVar[str] = "boft (peft)"
    reads_output: ClassVar[bool] = True

    blocks: Tensor = stored("boft_R", axes=(4, 4))  # (N, n, b, b), n·b = in·k
    row_scale: Tensor = stored("boft_s")  # (out, 1); (1, out) on convolutions

    @property
    def rank(self) -> int:
        """The block size."""
        return self.blocks.shape[-1]

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say that the blocks do not tile the input columns, or that a stage's stride does not."""
        stages, count, size = self.blocks.shape[:3]
        if problem := not_square(self.blocks, "boft_R") or columns_fit(count, size, shape, "boft_R", self.row_scale):
            return problem
        if count * size != columns(shape):
            turned = f"boft_R {tuple(self.blocks.shape)} turns {count * size} inputs"
            return f"{turned}, but the layer is {tuple(shape)} - is this file for another model?"
        if stages > 1 and (size % 2 or count * size % (2 ** (stages - 1) * size)):
            return f"{stages} stages of blocks of {size} do not divide the layer's {count * size} inputs"
        return None

    def rotations(self) -> tuple[Tensor, list[Tensor]]:
        """Return D (N, n, b, b) in float64 and the permutation of every stage."""
        stages, count, size = self.blocks.shape[:3]
        total, device = count * size, self.blocks.device
        orders = [torch.arange(total, device=device)] if stages == 1 else [permutation(total, size, i, device) for i in range(stages)]
        return half_cayley(self.blocks), orders

    def delta(self, weight: Tensor) -> Tensor:
        """Return the turned columns, rows scaled, minus the weight."""
        rotations, orders = self.rotations()
        base = precise(weight, weight)
        turned = flat(base)
        for rotation, order in zip(precise(rotations, weight), orders):
            # B = P·D·Pᵀ, P[j, order[j]] = 1: Pᵀ scatters what comes to a place, P gathers it again
            place = order.to(turned.device)
            scattered = torch.empty_like(turned).index_copy(1, place, turned)
            turned = turn_columns(rotation, scattered)[:, place]
        return (turned * precise(self.row_scale, weight).reshape(-1, 1)).reshape(weight.shape) - base

    def bypass(self, layer: Layer) -> Bypass:
        """Return the output of the turned input, rows scaled, minus the output."""
        rotations, orders = self.rotations()
        back = layer.to_compute(rotations.transpose(-1, -2))
        places = [order.to(layer.device) for order in orders]
        inverse = [torch.argsort(order) for order in places]

        def turn(x: Tensor) -> Tensor:
            for rotation, place, undo in reversed(list(zip(back, places, inverse))):
                x = turn_columns(rotation, x[..., undo])[..., place]
            return x

        return on_inputs(layer, turn, self.row_scale.flatten())
