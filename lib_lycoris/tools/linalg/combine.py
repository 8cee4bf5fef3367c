"""Differences of one parameter -> their sum, or TIES (arXiv 2306.01708) or DARE (arXiv 2311.03099), which weed out first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from ...errors import ToolError
from .seeded import generator

PIECE = 1 << 16  # numbers that are worked on at a time, so that they stay in the processor's cache
Weed = Callable[[Tensor], Tensor]


class HasStrength(Protocol):
    """A network's part in a combination."""

    @property
    def strength(self) -> float:
        """What its difference is multiplied by."""
        ...

    @property
    def digest(self) -> str:
        """What tells it from the others, whatever their order."""
        ...


def combined(method: str, density: float, seed: int, name: str, items: Sequence[tuple[HasStrength, Tensor]]) -> Tensor:
    """Return Σ s · ΔW for "sum"; otherwise of what is left of each difference. density: the share of values that is left.

    Beside the differences and the result it takes memory for one of them in "ties", for some pieces of them otherwise.
    """
    if not 0 < density <= 1:
        raise ToolError(f"`density` is a share above 0 up to 1, but got {density:g}")
    weeds = [_weed(method, density, f"{seed} {item.digest} {name}", delta) for item, delta in items]
    reduce = _agreed if method.endswith("ties") else _summed
    found = torch.empty_like(items[0][1], memory_format=torch.contiguous_format)
    rest = [delta.reshape(-1).split(PIECE) for _, delta in items]
    for target, *pieces in zip(found.view(-1).split(PIECE), *rest):
        kept = [weed(piece) * item.strength for weed, piece, (item, _) in zip(weeds, pieces, items)]
        target.copy_(reduce(torch.stack(kept)))
    return found


def _weed(method: str, density: float, seed: str, delta: Tensor) -> Weed:
    """Return what leaves out values of a difference, which is handed to it piece by piece in order."""
    if method.startswith("dare"):
        return partial(_dropped, density, generator(seed))
    if method == "ties":
        return partial(hardshrink, lambd=_largest_left_out(delta, density))
    return _everything


def _everything(piece: Tensor) -> Tensor:
    return piece


def _largest_left_out(delta: Tensor, density: float) -> float:
    """Return the number just below the smallest size of the share of values that are largest in size."""
    left_out = delta.numel() - max(1, round(delta.numel() * density))
    sizes = delta.abs().reshape(-1)
    sizes.numpy().partition(left_out)  # ten times as fast as torch.topk, in place
    return float(torch.nextafter(sizes[left_out], torch.zeros_like(sizes[left_out])))


def _dropped(density: float, generator: torch.Generator, piece: Tensor) -> Tensor:
    """Return a random choice of the values, scaled up so that their mean stays."""
    return piece * (torch.rand(piece.shape, generator=generator) < density) / density


def _summed(stacked: Tensor) -> Tensor:
    return stacked.sum(0)


def _agreed(stacked: Tensor) -> Tensor:
    """Return at every place the mean of the values that have the sign of their sum."""
    sign = stacked.sum(0).sign()
    along = (stacked * sign).clamp_min(0)
    return along.sum(0) * sign / (along > 0).sum(0, dtype=along.dtype).clamp_min(1)
