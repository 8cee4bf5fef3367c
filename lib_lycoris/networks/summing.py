"""W' = round(W + Σ s · ΔW): the one sum behind merged files and the merged path of a live model.

Every ΔW is made of the same W; all are added in float32 (float64 for float64) in a fixed order, and the result is rounded once. The same
weight, terms and dtype give the same bits on a device, wherever they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod

import torch
from torch import Tensor

from ..algorithms import Algorithm
from ..algorithms.products import FEW_ADDED, stretches
from ..records import dataclass

ROUNDING = 4 * torch.finfo(torch.float32).eps  # of the norm of what is added up: what that leaves where nothing should be left
AT_ONCE = 1 << 18  # elements added and rounded at a time on a CPU: they stay in its cache, and nothing of full size is made
BLOCKS = 8  # of them in a portion, which is read, computed and written on its own
Rows = slice
Check = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Term:
    """What one network does to one tensor: s · ΔW, or some rows of it."""

    algorithm: Algorithm
    strength: float
    order: tuple[str, ...]  # the place in the sum: by the file's hash, the parameter, the strength, the ranks
    weight: Callable[[], Tensor]  # returns the W (out, in, *k) that ΔW is made of, on the tensor's device
    pieces: tuple[tuple[Rows, Rows], ...] | None = None  # (rows of the tensor, rows of ΔW); None: all of both


def add_terms(out: Tensor, base: Tensor, terms: Sequence[Term], check: Check = lambda exact, _: exact) -> None:
    """Write base + Σ terms into out, which has the same shape (at least one axis) and device, and may be base itself.

    check: is handed the sum and the base (or blocks of both) before the sum is rounded to out's dtype; returns what is to be rounded.
    """
    wide = torch.float64 if base.dtype == torch.float64 else torch.float32
    ordered = sorted(terms, key=lambda term: term.order)
    own = out.dtype == wide and out.is_contiguous() and out.data_ptr() != base.data_ptr()  # nothing is made beside it
    beside = own and base.dtype == wide
    directly = beside and all(term.algorithm.adds_directly for term in ordered)
    if not directly and all(term.pieces is None and by_rows(term.algorithm) for term in ordered):
        ready = [(term.algorithm.moved(base), term.strength) for term in ordered]
        for block in blocks(base):
            place = out[block]
            exact = place.copy_(base[block]) if own else base[block].to(wide, copy=True, memory_format=torch.contiguous_format)
            for algorithm, strength in ready:
                rows = algorithm if block == slice(0, base.shape[0]) else algorithm.rows(block)
                assert rows is not None
                rows.add_delta(exact, exact, _like(base, block), strength)
            if (checked := check(exact, base[block])) is not place:
                place.copy_(checked)
        return
    total = out if beside else base.to(wide, copy=True, memory_format=torch.contiguous_format)
    start = base if beside else total  # the first change is made beside the base, which is then read once
    for term in ordered:
        _add(total, start, term)
        start = total
    checked = check(total, base)
    if checked is not out:
        out.copy_(checked)


def by_rows(algorithm: Algorithm) -> bool:
    """Tell whether rows of ΔW can be had alone, without W."""
    return not algorithm.reads_weight and algorithm.rows(slice(0, 1)) is not None


def blocks(tensor: Tensor) -> Iterator[slice]:
    """Give a tensor's rows in blocks that stay in a CPU's cache; on other devices all rows at once."""
    count = tensor.shape[0]
    return stretches(count, *(_rows_at_once(tensor.shape) if tensor.device.type == "cpu" else (max(1, count), 1)))


def portions(shape: Sequence[int]) -> Iterator[slice]:
    """Give a tensor's rows in portions of some blocks, which on a CPU are added up one by one to the same bits as all at once."""
    most, few = _rows_at_once(shape)
    return stretches(shape[0], most * BLOCKS, few)


def _rows_at_once(shape: Sequence[int]) -> tuple[int, int]:
    """Return how many rows are added at once at most, and how many at least where there are more."""
    columns = max(1, prod(shape[1:]))
    few = max(1, min(FEW_ADDED, 32 * AT_ONCE // columns))
    return max(few, AT_ONCE // columns), few


def _add(total: Tensor, start: Tensor, term: Term) -> None:
    """Write start + a change into total, which may be start itself."""
    if term.pieces is None:
        term.algorithm.add_delta(total, start, term.weight(), term.strength)
        return
    if start is not total:
        total.copy_(start)
    delta = term.algorithm.delta(term.weight())
    for mine, its in term.pieces:
        part = delta[its].to(total.dtype)
        total[mine] += part if term.strength == 1 else part * term.strength


def _like(base: Tensor, rows: slice) -> Tensor:
    """Return a tensor that has the shape of rows of the base weight, and no memory."""
    return torch.empty(1, dtype=base.dtype, device=base.device).expand(rows.stop - rows.start, *base.shape[1:])
