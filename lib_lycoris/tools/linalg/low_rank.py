"""D ≈ U · diag(s) · V: of a product without forming it, of a matrix by few passes over it, of a Gram matrix where all of it is wanted.

``short`` is the smaller side of a matrix and ``long`` the larger one. Energies are squared Frobenius norms.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import sqrt

import torch
from torch import Tensor

from ...records import dataclass

RATIO = 1.002  # what is left of D may be this many times what the best approximation of the rank leaves
# The estimate of what a further pass would gain is up to five times too small on flat spectra (measured on white noise).
ESTIMATE = (RATIO**2 - 1) / 6
PASSES = 6  # over the matrix; more have not been needed for any spectrum
BLOCK = 1 << 19  # numbers that are summed or converted at a time, so that they stay in the processor's cache
PIECE = 1024  # rows of a matrix that lies on its longer side, worked on at a time
NOTHING = 1e-12  # a share of the energy that is rounding alone: the matrix is of this rank, and nothing is left to be found
MANY = 1024  # ranks, from which on it is worth looking whether factors are orthogonal already
ROUNDING = 1e-5  # cosine between vectors of float32 that were orthogonal
TINY = 1e-4  # a share of the energy that differences of float32 sums do not show


@dataclass(frozen=True, eq=False)
class Svd:
    """Leading singular values and vectors of a matrix (m, n), and the energy of all of it."""

    u: Tensor  # (m, k)
    s: Tensor  # (k,), falling
    v: Tensor  # (k, n)
    total: float

    @property
    def rank(self) -> int:
        """How many there are."""
        return self.s.numel()

    def cut(self, rank: int) -> Svd:
        """Return the first ranks only."""
        return Svd(self.u[:, :rank], self.s[:rank], self.v[:rank], self.total)

    def captured(self, rank: int | None = None) -> float:
        """Return the energy of the first ranks (all of them: None)."""
        return float(self.s[:rank].double().square().sum())

    def left(self, rank: int) -> float:
        """Return the energy beyond the first ranks: of those that are here, and of those that were not computed."""
        here, beyond = float(self.s[rank:].double().square().sum()), self.total - self.captured()
        return here + beyond if beyond > TINY * self.total else here  # less is the rounding of the two sums

    def factors(self, rank: int | None = None) -> tuple[Tensor, Tensor]:
        """Return up (m, r) and down (r, n), the square roots of the singular values on both sides for fp16's sake."""
        root = self.s[:rank].clamp_min(0).sqrt()
        return self.u[:, :rank] * root, self.v[:rank] * root[:, None]


def energy(tensor: Tensor) -> float:
    """Return the squared norm, summed in double precision over short pieces."""
    flat = tensor.reshape(-1)
    if flat.dtype == torch.float64:
        return float(flat @ flat)
    pieces = flat.float().split(BLOCK)
    return float(sum(float(piece @ piece) for piece in pieces))


def qr_svd(up: Tensor, down: Tensor) -> Svd:
    """Return all min(m, r, n) singular values and vectors of up (m, r) · down (r, n), which is never formed; same dtype."""
    if up.shape[1] > MANY and _are_orthogonal(up.T) and _are_orthogonal(down):
        return _of_orthogonal(up, down)
    q, left = torch.linalg.qr(up)
    p, right = torch.linalg.qr(down.T)
    u, s, v = torch.linalg.svd((left.double() @ right.double().T), full_matrices=False)
    kept = min(up.shape[0], up.shape[1], down.shape[1])
    return Svd(q @ u[:, :kept].to(up.dtype), s[:kept].to(up.dtype), v[:kept].to(up.dtype) @ p.T, float(s.square().sum()))


def _are_orthogonal(rows: Tensor) -> bool:
    """Tell whether rows (r, n) are orthogonal, to rounding: as the factors of a Kronecker product of singular vectors are."""
    lengths = torch.linalg.vector_norm(rows, dim=1).clamp_min(torch.finfo(rows.dtype).tiny)
    cosines = (rows @ rows.T).div_(lengths).div_(lengths[:, None]).fill_diagonal_(0)
    return float(cosines.abs_().max()) < ROUNDING


def _of_orthogonal(up: Tensor, down: Tensor) -> Svd:
    """Return the decomposition of up · down whose columns and rows are orthogonal: their lengths are the singular values."""
    left, right = torch.linalg.vector_norm(up, dim=0), torch.linalg.vector_norm(down, dim=1)
    s, order = (left * right).sort(descending=True, stable=True)
    order = order[: min(up.shape[0], up.shape[1], down.shape[1])]
    tiny = torch.finfo(up.dtype).tiny
    u, v = (up / left.clamp_min(tiny))[:, order], (down / right.clamp_min(tiny)[:, None])[order]
    return Svd(u, s[: len(order)], v, float(s.double().square().sum()))


