"""Times, their spread, and what is written of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import torch

LEAST = 1e-3  # seconds; less is not told apart from nothing


@dataclass(frozen=True)
class Result:
    """One figure; between ``low`` and ``high`` lies the middle half of what was measured."""

    name: str
    value: float
    limit: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""

    @property
    def within(self) -> bool:
        """Tell whether the limit is kept; a figure without one is told for information."""
        return self.limit is None or self.value <= self.limit

    @property
    def line(self) -> str:
        """Say it in a line."""
        spread = f"  [{self.low:.3f} .. {self.high:.3f}]" if self.low is not None and self.high is not None else ""
        limit = "" if self.limit is None else f"   <= {self.limit:.3g}: {'yes' if self.within else 'NO'}"
        return f"{self.name:34} {self.value:9.3f} {self.unit:3}{spread:22}{limit}"

    @property
    def entry(self) -> dict[str, Any]:
        """Return it as the JSON file holds it."""
        return {"name": self.name, "value": self.value, "limit": self.limit, "within": self.within}


def of(name: str, values: Sequence[float], limit: float | None = None, unit: str = "") -> Result:
    """Return the median of some values, with the quartiles."""
    low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values[0],) * 3
    return Result(name, median(values), limit, low, high, unit)


def ratio(name: str, ours: Sequence[float], theirs: Sequence[float], limit: float | None) -> Result:
    """Return the ratio of two medians; the spread is that of the pairs, which were measured one after the other.

    What adds nothing measurable is counted as nothing; against another that adds nothing, as much more than it.
    """
    pairs = of(name, [_share(mine, other) for mine, other in zip(ours, theirs, strict=True)])
    return Result(name, _share(median(ours), median(theirs)), limit, pairs.low, pairs.high)


def _share(mine: float, other: float) -> float:
    return max(mine, 0.0) / max(other, LEAST)


class Clock:
    """What time is: the wall's, or the processor's, which other programs on the machine disturb less."""

    now: Callable[[], float] = time.perf_counter

    @classmethod
    def count_processor_time(cls) -> None:
        """Count the time of one thread; torch may have one only, since those that wait for work would count too."""
        torch.set_num_threads(1)
        cls.now = time.process_time


def seconds(work: Callable[[], Any]) -> float:
    """Return how long something takes, the accelerator's part included."""
    wait = torch.cuda.synchronize if torch.cuda.is_initialized() else lambda: None
    wait()
    start = Clock.now()
    work()
    wait()
    return Clock.now() - start


def added(change: Callable[[], Any], step: Callable[[], Any], again: int = 2) -> float:
    """Return what a change adds: the change and the step after it, less the same step when nothing is left to be done.

    A loader may do its work at the change or at a layer's next call: both are counted, and what its steps cost from then on is not.
    """

    def both() -> None:
        change()
        step()

    first = seconds(both)
    return first - median(seconds(step) for _ in range(again))
