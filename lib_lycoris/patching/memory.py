"""Memory for what stays on a model from image to image: apart from that in which torch finds room for a moment."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import prod
from typing import Any

import torch
from torch import Tensor

# What is smaller is left to malloc, whose own threshold for a mapping begins here and rises to 32 MiB with what it frees.
WORTH_A_MAPPING = 128 << 10  # bytes
_PRIVATE: dict[str, Any] = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}  # Windows has no other
_NO_MODE = nullcontext()


def for_any_mode() -> AbstractContextManager[None]:
    """Have what is made here serve forwards in any mode: tensors of the inference mode could be used in it alone, graphs hold memory.

    Where neither is on, as in a webui, nothing is done: entering both takes a sixth of the time in which a layer is prepared.
    """
    return _outside_modes() if torch.is_inference_mode_enabled() or torch.is_grad_enabled() else _NO_MODE


@contextmanager
def _outside_modes() -> Iterator[None]:
    with torch.inference_mode(False), torch.no_grad():
        yield


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
