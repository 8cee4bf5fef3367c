"""ΔW = trained factors minus the ones that training began with, which were a part of the base weight: T-LoRA, PiSSA and OLoRA.

A file holds the trained factors only; the beginning is made again of the base weight. On another checkpoint than the one trained on, the
difference of both beginnings stays in ΔW.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from .activation import Cost
from .base import Algorithm, Factors, Scaled, columns, flat, precise
from .factored import Factored
from .lora import LoRA

SVD = 20.0  # multiply-adds for short² · long numbers of a matrix


class Displaced(Factored, Scaled):
    """Trained factors and what they began as."""

    binds_weight: ClassVar[bool] = True

    @abstractmethod
    def trained(self) -> Factors:
        """Return the trained up (out, r) and down (r, in) in float64 on the CPU, the scale in up."""

    @abstractmethod
    def beginning(self, weight: Tensor) -> Factors:
        """Return the up and down that the trainer took out of W; weight: (out, in) in float64 on the CPU."""

    def factors(self, weight: Tensor) -> Factors:
        """Return ΔW as LoRA factors of rank 2r."""
        # float64 on the CPU: both products are nearly equal, what counts is their small difference
        (up, down), (before, below) = self.trained(), self.beginning(flat(weight).to("cpu", torch.float64))
        up, down = without_cancellation(torch.cat((up, -before), 1), torch.cat((down, below)))
        return precise(up, weight), precise(down, weight)

    def bound(self, weight: Tensor) -> Algorithm:
        """Return the factors that were found for this weight, as a LoRA."""
        up, down = self.factors(weight)
        return LoRA(up=up, down=down)

    def factor_rank(self, shape: Sequence[int]) -> int:
        """Return twice the rank."""
        return 2 * (self.rank or 1)

    def cost(self, shape: Sequence[int]) -> Cost:
        """Return the cost of two thin products; every rebuilt weight takes a decomposition of W."""
        short, long = sorted((shape[0], columns(shape)))
        beside = super().cost(shape)
        return replace(beside, rebuild_products=beside.rebuild_products + SVD * short * short * long)


def principal(weight: Tensor, rank: int) -> Factors:
    """Return U·S (out, r) and Vᵀ (r, in) of the largest singular values."""
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    return u[:, :rank] * s[:rank], v[:rank]


def without_cancellation(up: Tensor, down: Tensor) -> Factors:
    """Return factors of the same product whose terms do not cancel, so that they may be rounded to half precision: its own SVD."""
    left, upper = torch.linalg.qr(up)
    right, lower = torch.linalg.qr(down.T)
    u, s, v = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    return left @ (u * s.sqrt()), (v.T * s.sqrt()).T @ right.T
