"""ΔW = (α/r) · (P · diag(λ) · Q - U_r · diag(S_r) · V_rᵀ): trained factors minus the ones that training began with.

T-LoRA (arXiv 2507.05964) by LyCORIS >= 4. The file holds P, Q and λ only; the beginning is the rank-r principal part of the *base weight's*
singular value decomposition, found again here. On another checkpoint than the one trained on, the difference of both principal parts stays
in ΔW. At inference every rank is on at every timestep, as in the trainer. 3x3 convolutions cannot be trained by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from .activation import Cost
from .base import Algorithm, Scaled, columns, expect, flat, precise, stored
from .factored import Factored

SVD = 20.0  # multiply-adds for short² · long numbers of a matrix


@dataclass(frozen=True, eq=False, kw_only=True)
class TLoRA(Factored, Scaled):
    """Singular factors, trained."""

    name: ClassVar[str] = "t-lora"
    binds_weight: ClassVar[bool] = True

    q: Tensor = stored("q_layer.weight")  # (r, in)
    p: Tensor = stored("p_layer.weight")  # (out, r)
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

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return ΔW as LoRA factors of rank 2r: up (out, 2r) with the scale in it, down (2r, in)."""
        # float64 on the CPU: the two principal parts are nearly equal, what counts is their small difference
        u, s, v = torch.linalg.svd(flat(weight).to("cpu", torch.float64), full_matrices=False)
        r = self.rank
        up = torch.cat((flat(self.p).cpu().double() * self.lambdas.cpu().double().flatten(), -u[:, :r] * s[:r]), 1) * self.scale
        down = torch.cat((flat(self.q).cpu().double(), v[:r]), 0)
        up, down = _without_cancellation(up, down)
        return precise(up, weight), precise(down, weight)

    def scaled(self, strength: float) -> Algorithm | None:
        """Return this with another α, which alone multiplies both products."""
        return replace(self, alpha=strength * (self.rank if self.alpha is None else self.alpha))

    def factor_rank(self, shape: Sequence[int]) -> int:
        """Return twice the rank."""
        return 2 * self.rank

    def cost(self, shape: Sequence[int]) -> Cost:
        """Return the cost of two thin products; every rebuilt weight takes a decomposition of W."""
        short, long = sorted((shape[0], columns(shape)))
        beside = super().cost(shape)
        return replace(beside, rebuild_products=beside.rebuild_products + SVD * short * short * long)


def _without_cancellation(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Return factors of the same product whose terms do not cancel, so that they may be rounded to half precision: its own SVD."""
    left, upper = torch.linalg.qr(up)
    right, lower = torch.linalg.qr(down.T)
    u, s, v = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    return left @ (u * s.sqrt()), (v.T * s.sqrt()).T @ right.T
