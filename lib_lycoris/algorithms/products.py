"""Products of factors on the weight's side: added into a weight block by block, or with a Tucker core between them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def row_blocks(tensor: Tensor, fits: int = 1 << 19) -> Iterator[slice]:
    """Give the rows of a tensor in blocks of so many bytes, which stay in a CPU's cache; on other devices all rows at once."""
    rows = tensor.shape[0]
    size = rows if tensor.device.type != "cpu" else max(1, fits * rows // (tensor.numel() * tensor.element_size() or 1))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def add_product(out: Tensor, base: Tensor, up: Tensor, down: Tensor, strength: float) -> None:
    """Write base + s · up · down into out (out, in, *k), which may be base itself; up: (out, r), down: (r, in·k)."""
    target, source = out.view(out.shape[0], -1), base.reshape(out.shape[0], -1)
    for rows in row_blocks(target):
        part = target[rows]
        if out is not base:
            part.copy_(source[rows])
        part.addmm_(up[rows], down, alpha=strength)


def tucker(core: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Return Σ_pq core[p, q, *k] · up[o, p] · down[q, i] as (out, in, *k); core: (p, q, *k), up: (out, p), down: (q, in)."""
    return torch.einsum("pq...,op,qi->oi...", core, up, down).contiguous()
