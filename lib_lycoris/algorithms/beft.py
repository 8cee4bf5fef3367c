"""Δbias = beft_bias: a trained bias and nothing else.

BEFT by PEFT, on linear layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import ClassVar

from torch import Tensor

from ..records import dataclass
from .base import Algorithm, stored
from .full import Full


@dataclass(frozen=True, eq=False, kw_only=True)
class BEFT(Full):
    """The difference of a bias."""

    name: ClassVar[str] = "beft"

    diff: Tensor = stored("beft_bias", axes=(1, 2))  # (1, out)

    def rows(self, its: slice | Tensor) -> Algorithm | None:
        """Return these entries of the difference."""
        return replace(self, diff=self.diff.flatten()[its])

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say that the bias has another length."""
        if self.diff.numel() == prod(shape) and self.diff.shape[-1] == self.diff.numel():
            return None
        return f"beft_bias is {tuple(self.diff.shape)}, but the bias is {tuple(shape)} - is this file for another model?"
