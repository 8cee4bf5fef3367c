"""How far a tool is, and the way to stop it: the one thing that every tool is handed by whoever runs it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ...errors import ToolError
from ...records import dataclass


class Cancelled(ToolError):
    """A tool was stopped by the user; nothing is left under the name of its output."""


@dataclass(frozen=True)
class ProgressState:
    """One moment of a run."""

    step: int
    total: int  # 0 while it is not known
    text: str  # what is being done
    unit: str  # what steps count: "B" for bytes, else a word
    seconds: float  # since the stage began

    @property
    def rate(self) -> float:
        """Steps a second."""
        return self.step / self.seconds if self.seconds > 0 else 0.0

    @property
    def left(self) -> float | None:
        """Seconds until the stage ends at this rate; None while that cannot be told."""
        return (self.total - self.step) / self.rate if self.total and self.rate > 0 else None


class Progress:
    """Reports a run's stages to a callback, and raises Cancelled in the run when :meth:`cancel` was called by any thread."""

    def __init__(self, callback: Callable[[ProgressState], None] | None = None) -> None:
        self._callback = callback
        self._stop = threading.Event()
        self._began = time.monotonic()
        self.step, self.total, self.text, self.unit = 0, 0, "", "steps"

    def start(self, total: int, text: str, unit: str = "steps") -> None:
        """Begin a stage of so many steps."""
        self.step, self.total, self.text, self.unit = 0, total, text, unit
        self._began = time.monotonic()
        self._tell()

    def advance(self, count: int = 1, text: str | None = None) -> None:
        """Say that some steps are done. Raises Cancelled."""
        self.step += count
        self.text = self.text if text is None else text
        self._tell()

    def cancel(self) -> None:
        """Ask the run to stop at its next step."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Tell whether the run was asked to stop."""
        return self._stop.is_set()

    def check(self) -> None:
        """Raise Cancelled if the run was asked to stop."""
        if self._stop.is_set():
            raise Cancelled("stopped; nothing was written")

    @property
    def state(self) -> ProgressState:
        """The run as it is now."""
        return ProgressState(self.step, self.total, self.text, self.unit, time.monotonic() - self._began)

    def _tell(self) -> None:
        self.check()
        if self._callback is not None:
            self._callback(self.state)
