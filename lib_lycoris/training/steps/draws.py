"""Every random choice of a training follows from seed and place in the run: no state to keep, and any number of processes agrees."""

from __future__ import annotations

import hashlib
import random

import torch
from torch import Tensor

RANGE = 2**63


def number(*what: object) -> int:
    """Return a number below 2**63 that follows from these words and numbers."""
    digest = hashlib.blake2b("\0".join(map(str, what)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % RANGE


def chooser(*what: object) -> random.Random:
    """Return Python's random choices of one place in the run."""
    return random.Random(number(*what))


def generator(*what: object) -> torch.Generator:
    """Return torch's random numbers of one place in the run, on the CPU: a GPU's own would be others."""
    return torch.Generator().manual_seed(number(*what))


def seed_everything(*what: object) -> None:
    """Seed what the modules themselves draw: dropout, DyLoRA's ranks."""
    drawn = number(*what)
    torch.manual_seed(drawn)
    random.seed(drawn)


def normal(shape: tuple[int, ...], *what: object) -> Tensor:
    """Return standard normal numbers of one place in the run."""
    return torch.randn(shape, generator=generator(*what))
