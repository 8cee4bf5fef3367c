"""ΔW = D / in, D made of circulant blocks: D_mn[i, j] = k_mn[(j - i) mod b].

C3A (arXiv 2407.19342) by PEFT, on linear layers: a block-circular convolution of the input, which PEFT computes by Fourier transforms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..records import dataclass
from .activation import Bypass, Layer, dense
from .base import Algorithm, only_linear, precise, stored


@dataclass(frozen=True, eq=False, kw_only=True)
class C3A(Algorithm):
    """One row of each block."""

    name: ClassVar[str] = "c3a"
    additive: ClassVar[bool] = True
    one_of_each_term: ClassVar[tuple[str, ...]] = ("kernel",)

    kernel: Tensor = stored("c3a_kernel", axes=(3, 3))  # (out/b, in/b, b)

    @property
    def rank(self) -> int:
        """The block size."""
        return self.kernel.shape[2]

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say that the blocks do not tile the layer."""
        if problem := only_linear(self.name, shape):
            return problem
        rows, columns, size = self.kernel.shape
        if (rows * size, columns * size) == (shape[0], shape[1]):
            return None
        return f"c3a_kernel {tuple(self.kernel.shape)} does not tile a layer {tuple(shape)} - is this file for another model?"

    def delta(self, weight: Tensor) -> Tensor:
        """Return every block, each row the one above it shifted by one."""
        size = self.kernel.shape[2]
        places = torch.arange(size, device=weight.device)
        blocks = precise(self.kernel, weight)[:, :, (places[None] - places[:, None]) % size]  # (m, n, i, j)
        return blocks.transpose(1, 2).reshape(weight.shape) / weight.shape[1]

    def bypass(self, layer: Layer) -> Bypass:
        """Return a second full-size product."""
        return dense(layer, self.delta(layer.weight))
