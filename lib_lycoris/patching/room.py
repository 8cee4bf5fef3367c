"""How much memory changed weights may be kept in, and which of them it is worth most for."""

from __future__ import annotations

from collections.abc import Iterable

import torch

MERGED_BYTES = 256 << 20  # on the CPU, and where a device does not say what is free
FREE_SHARE = 0.25  # of an accelerator's free memory: the rest is for the images


def free_bytes(device: torch.device) -> int | None:
    """Return the memory that is free on an accelerator, what torch holds back for later included; None where it does not say."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def room_on(device: torch.device, bound: int | None) -> int:
    """Return how many bytes of changed weights may be kept on a device; bound: what the user allows, None for as it fits."""
    free = None if device.type == "cpu" else free_bytes(device)
    if free is None:
        return MERGED_BYTES if bound is None else bound
    share = int(FREE_SHARE * free)
    return share if bound is None else min(bound, share)


def least_gain(layers: Iterable[tuple[float, int]], room: int) -> float:
    """Return the smallest gain for each byte that is still kept, of layers as (gain for each byte, bytes), the best first."""
    least, used = float("inf"), 0
    for gain, size in sorted(layers, reverse=True):
        used += size
        if used > room:
            break
        least = gain
    return least
