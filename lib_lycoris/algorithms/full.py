"""ΔW = diff; Δbias = diff_b.

Full ("native" fine-tuning) by LyCORIS and extraction tools, on any layer, norms and embeddings too. A bias delta may come alone
(control files), and other algorithms bring one too, as PEFT's lora_B.bias. A layer without a bias gets one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import ClassVar

from torch import Tensor

from ..records import dataclass
from .activation import Bypass, Layer, dense
from .base import Algorithm, precise, stored


@dataclass(frozen=True, eq=False, kw_only=True)
class Full(Algorithm):
    """The whole difference of a parameter, stored as it is."""

    name: ClassVar[str] = "full"
    additive: ClassVar[bool] = True
    one_of_each_term: ClassVar[tuple[str, ...]] = ("diff",)

    diff: Tensor = stored("diff")  # the parameter's shape

    @property
    def is_zero(self) -> bool:
        """Tell whether the difference is all zero."""
        return not bool(self.diff.float().any())

    def rows(self, its: slice | Tensor) -> Algorithm | None:
        """Return these rows of the difference."""
        return replace(self, diff=self.diff[its])

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


@dataclass(frozen=True, eq=False, kw_only=True)
class LoRABias(Full):
    """What PEFT (``lora_bias``) adds to the bias beside a LoRA, and its scale."""

    name: ClassVar[str] = "bias (peft)"

    diff: Tensor = stored("lora_B.bias")  # (out,)
    scale: float = 1.0  # of the LoRA that it comes with

    def to_state_dict(self) -> dict[str, Tensor]:
        """Return the scaled difference as any bias, which needs no LoRA beside it."""
        return {"diff_b": self.diff.float() * self.scale}

    def delta(self, weight: Tensor) -> Tensor:
        """Return the scaled difference."""
        return super().delta(weight) * self.scale
