"""Network -> the numbers that tell what it does: spectra, effective ranks, sizes relative to the base weights, spikes, overlaps."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor

from ...algorithms.base import flat
from ...records import dataclass
from ..extract.difference import Reader
from ..files.networks.network_file import Patch
from ..linalg.expand import plain_delta
from ..linalg.low_rank import energy, gram_svd, qr_svd
from ..linalg.ranks import effective_rank

SPIKE = 4.0  # times the second singular value: one direction then does nearly everything
WHOLE_RANKS = 64  # of a full difference: as many of its singular values as are looked at


@dataclass(frozen=True, eq=False)
class Spectrum:
    """One module's change at strength 1."""

    patch: Patch
    values: Tensor  # singular values, falling; one for a vector: its norm
    energy: float
    base_energy: float | None  # None without a base model
    factors: tuple[Tensor, Tensor] | None  # where they are exact

    @property
    def relative(self) -> float | None:
        """‖ΔW‖ / ‖W‖; None without a base model."""
        return sqrt(self.energy / self.base_energy) if self.base_energy else None

    @property
    def spike(self) -> float | None:
        """σ1 / σ2; None where there is no second one."""
        return float(self.values[0] / self.values[1]) if self.values.numel() > 1 and float(self.values[1]) > 0 else None

    @property
    def effective(self) -> float:
        """The effective rank."""
        return effective_rank(self.values)


def spectrum(patch: Patch, weights: Reader | None = None) -> Spectrum | None:
    """Return a module's spectrum; None where it depends on a base weight that is not given."""
    weight = weights.read(patch.name, patch.shape) if weights is not None and weights.has(patch.name) else None
    base = None if weight is None else energy(weight)
    if patch.leaf == "weight" and len(patch.shape) > 1:
        pair = patch.algorithm.low_rank(patch.shape, weight)
        if pair is not None:
            svd = qr_svd(*pair)
            return Spectrum(patch, svd.s, svd.total, base, pair)
    if weight is None and patch.algorithm.reads_weight:
        return None
    delta = plain_delta(patch.algorithm, patch.shape) if weight is None else patch.algorithm.delta(weight)
    if delta.dim() < 2:
        size = energy(delta)
        return Spectrum(patch, torch.tensor([sqrt(size)]), size, base, None)
    svd = gram_svd(flat(delta))
    return Spectrum(patch, svd.s, svd.total, base, svd.factors(WHOLE_RANKS))


def inner(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """Return Σ ΔA ⊙ ΔB of two products, neither of which is formed."""
    left, right = first[0].T @ second[0], first[1] @ second[1].T
    return float((left.double() * right.double()).sum())


def overlap(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """Return how much of the smaller output space lies in the other one: the mean squared cosine of the principal angles, 0 to 1."""
    a, b = (_space(up, down) for up, down in (first, second))
    if not a.shape[1] or not b.shape[1]:
        return 0.0
    return float((a.T @ b).double().square().sum()) / min(a.shape[1], b.shape[1])


def _space(up: Tensor, down: Tensor) -> Tensor:
    svd = qr_svd(up, down)
    alive = int((svd.s > svd.s[0] * 1e-3).sum()) if svd.rank else 0
    return svd.u[:, :alive]
