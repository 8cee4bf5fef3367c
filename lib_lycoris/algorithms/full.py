"""ΔW = diff; Δbias = diff_b.

Full ("native" fine-tuning) by LyCORIS and extraction tools, on any layer, norms and embeddings too. A bias delta may come alone
(control files), and other algorithms bring one too: PEFT's lora_B.bias, already scaled when it gets here. A layer without a bias
gets one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from torch import Tensor

from .activation import Bypass, Layer, dense
from .base import Algorithm, precise, stored


@dataclass(frozen=True, eq=False, kw_only=True)
class Full(Algorithm):
    """The whole difference of a parameter, stored as it is."""

    name: ClassVar[str] = "full"

    diff: Tensor = stored("diff")  # the parameter's shape

    @property
    def is_zero(self) -> bool:
        """Tell whether the difference is all zero."""
        return not bool(self.diff.float().any())

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say that the difference has another shape."""
        if self.diff.numel() == prod(shape) and (not shape or self.diff.shape[0] == shape[0]):
            return None
        return f"diff is {tuple(self.diff.shape)}, but the parameter is {tuple(shape)} - is this file for another model?"

    def delta(self, weight: Tensor) -> Tensor:
        """Return the difference."""
        return precise(self.diff, weight).reshape(weight.shape)

    def bypass(self, layer: Layer) -> Bypass:
        """Return a second full-size product: the file holds nothing smaller."""
        return dense(layer, self.diff)


@dataclass(frozen=True, eq=False, kw_only=True)
class Bias(Full):
    """The difference of a bias, stored beside the weight's tensors."""

    name: ClassVar[str] = "bias"

    diff: Tensor = stored("diff_b")  # (out,)
