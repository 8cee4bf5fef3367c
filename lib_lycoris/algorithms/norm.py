"""ΔW = w_norm; Δbias = b_norm (which may be absent).

The weights of LayerNorm and GroupNorm layers as LyCORIS trains them (``train_norm``).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ..records import dataclass
from .base import stored
from .full import Full


@dataclass(frozen=True, eq=False, kw_only=True)
class Norm(Full):
    """The difference of a norm layer's weight."""

    name: ClassVar[str] = "norm"

    diff: Tensor = stored("w_norm")  # (channels,)


@dataclass(frozen=True, eq=False, kw_only=True)
class NormBias(Full):
    """The difference of a norm layer's bias."""

    name: ClassVar[str] = "norm bias"

    diff: Tensor = stored("b_norm")  # (channels,)
