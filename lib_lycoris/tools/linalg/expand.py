"""Algorithm -> LoRA factors, exactly, where a closed form exists: up (out, r) · down (r, in·k) = ΔW, which is never formed.

LoHa: the Khatri-Rao products of its factors, rank r². LoKr: the Kronecker products of its factors' singular vectors, rank r1 · r2.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from ...algorithms import Algorithm, Bias, DoRA, Full, LoHa, LoKr, LoRA, Norm, NormBias, TLoRA
from ...algorithms.base import flat
from ...algorithms.padded import Padded
from .low_rank import Svd, qr_svd

Pair = tuple[Tensor, Tensor]
NEGLIGIBLE = 1e-14  # of the largest singular value of a float64 decomposition


def reads_weight(algorithm: Algorithm) -> bool:
    """Tell whether ΔW depends on the base weight's values."""
    if isinstance(algorithm, Padded):
        return reads_weight(algorithm.inner)
    return not isinstance(algorithm, (LoRA, LoHa, LoKr, Full, Norm, Bias, NormBias))


def exact_factors(algorithm: Algorithm, shape: Sequence[int], weight: Tensor | None = None) -> Pair | None:
    """Return up (out, r) and down (r, in·k) in float32; None where ΔW has no closed low-rank form (or needs a weight that is not given)."""
    if isinstance(algorithm, Padded):
        return _padded(algorithm, shape)
    empty = torch.empty(0, 0, *shape[2:])
    if isinstance(algorithm, LoRA) and algorithm.sparse_values is None:
        return _without_core(*algorithm.factors(empty))
    if isinstance(algorithm, LoHa) and (algorithm.t1 is None) == (algorithm.t2 is None):
        return _without_core(*algorithm.factors(empty.double()))
    if isinstance(algorithm, LoKr):
        return _kronecker(algorithm, empty.double())
    if isinstance(algorithm, TLoRA) and weight is not None:
        return algorithm.factors(weight)
    return None


def plain_delta(algorithm: Algorithm, shape: Sequence[int]) -> Tensor:
    """Return ΔW (float32) of an algorithm that does not read the base weight."""
    return algorithm.delta(torch.zeros(tuple(shape)))


def is_dora(algorithm: Algorithm) -> bool:
    """Tell whether the norm of the result is replaced, so that a change of the inner factors changes what the magnitude means."""
    return isinstance(algorithm, DoRA)


def _without_core(up: Tensor, down: Tensor, core: Tensor | None) -> Pair:
    if core is not None:
        down = torch.einsum("pq...,qi->pi...", core, down)
    return up.float(), flat(down).float()


def _padded(algorithm: Padded, shape: Sequence[int]) -> Pair | None:
    found = exact_factors(algorithm.inner, (shape[0], algorithm.channels, *shape[2:]))
    if found is None:
        return None
    wide = found[1].new_zeros(found[1].shape[0], shape[1], prod(shape[2:]))
    wide[:, : algorithm.channels] = found[1].reshape(found[1].shape[0], algorithm.channels, -1)
    return found[0], wide.flatten(1)


def _kronecker(algorithm: LoKr, empty: Tensor) -> Pair:
    first = _decomposed(algorithm.first(empty))
    if algorithm.w2 is None and algorithm.t2 is None:
        assert algorithm.w2_a is not None and algorithm.w2_b is not None
        second = qr_svd(flat(algorithm.w2_a).double(), flat(algorithm.w2_b).double())
    else:
        second = _decomposed(flat(algorithm.second(empty)))
    (a, b), (c, d) = _alive(first).factors(), _alive(second).factors()
    return _kron(a, c).float(), _kron(b, d).float()


def _kron(a: Tensor, b: Tensor) -> Tensor:
    """Return the Kronecker product; torch's own refuses some strides."""
    return torch.einsum("ac,bd->abcd", a, b).reshape(a.shape[0] * b.shape[0], a.shape[1] * b.shape[1])


def _decomposed(matrix: Tensor) -> Svd:
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return Svd(u, s, v, float(s.square().sum()))


def _alive(svd: Svd) -> Svd:
    return svd.cut(max(1, int((svd.s > svd.s[0] * NEGLIGIBLE).sum())))


def shortened(up: Tensor, down: Tensor) -> Pair:
    """Return the same product with no more ranks than the matrix can have."""
    return (up, down) if up.shape[1] <= min(up.shape[0], down.shape[1]) else qr_svd(up, down).factors()
