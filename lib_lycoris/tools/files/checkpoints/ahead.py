"""Tensors computed ahead of the file that they are written to: by threads of one core each, and never more of them than fit in memory.

One core each, because the file is written meanwhile and torch's own threads wait for each other; it also makes the result the same on
machines of any number of cores.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch

from ...jobs.workers import LARGEST, count, one_thread_each

T = TypeVar("T")
R = TypeVar("R")
IN_FLIGHT = 32 << 20  # elements of all tensors that are being computed or wait to be written; a larger one is alone
MOST = 2 * LARGEST  # tensors that are: more of them would leave the processor's cache before they are written


class Ahead(Generic[T, R]):
    """The results of a function for a list of items, in order, computed before they are asked for."""

    def __init__(self, pool: ThreadPoolExecutor, make: Callable[[T], R], items: Sequence[tuple[T, int]]) -> None:
        self._pool, self._make = pool, make
        self._waiting = deque(items)  # with the number of their elements
        self._running: deque[tuple[Future[R], int]] = deque()
        self._elements = 0
        self._fill()

    def take(self) -> R:
        """Return the next result; what its computation raised is raised here."""
        future, count = self._running.popleft()
        result = future.result()
        self._elements -= count
        self._fill()
        return result

    def _fill(self) -> None:
        while self._waiting and (not self._running or (len(self._running) < MOST and self._elements + self._waiting[0][1] <= IN_FLIGHT)):
            item, count = self._waiting.popleft()
            self._elements += count
            self._running.append((self._pool.submit(self._make, item), count))


@contextmanager
def workers(device: str = "cpu") -> Iterator[ThreadPoolExecutor]:
    """Give a pool of threads for computing beside the one that writes."""
    with one_thread_each():
        pool = ThreadPoolExecutor(count(device), initializer=torch.set_num_threads, initargs=(1,))
        try:
            yield pool
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
