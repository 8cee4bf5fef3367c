"""Differences of one parameter -> their sum, or TIES (arXiv 2306.01708) or DARE (arXiv 2311.03099), which weed out first."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ...errors import ToolError

METHODS = ("sum", "ties", "dare", "dare_ties")


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
    """Return Σ s · ΔW for "sum"; otherwise of what is left of each difference. density: the share of values that is left."""
    if not 0 < density <= 1:
        raise ToolError(f"`density` is a share above 0 up to 1, but got {density:g}")
    scaled = []
    for item, delta in items:
        if method.startswith("dare"):
            delta = _dropped(delta, density, f"{seed} {item.digest} {name}")
        elif method == "ties":
            delta = _trimmed(delta, density)
        scaled.append(delta * item.strength)
    return _agreed(scaled) if method.endswith("ties") else torch.stack(scaled).sum(0)


def _trimmed(delta: Tensor, density: float) -> Tensor:
    """Return the values that are largest in size, zeros for the others."""
    kept = max(1, round(delta.numel() * density))
    if kept >= delta.numel():
        return delta
    size = delta.abs()
    smallest = torch.topk(size.flatten(), kept, sorted=False).values.min()
    return torch.where(size >= smallest, delta, torch.zeros_like(delta))


def _dropped(delta: Tensor, density: float, seed: str) -> Tensor:
    """Return a random choice of the values, scaled up so that their mean stays."""
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "little") >> 1
    generator = torch.Generator().manual_seed(number)
    return delta * (torch.rand(delta.shape, generator=generator) < density) / density


def _agreed(deltas: Sequence[Tensor]) -> Tensor:
    """Return at every place the mean of the values that have the sign of their sum."""
    stacked = torch.stack(list(deltas))
    sign = stacked.sum(0).sign()
    agree = (stacked.sign() == sign) & (stacked != 0)
    return (stacked * agree).sum(0) / agree.sum(0).clamp_min(1)
