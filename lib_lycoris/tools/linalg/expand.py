"""Algorithm -> ΔW without a base weight, and the same product of factors in no more ranks than the matrix can have."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...algorithms import Algorithm
from .low_rank import qr_svd

Pair = tuple[Tensor, Tensor]


def plain_delta(algorithm: Algorithm, shape: Sequence[int]) -> Tensor:
    """Return ΔW (float32) of an algorithm that does not read the base weight."""
    return algorithm.delta(torch.zeros(tuple(shape)))


def beside_units(matrix: Tensor) -> Pair:
    """Return up · down that is a matrix to the bit, in as many ranks as its shorter side: itself and a matrix of units."""
    rows, columns = matrix.shape
    return (torch.eye(rows).to(matrix), matrix) if rows <= columns else (matrix, torch.eye(columns).to(matrix))


def shortened(up: Tensor, down: Tensor) -> Pair:
    """Re-factor so that the rank does not exceed min(out, in·k)."""
    return (up, down) if up.shape[1] <= min(up.shape[0], down.shape[1]) else qr_svd(up, down).factors()
