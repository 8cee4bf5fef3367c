"""What the C library does with memory that is given back."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
LARGE = 64 << 20  # bytes; a tensor of so many is given back alone
KEPT = 256 << 20


def share_freed_memory() -> None:
    """Have all threads take memory from one place: glibc has one for each, up to eight times the cores, and each stays as it grew.

    A server whose requests are worked on in many threads holds more and more otherwise, and a tool twice what it works on, sometimes more
    and sometimes less. That memory be given back to the system at once costs twice the time: each page is made anew.
    Without effect under other C libraries.
    """
    _set(M_ARENA_MAX, 1)


def keep_freed_memory() -> None:
    """Have what is freed stay in this process for what it makes next, up to KEPT bytes: a tool makes one tensor after the other.

    Otherwise every page is asked of the system again, which clears it first; of a merge that is a tenth. For a process that ends with its
    work.
    """
    _set(M_MMAP_THRESHOLD, LARGE)
    _set(M_TRIM_THRESHOLD, KEPT)


def _set(parameter: int, value: int) -> None:
    if sys.platform.startswith("linux") and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(parameter, value)