def gram_svd(matrix: Tensor) -> Svd:
    """Return all singular values and vectors of a matrix from its Gram matrix on the short side, in double precision."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    gram = torch.zeros(wide.shape[0], wide.shape[0], dtype=torch.float64, device=matrix.device)
    for block in _blocks(wide):
        exact = block.double()
        gram.addmm_(exact, exact.T)
    values, vectors = torch.linalg.eigh(gram)
    u = vectors.flip(1).to(matrix.dtype)
    v = u.T @ wide
    s = torch.linalg.vector_norm(v, dim=1)  # of the vectors themselves: a root of a Gram matrix' value loses the small ones
    v = v / s.clamp_min(torch.finfo(s.dtype).tiny)[:, None]
    return _oriented(matrix, u, s, v, float(values.clamp_min(0).sum()))


def randomized_svd(matrix: Tensor, rank: int, total: float | None = None) -> Svd:
    """Return the first ``rank`` singular values and vectors; the same bits for the same matrix.

    A block Krylov space on the short side grows by a pass over the matrix until what the approximation leaves is, by estimate, at most
    ``RATIO`` times the least possible. Where the space would be most of the short side, the exact decomposition is cheaper.
    """
    rank = min(rank, *matrix.shape)
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    width = rank + min(32, max(8, rank))
    if 3 * width >= wide.shape[0]:
        return gram_svd(matrix).cut(rank)
    total = energy(matrix) if total is None else total
    space = _Space(wide, _orthonormal(_sketch(wide, width)), rank)
    while not space.is_enough(total) and space.passes < PASSES:
        if space.basis.shape[1] + width > wide.shape[0] // 2:
            return gram_svd(matrix).cut(rank)
        space.grow()
    u, s, v = space.leading(total)
    return _oriented(matrix, u, s, v, total)


class _Space:
    """An orthonormal basis on the short side, its image in the rows of the matrix, and the best rank-r approximation in it."""

    def __init__(self, wide: Tensor, start: Tensor, rank: int) -> None:
        self.wide, self.rank, self.passes = wide, rank, 0
        self.basis = start.new_empty(wide.shape[0], 0)  # K
        self.rows = start.new_empty(0, wide.shape[1])  # Kᵀ D
        self.images = start.new_empty(wide.shape[0], 0)  # D Dᵀ K
        self._add(start)

    def _add(self, block: Tensor) -> None:
        rows, image = _both_products(self.wide, block)
        self.basis, self.rows = torch.cat((self.basis, block), 1), torch.cat((self.rows, rows), 0)
        self.images = torch.cat((self.images, image), 1)
        self.width, self.passes = block.shape[1], self.passes + 1
        self._solve(self.rows @ self.rows.T)

    def _solve(self, gram: Tensor) -> None:
        values, vectors = torch.linalg.eigh(gram.double())
        self.values, self.vectors = values.flip(0)[: self.rank].clamp_min(0), vectors.flip(1)[:, : self.rank]

    def grow(self) -> None:
        """Add what the last block is turned into by D Dᵀ."""
        block = self.images[:, -self.width :]
        for _ in range(3):  # once leaves much of the old directions in float32, more so where the block holds little else
            block = _orthonormal(block - self.basis @ (self.basis.T @ block))
        self._add(block)

    def is_enough(self, total: float) -> bool:
        """Tell whether the gain to be expected is small beside what is left."""
        vectors = self.vectors.to(self.basis.dtype)
        missing = self.images @ vectors - (self.basis @ vectors) * self.values.to(self.basis.dtype)
        floor = float(self.values[0]) * 1e-12 + torch.finfo(torch.float64).tiny
        gain = float((missing.double().square().sum(0) / self.values.clamp_min(floor)).sum())
        left = total - float(self.values.sum())
        return gain <= NOTHING * total or (self.passes > 1 and gain <= ESTIMATE * left)

    def leading(self, total: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return u, s, v of the approximation."""
        if total - float(self.values.sum()) < TINY * total:  # small singular values drown in a float32 Gram matrix
            exact = self.rows.double()
            self._solve(exact @ exact.T)
        vectors = self.vectors.to(self.basis.dtype)
        rows = vectors.T @ self.rows
        s = torch.linalg.vector_norm(rows, dim=1)
        order = s.argsort(descending=True, stable=True)
        s, rows = s[order], rows[order]
        return (self.basis @ vectors)[:, order], s, rows / s.clamp_min(torch.finfo(s.dtype).tiny)[:, None]


def residual(matrix: Tensor, svd: Svd) -> float:
    """Return the energy of matrix - svd: the difference of the energies, or where that drowns in rounding the difference's own."""
    left = svd.total - svd.captured()
    if left > TINY * svd.total:
        return left
    pieces = zip(matrix.split(512), (svd.u * svd.s).split(512), strict=True)
    return sum(energy(piece - rows @ svd.v) for piece, rows in pieces)


def relative(left: float, total: float) -> float:
    """Return the relative error √(left / total) of an approximation; 0 for nothing at all."""
    return sqrt(max(left, 0.0) / total) if total > 0 else 0.0


def _both_products(wide: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
    """Return Kᵀ D and D Dᵀ K for K = block."""
    if wide.stride(1) == 1:
        rows = block.T @ wide
        return rows, wide @ rows.T
    # stored the other way round: both products while a piece is in the cache, which halves the time
    tall, image, found = wide.T, block.new_zeros(block.shape[1], block.shape[0]), []
    for piece in tall.split(PIECE):
        part = piece @ block
        image.addmm_(part.T, piece)
        found.append(part)
    return torch.cat(found).T, image.T


def _blocks(wide: Tensor) -> Iterator[Tensor]:
    """Yield groups of columns of a wide matrix."""
    return iter(wide.split(max(128, BLOCK // max(1, wide.shape[0])), 1))


def _sketch(wide: Tensor, width: int) -> Tensor:
    """Return D times Gaussian noise (long, width)."""
    noise = _noise(wide.shape[1], width).to(wide)
    return wide @ noise


@lru_cache(maxsize=16)
def _noise(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(20230712))


def _orthonormal(block: Tensor) -> Tensor:
    q: Tensor = torch.linalg.qr(block)[0]
    return q


def _oriented(matrix: Tensor, u: Tensor, s: Tensor, v: Tensor, total: float) -> Svd:
    return Svd(u, s, v, total) if matrix.shape[0] <= matrix.shape[1] else Svd(v.T, s, u.T, total)
