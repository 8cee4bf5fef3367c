"""Lets gigabytes go beside what comes next: to give them back to the system takes tenths of a second, and holds up who asks for memory."""

from __future__ import annotations

import time
from collections.abc import Iterable
from threading import Event, Thread, main_thread

from torch import Tensor

from .layers.layer import PatchedLayer

WORTH_A_THREAD = 64 << 20  # bytes
AT_ONCE = 16 << 20  # bytes
SHARE = 0.1  # of the time is spent on it: the next image's steps do not feel it, and what was merged is gone two seconds later
LONGEST = 0.1  # seconds between two times: the end of the program is not kept waiting

_slow: list[Event] = []  # one for each thread that gives something back and could be done sooner


def discard(layers: Iterable[PatchedLayer]) -> None:
    """Drop what layers keep that are no longer on a model."""
    while _slow:
        _slow.pop().set()  # what was dropped before makes room for what is about to be made
    values = [value for layer in layers for value in layer.let_go()]
    if sum(value.nbytes for value in values if value.device.type == "cpu") >= WORTH_A_THREAD:
        _slow.append(hurry := Event())
        # It holds the last reference to them, and the program's end waits for it: a thread that is ended while torch frees something aborts
        # the process.
        Thread(target=_give_back, args=(values, hurry)).start()


def _give_back(values: list[Tensor], hurry: Event) -> None:
    """Let tensors go a few at a time."""
    while values:
        began, size = time.monotonic(), 0
        while values and size < AT_ONCE:
            size += values.pop().nbytes
        if main_thread().is_alive():
            hurry.wait(min(LONGEST, (time.monotonic() - began) * (1 / SHARE - 1)))
