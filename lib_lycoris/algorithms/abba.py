"""ΔW = α² / √(r1·r2) · (up1 · down1) ⊙ (up2 · down2): two low-rank matrices multiplied entry by entry, of two ranks.

ABBA (arXiv 2505.14238) by a fork of LyCORIS. As LoHa it is low-rank itself, of rank r1·r2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..records import dataclass
from .base import Factors, expect, flat, precise, stored
from .factored import Factored


@dataclass(frozen=True, eq=False, kw_only=True)
class ABBA(Factored):
    """The factors of both matrices."""

    name: ClassVar[str] = "abba"
    additive: ClassVar[bool] = True
    one_of_each_term: ClassVar[tuple[str, ...]] = ("up1",)

    up1: Tensor = stored("lora_up1.weight", axes=(2, 5))  # (out, r1)
    down1: Tensor = stored("lora_down1.weight", axes=(2, 5))  # (r1, in·k)
    up2: Tensor = stored("lora_up2.weight", axes=(2, 5))  # (out, r2)
    down2: Tensor = stored("lora_down2.weight", axes=(2, 5))  # (r2, in·k)
    alpha: float | None = stored("alpha", optional=True, scalar=True)

    @property
    def rank(self) -> int:
        """The first matrix's rank."""
        return self.down1.shape[0]

    @property
    def scale(self) -> float:
        """α² / √(r1·r2); without alpha 1."""
        return 1.0 if self.alpha is None else self.alpha**2 / (self.down1.shape[0] * self.down2.shape[0]) ** 0.5

    def factor_rank(self, shape: Sequence[int]) -> int:
        """Return r1·r2."""
        return self.down1.shape[0] * self.down2.shape[0]

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say why either product has another shape."""
        for number, (up, down) in {1: (self.up1, self.down1), 2: (self.up2, self.down2)}.items():
            up, down = flat(up), flat(down)
            if up.shape[1] != down.shape[0]:
                return f"lora_up{number} {tuple(up.shape)} and lora_down{number} {tuple(down.shape)} have different ranks"
            made = (up.shape[0], down.shape[1])
            if problem := expect(f"lora_up{number} {tuple(up.shape)} x lora_down{number} {tuple(down.shape)}", made, shape):
                return problem
        return None

    def factors(self, weight: Tensor) -> Factors:
        """Return the Khatri-Rao products of both matrices' factors."""
        a, b, c, d = (precise(flat(t), weight) for t in (self.up1, self.down1, self.up2, self.down2))
        up = torch.einsum("op,oq->opq", a * self.scale, c).flatten(1)
        return up, torch.einsum("pi,qi->pqi", b, d).flatten(0, 1)

    def delta(self, weight: Tensor) -> Tensor:
        """Return the product of both matrices, entry by entry."""
        a, b, c, d = (precise(flat(t), weight) for t in (self.up1, self.down1, self.up2, self.down2))
        return ((a @ b * self.scale) * (c @ d)).reshape(weight.shape)
