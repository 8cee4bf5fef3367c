"""Memory for what stays on a model from image to image: apart from that in which torch finds room for a moment."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

# What is smaller is left to malloc, whose own threshold for a mapping begins here and rises to 32 MiB with what it frees.
WORTH_A_MAPPING = 128 << 10  # bytes
_PRIVATE: dict[str, Any] = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}  # Windows has no other


def lasting(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return uninitialised memory for a parameter that is kept from image to image.

    On a CPU it is mapped for itself, and all of it goes back to the system when the parameter goes. Of a LoCon's 3.3 GB for SD 1.5 that
    came from malloc, 1.3 stayed in A1111's process after its tag was gone, and the next image's time hung on the gaps in malloc's heaps.
    """
    size = prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < WORTH_A_MAPPING:
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    try:
        mapped = mmap.mmap(-1, size, **_PRIVATE)
    except OSError:  # no memory, or no more mappings: torch finds room, or says what it says of all memory
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    return torch.frombuffer(mapped, dtype=dtype).view(tuple(shape))
