"""What the C library does with memory that is given back."""

from __future__ import annotations

import ctypes
import sys

M_ARENA_MAX = -8  # of glibc's malloc.h


def share_freed_memory() -> None:
    """Have all threads take memory from one place: glibc has one for each, up to eight times the cores, and each stays as it grew.

    A server whose requests are worked on in many threads holds more and more otherwise, and a tool twice what it works on, sometimes more
    and sometimes less. That memory be given back to the system at once costs twice the time: each page is made anew.
    Without effect under other C libraries.
    """
    if sys.platform.startswith("linux") and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(M_ARENA_MAX, 1)
