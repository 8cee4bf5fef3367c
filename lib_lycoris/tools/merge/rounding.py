"""How a merged weight is rounded to the few digits of fp8.

Neighbours in fp8 are an eighth to a sixteenth of a value apart (E4M3), or twice that (E5M2): what a network changes is mostly smaller, and
rounded to the nearest neighbour much of it is lost. Stochastic rounding takes the neighbour above as often as the exact value is near it,
so that sums over many weights keep the change; a single weight is then up to a whole step away, not half of one.
"""

from __future__ import annotations

from math import frexp

import torch
from torch import Tensor

from ...networks.summing import Check


def rounded_stochastically(exact: Tensor, dtype: torch.dtype, made: torch.Generator) -> Tensor:
    """Return values that the dtype holds exactly, each one of the two neighbours of the exact one (float32, within the dtype's range)."""
    facts = torch.finfo(dtype)
    least = frexp(facts.smallest_normal)[1]  # below it neighbours are as far apart as just above it
    step = torch.ldexp(torch.full_like(exact, facts.eps), torch.frexp(exact).exponent.clamp(min=least) - 1)
    chance = torch.rand(exact.shape, generator=made).to(exact.device)
    return (exact / step + chance).floor() * step


def stochastic(check: Check, dtype: torch.dtype, made: torch.Generator) -> Check:
    """Return a check whose values are rounded to a dtype after it."""
    return lambda exact, base: rounded_stochastically(check(exact, base), dtype, made)
