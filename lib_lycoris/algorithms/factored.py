"""ΔW = up · down: what all algorithms with two thin factors have in common, whether these are stored or made of the base weight."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from .activation import Bypass, Cost, Layer, low_rank
from .base import Algorithm, Factors, columns
from .products import add_product

NEGLIGIBLE = 1e-14  # of the largest singular value of a float64 decomposition


class Factored(Algorithm):
    """An algorithm that says its factors; all forms come from them."""

    @abstractmethod
    def factors(self, weight: Tensor) -> Factors:
        """Return up (out, r) with every scale in it and down (r, in·k) in the precision of deltas.

        Of the weight only shape, device and dtype may be read by an algorithm that is additive.
        """

    def factor_rank(self, shape: Sequence[int]) -> int:
        """Return how many ranks the factors have."""
        return self.rank or 1

    def delta(self, weight: Tensor) -> Tensor:
        """Return up · down."""
        up, down = self.factors(weight)
        return (up @ down).reshape(weight.shape)

    def add_delta(self, out: Tensor, base: Tensor, weight: Tensor, strength: float) -> None:
        """Write base + s · ΔW into out, without ΔW in between."""
        add_product(out, base, *self.factors(weight), strength)

    def bypass(self, layer: Layer) -> Bypass:
        """Return two thin products."""
        return low_rank(layer, *self.factors(layer.weight))

    def low_rank(self, shape: Sequence[int], weight: Tensor | None = None) -> Factors | None:
        """Return the factors in float32; made of the base weight, they need it."""
        if weight is None and self.reads_weight:
            return None
        up, down = self.factors(shaped(shape) if weight is None else weight)
        return up.float(), down.float()

    def energy(self, shape: Sequence[int]) -> float | None:
        """Return ‖ΔW‖² from the factors' Gram matrices, where these are smaller than ΔW."""
        if self.reads_weight or self.factor_rank(shape) > min(shape[0], columns(shape)):
            return None
        return energy_of(*self.factors(shaped(shape)))

    def cost(self, shape: Sequence[int]) -> Cost:
        """Return the cost of two thin products, or of one that is added to the weight."""
        size, rank = float(prod(shape)), self.factor_rank(shape)
        return Cost(rank * (shape[0] + columns(shape)), 2.0 * shape[0], rank * size, 2.0 * size)


def shaped(shape: Sequence[int], dtype: torch.dtype = torch.float64) -> Tensor:
    """Return a weight of this shape without memory: for what reads no values of it."""
    return torch.empty(1, dtype=dtype).expand(tuple(shape))


def energy_of(up: Tensor, down: Tensor) -> float:
    """Return ‖up · down‖²."""
    left, right = up.double(), down.double()
    return max(0.0, float(((left.T @ left) * (right @ right.T)).sum()))


def decomposed(matrix: Tensor) -> Factors:
    """Return up and down of a matrix from its singular vectors, the values' roots on both sides, without those that are rounding."""
    return _significant(*torch.linalg.svd(matrix, full_matrices=False))


def decomposed_product(left: Tensor, right: Tensor) -> Factors:
    """Return the same of left (m, r) · right (r, n), which is never formed."""
    q, short = torch.linalg.qr(left)
    p, wide = torch.linalg.qr(right.T)
    u, s, v = torch.linalg.svd(short @ wide.T, full_matrices=False)
    return _significant(q @ u, s, v @ p.T)


def _significant(u: Tensor, s: Tensor, v: Tensor) -> Factors:
    rank = max(1, int((s > s[:1] * NEGLIGIBLE).sum()))
    root = s[:rank].sqrt()
    return u[:, :rank] * root, v[:rank] * root[:, None]


def flattened(up: Tensor, down: Tensor, core: Tensor | None) -> Factors:
    """Return factors in float32 with the core (r', r, *k), if there is one, multiplied into down."""
    if core is not None:
        down = torch.einsum("pq...,qi->pi...", core, down)
    return up.float(), down.flatten(1).float()
