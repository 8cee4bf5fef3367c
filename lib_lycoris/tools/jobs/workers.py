"""Many modules, each by one thread: results in the order of the work, few of them waiting at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Work = TypeVar("Work")
Made = TypeVar("Made")

LARGEST = 4  # threads: each holds one tensor of a model


def count(device: str = "cpu") -> int:
    """Return how many threads are worth it: one on an accelerator, which has its own queue."""
    if torch.device(device).type != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(LARGEST, cores))


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Let torch's operations run on the thread that calls them: several small ones side by side beat one split over all cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def ordered(function: Callable[[Work], Made], work: Iterable[Work], threads: int) -> Iterator[Made]:
    """Yield the results in the order of the work; an error, or closing the iterator, drops what was not begun."""
    with one_thread_each(), ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Made]] = deque()
        try:
            for item in work:
                waiting.append(pool.submit(function, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
