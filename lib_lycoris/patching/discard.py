"""Lets gigabytes go while nothing is computed: to give them back to the system takes tenths of a second, which an image would wait for."""

from __future__ import annotations

import time
from collections.abc import Iterable
from threading import Event, Thread, main_thread

from torch import Tensor

from .layers.layer import PatchedLayer

WORTH_A_THREAD = 64 << 20  # bytes
AT_ONCE = 16 << 20  # bytes
LOOK = 0.02  # seconds for which the process is watched, longer than a tick of Windows' clock of processor time; a gigabyte goes in 1.5
BUSY = 0.5  # processors in use at which something is computed
PAUSE = 0.1  # seconds until the next look then: an image gets 2 % longer at the most, and the end of the program is not kept waiting

_slow: list[Event] = []  # one for each thread that gives something back and could be done sooner


def discard(layers: Iterable[PatchedLayer]) -> None:
    """Drop what layers keep that are no longer on a model: at once where it is little, else when there is time for it."""
    values = [value for layer in layers for value in layer.let_go()]
    if sum(value.nbytes for value in values if value.device.type == "cpu") >= WORTH_A_THREAD:
        _slow.append(hurry := Event())
        # It holds the last reference to them, and the program's end waits for it: a thread that is ended while torch frees something aborts
        # the process.
        Thread(target=_give_back, args=(values, hurry)).start()


def make_room() -> None:
    """Have all that is still to be dropped go at once: memory is about to be taken."""
    while _slow:
        _slow.pop().set()


def _give_back(values: list[Tensor], hurry: Event) -> None:
    """Let tensors go a few at a time."""
    while values:
        size = 0
        while values and size < AT_ONCE:
            size += values.pop().nbytes
        if main_thread().is_alive() and _is_computing(hurry):
            hurry.wait(PAUSE)


def _is_computing(hurry: Event) -> bool:
    """Watch for a moment whether the other threads of the process compute."""
    began, before = time.monotonic(), time.process_time()
    hurry.wait(LOOK)
    return time.process_time() - before > (time.monotonic() - began) * BUSY
