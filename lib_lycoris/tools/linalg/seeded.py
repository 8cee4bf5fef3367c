"""Random numbers that follow from a text alone: the same on every machine and in any order of the work."""

from __future__ import annotations

import hashlib

import torch


def generator(text: str) -> torch.Generator:
    """Return a generator on the CPU that this text seeds."""
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
    return torch.Generator().manual_seed(number)
