"""ΔW = (α/r) · (P · diag(λ) · Q - U_r · diag(S_r) · V_rᵀ): trained factors minus the ones that training began with.

T-LoRA (arXiv 2507.05964) by LyCORIS >= 4. The file holds P, Q and λ only; the beginning is the rank-r principal part of the *base weight's*
singular value decomposition, found again here. On another checkpoint than the one trained on, the difference of both principal parts stays
in ΔW. At inference every rank is on at every timestep, as in the trainer. 3x3 convolutions cannot be trained by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from ..records import dataclass
from .base import Algorithm, Factors, exact, expect, flat, stored
from .displaced import Displaced, principal


@dataclass(frozen=True, eq=False, kw_only=True)
class TLoRA(Displaced):
    """Singular factors, trained."""

    name: ClassVar[str] = "t-lora"

    q: Tensor = stored("q_layer.weight", axes=(2, 5))  # (r, in)
    p: Tensor = stored("p_layer.weight", axes=(2, 5))  # (out, r)
    lambdas: Tensor = stored("lambda_layer")  # (1, r)

    @property
    def rank(self) -> int:
        """The rows of Q."""
        return self.q.shape[0]

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say why the factors do not multiply to this shape."""
        p, q = flat(self.p).shape, flat(self.q).shape
        if p[1] != q[0] or self.lambdas.numel() != q[0]:
            return f"p_layer {tuple(p)}, lambda_layer {tuple(self.lambdas.shape)} and q_layer {tuple(q)} have different ranks"
        return expect(f"p_layer {tuple(p)} x q_layer {tuple(q)}", (p[0], q[1]), shape)

    def trained(self) -> Factors:
        """Return P · λ and Q."""
        return exact(flat(self.p).cpu()) * exact(self.lambdas.cpu()).flatten() * self.scale, exact(flat(self.q).cpu())

    def beginning(self, weight: Tensor) -> Factors:
        """Return W's principal part of the rank."""
        up, down = principal(weight, self.rank)
        return up * self.scale, down

    def scaled(self, strength: float) -> Algorithm | None:
        """Return this with another α, which alone multiplies both products."""
        return replace(self, alpha=strength * (self.rank if self.alpha is None else self.alpha))
