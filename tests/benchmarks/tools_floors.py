"""The least that an extraction could take: bytes as fast as files are read, operations at the processor's peak, both measured here.

Both models are read, and every difference is multiplied twice by thin matrices of the kept rank: once to find the space of its columns,
once to project onto it. No method that reads a difference less than twice comes near to the best approximation.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import torch

from .loader_floors import measured_peak
from .tools_networks import layers
from .tools_verbs import read, seconds


def least_extraction(base: Path, tuned: Path, rank: int, kernel_rank: int) -> float:
    """Return seconds on SD 1.5's layers; reading and computing can go on beside each other."""
    reading = seconds(lambda: [read(path) for path in (base, tuned)])
    return max(reading, operations(rank, kernel_rank) / measured_peak(torch.float32))


def operations(rank: int, kernel_rank: int) -> float:
    """Return the floating-point operations of two thin products with each layer; a multiply-add is two."""
    ranks = [(info.shape, kernel_rank if prod(info.shape[2:]) > 1 else rank) for _, info in layers()]
    return sum(2 * 2 * prod(shape) * kept for shape, kept in ranks)
