"""ΔW (and W) -> the stored tensors of other algorithms: LoKr, LoHa, OFT, IA3. Each returns suffix -> tensor with a scale of 1."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import torch
from torch import Tensor

from ...algorithms.base import columns, flat
from .low_rank import energy, randomized_svd

SWEEPS = 12  # of the alternating least squares; later ones gain less than a thousandth
RIDGE = 1e-7  # of the diagonal, against singular normal equations
TURN = 1e-4  # how near to a half turn a rotation may come: Cayley's form has none


def divisor(count: int, largest: int) -> int:
    """Return the largest divisor of a count that is at most ``largest`` and at most its root (largest <= 0: the root alone)."""
    limit = isqrt(count) if largest <= 0 else min(largest, isqrt(count))
    return next(d for d in range(max(1, limit), 0, -1) if count % d == 0)


def nearest_kronecker(delta: Tensor, factor: int = -1, rank: int | None = None) -> dict[str, Tensor]:
    """Return lokr_w1 (o1, i1) and lokr_w2 (o2, i2, *k) with the nearest Kronecker product; w2 in two parts if a rank is given.

    The product that is nearest is the leading singular pair of the matrix whose rows are the blocks (Van Loan and Pitsianis).
    """
    out, inputs = delta.shape[:2]
    o1, i1 = divisor(out, factor), divisor(inputs, factor)
    o2, i2 = out // o1, inputs // i1
    blocks = delta.reshape(o1, o2, i1, -1).transpose(1, 2).reshape(o1 * i1, -1)  # (blocks, o2·i2·k)
    svd = randomized_svd(blocks, 1)
    left, right = svd.factors(1)
    w1, w2 = left.reshape(o1, i1), right.reshape(o2, i2, *delta.shape[2:])
    if rank is None or rank >= min(o2, flat(w2).shape[1]):
        return {"lokr_w1": w1.contiguous(), "lokr_w2": w2.contiguous()}
    a, b = randomized_svd(flat(w2), rank).factors()
    return {"lokr_w1": w1.contiguous(), "lokr_w2_a": a, "lokr_w2_b": b, "alpha": torch.tensor(float(rank))}


def loha(delta: Tensor, rank: int, sweeps: int = SWEEPS) -> dict[str, Tensor]:
    """Return hada_w1_a, w1_b, w2_a, w2_b (out, r), (r, in·k) fitted by alternating least squares from the best rank-r matrix."""
    matrix = flat(delta)
    rank = min(rank, *matrix.shape)
    size = max(float(matrix.abs().max()), torch.finfo(torch.float32).tiny)
    a, b = randomized_svd(matrix / size, rank).factors()
    rank = a.shape[1]
    noise = torch.Generator().manual_seed(20230712)
    # the other half begins as ones - the product is then the best rank-r matrix itself - and a little of everything
    c, d = torch.randn(matrix.shape[0], rank, generator=noise) * 0.1, torch.randn(rank, matrix.shape[1], generator=noise) * 0.1
    c[:, 0], d[0] = 1.0, 1.0
    target, left = matrix / size, float("inf")
    for _ in range(sweeps):
        for _half in range(2):
            other = c @ d
            a = _solve_rows(target, other, b)
            b = _solve_rows(target.T, other.T, a.T).T
            (a, b), (c, d) = (c, d), _balanced(a, b)
        error = energy(target - (a @ b) * (c @ d))
        if error > left * (1 - 1e-4):
            break
        left = error
    root = size**0.25
    halves = {"hada_w1_a": a * root, "hada_w1_b": b * root, "hada_w2_a": c * root, "hada_w2_b": d * root}
    return {**{key: value.contiguous() for key, value in halves.items()}, "alpha": torch.tensor(float(rank))}


def _solve_rows(target: Tensor, other: Tensor, b: Tensor) -> Tensor:
    """Return a that makes (a · b) ⊙ other nearest to the target: one small least-squares problem a row, all of them together."""
    rank = b.shape[0]
    pairs = torch.einsum("pi,qi->ipq", b, b).flatten(1)  # (columns, r²)
    normal = (other.square() @ pairs).reshape(-1, rank, rank)
    right = (target * other) @ b.T
    diagonal = normal.diagonal(dim1=1, dim2=2)
    normal = normal + torch.diag_embed(diagonal.mean(1, keepdim=True).expand_as(diagonal) * RIDGE + torch.finfo(torch.float32).tiny)
    solved: Tensor = torch.linalg.solve(normal.double(), right.double()[..., None])[..., 0]
    return solved.to(b.dtype)


def _balanced(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same product with factors of the same size, for fp16's sake."""
    left, right = a.norm(dim=0).clamp_min(1e-30), b.norm(dim=1).clamp_min(1e-30)
    root = (right / left).sqrt()
    return a * root, b / root[:, None]


def rotation(weight: Tensor, tuned: Tensor, size: int) -> dict[str, Tensor]:
    """Return oft_blocks (n, b, b) whose rotations of the base weight's rows come nearest to the tuned weight (Procrustes' problem).

    b is the largest divisor of the rows that is at most ``size``.
    """
    rows = weight.shape[0]
    size = next(d for d in range(min(size, rows), 0, -1) if rows % d == 0)
    base, goal = (t.reshape(rows // size, size, -1).double() for t in (flat(weight), flat(tuned)))
    u, _, v = torch.linalg.svd(goal @ base.transpose(1, 2))
    flip = torch.linalg.det(u @ v).sign()
    u = torch.cat((u[..., :-1], u[..., -1:] * flip[:, None, None]), -1)  # rotations alone: no reflection has Cayley's form
    turned = (u @ v).transpose(1, 2)  # R
    eye = torch.eye(size, dtype=turned.dtype)
    whole = eye + turned
    solvable = torch.linalg.svdvals(whole)[:, -1] > TURN
    whole[~solvable], turned[~solvable] = eye, eye
    skew = torch.linalg.solve(whole, turned - eye)
    return {"oft_blocks": ((skew - skew.transpose(1, 2)) / 4).float(), "alpha": torch.tensor(0.0)}


def scaling(weight: Tensor, delta: Tensor) -> dict[str, Tensor]:
    """Return IA3's factors (channels,) with the side, inputs or outputs, whose scaling comes nearer to the change."""
    found = []
    for axis in (0, 1):
        others = [a for a in range(weight.dim()) if a != axis]
        size = weight.square().sum(others)
        factor = (weight * delta).sum(others) / size.clamp_min(torch.finfo(torch.float32).tiny)
        found.append((float((factor.square() * size).double().sum()), axis, factor))
    _, axis, factor = max(found, key=lambda item: item[:2])
    if axis:
        factor = factor.reshape(1, -1, *(1,) * (weight.dim() - 2))
    return {"weight": factor, "on_input": torch.tensor(float(axis))}


def lora_bytes(shape: Sequence[int], size: int) -> int:
    """Return what one rank of a LoRA takes, for numbers of so many bytes."""
    return (shape[0] + columns(shape)) * size
