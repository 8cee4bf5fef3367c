"""Products of factors on the weight's side: added into a weight block by block, or with a Tucker core between them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

FEW = 32  # rows; a product of less is computed in another order, and has other last bits than the same rows among many
# The same for a product that is added to something. On processors with AMX, MKL rounds product and sum of up to 192 rows at once on one
# thread, and not on several.
FEW_ADDED = 256


def stretches(count: int, step: int, few: int = 1) -> Iterator[slice]:
    """Give so many rows in stretches of at most a number of rows, or of at least ``few``; all as long as the others or one row longer."""
    parts = max(1, min(-(-count // step), count // few)) if count else 0
    return (slice(part * count // parts, (part + 1) * count // parts) for part in range(parts))


def row_blocks(tensor: Tensor, fits: int = 1 << 19, few: int = 1) -> Iterator[slice]:
    """Give the rows of a tensor in blocks of so many bytes, which stay in a CPU's cache; on other devices all rows at once.

    few: rows that a block has at least, for products whose bits shall not depend on blocks and threads.
    """
    rows = tensor.shape[0]
    size = rows if tensor.device.type != "cpu" else max(few, fits * rows // (tensor.numel() * tensor.element_size() or 1))
    return stretches(rows, max(1, size))


def add_product(out: Tensor, base: Tensor, up: Tensor, down: Tensor, strength: float) -> None:
    """Write base + s · up · down into out (out, in, *k), which may be base itself; up: (out, r), down: (r, in·k).

    In one product: it takes two thirds of the time of one for each block of rows, and rows in a block of few may get other last bits.
    """
    target = out.view(out.shape[0], -1)
    if out is base:
        target.addmm_(up, down, alpha=strength)
    else:
        torch.addmm(base.reshape(target.shape), up, down, alpha=strength, out=target)


def tucker(core: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Return Σ_pq core[p, q, *k] · up[o, p] · down[q, i] as (out, in, *k); core: (p, q, *k), up: (out, p), down: (q, in)."""
    return torch.einsum("pq...,op,qi->oi...", core, up, down).contiguous()
