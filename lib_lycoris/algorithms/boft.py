"""W' = rescale ⊙ (S_m ... S_2 S_1 · W): stage i is a block-diagonal rotation R_i between strided groups of output rows.

BOFT (arXiv 2311.06243) by LyCORIS: stage i (from 0) looks at the rows as (c, 2, g) with g = 2^i · b/2, exchanges the last two axes,
cuts the result into blocks of b, multiplies block j by R[i, j] and goes back. R = (I + Q)(I - Q)⁻¹ as in oft.py, the constraint over
all stages together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..records import dataclass
from .activation import Bypass, Layer
from .base import precise
from .config import NO_CONFIG, Config
from .oft import OutputRotation, cayley, rows_fit


def butterfly(rotations: Tensor, rows: Tensor) -> Tensor:
    """Return all stages applied to rows (batch, out, positions); rotations: (m, n, b, b), n·b = out."""
    stages, count, size = rotations.shape[:3]
    batch, out, positions = rows.shape
    for i in range(stages):
        stride = 2**i * size // 2
        grouped = rows.reshape(batch, -1, 2, stride, positions).transpose(2, 3).reshape(batch, count, size, positions)
        turned = torch.matmul(rotations[i], grouped)
        rows = turned.reshape(batch, -1, stride, 2, positions).transpose(2, 3).reshape(batch, out, positions)
    return rows


@dataclass(frozen=True, eq=False, kw_only=True)
class BOFT(OutputRotation):
    """A product of butterfly rotations of the output rows; blocks: (m, n, b, b), b even."""

    name: ClassVar[str] = "boft"

    @classmethod
    def detects(cls, tensors: Mapping[str, Tensor], config: Config = NO_CONFIG) -> bool:
        """Tell whether the blocks have stages."""
        return "oft_blocks" in tensors and tensors["oft_blocks"].dim() == 4

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say that the blocks do not tile the output rows, or that a stage's stride does not."""
        if problem := rows_fit(self.blocks, shape, "oft_blocks", self.rescale):
            return problem
        stages, _, size = self.blocks.shape[:3]
        if size % 2 or shape[0] % (2 ** (stages - 1) * size):
            return f"{stages} stages of blocks of {size} do not divide the layer's {shape[0]} outputs"
        return None

    def rotations(self) -> Tensor:
        """Return every R as (m, n, b, b) in float64."""
        return cayley(self.skew())

    def delta(self, weight: Tensor) -> Tensor:
        """Return the turned rows minus the rows."""
        rows = precise(weight, weight)
        turned = butterfly(precise(self.rotations(), weight), rows.reshape(1, weight.shape[0], -1)).reshape(weight.shape)
        if self.rescale is not None:
            turned = turned * precise(self.rescale, weight).reshape(-1, *(1,) * (weight.dim() - 1))
        return turned - rows

    def bypass(self, layer: Layer) -> Bypass:
        """Return the turned output minus the output."""
        rotations = layer.to_compute(self.rotations())
        gain = None if self.rescale is None else layer.to_compute(self.rescale).reshape(-1, 1)

        def act(x: Tensor, y: Tensor) -> Tensor:
            linear = layer.convolution is None
            rows = y.reshape(1, -1, y.shape[-1]).transpose(1, 2) if linear else y.flatten(2)
            turned = butterfly(rotations, rows)
            turned = turned if gain is None else turned * gain
            return (turned.transpose(1, 2) if linear else turned).reshape(y.shape) - y

        return Bypass(act)
