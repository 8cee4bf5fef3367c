"""Images in the making: one piece of work at a time, in a thread of its own, which every window can follow and stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event, Lock, Thread
from typing import Any

from ....errors import LycorisError, ToolError
from ....hosts.protocol import GenerationProgress
from ....wording import remaining
from ...style import bar, idle, small_picture

LABEL = "sampling"


class Work:
    """One piece of work: how far it is, and what came of it."""

    def __init__(self, kind: str, make: Callable[[Work], Any]) -> None:
        self.kind = kind  # the part of the page that shows it: "image", "grid"
        self.make = make
        self.cancel = Event()
        self.ended = Event()
        self.result: Any = None
        self.error: BaseException | None = None
        self.part: tuple[int, int] = (0, 1)  # which of several images this is, and how many there are
        self._progress: GenerationProgress | None = None
        self._said: tuple[float, str] | None = None
        self._began = time.monotonic()
        self._preview = ""

    def tell(self, progress: GenerationProgress) -> None:
        """Take a step of the image that is made now."""
        self._progress = progress
        if progress.preview is not None:
            self._preview = small_picture(progress.preview)

    def say(self, share: float, words: str) -> None:
        """Take how far it is in words of its own, where it is more than one image after another."""
        self._said = (share, words)

    def state(self) -> str:
        """Return how far it is, as HTML."""
        if self.cancel.is_set():
            return idle("stopping ...")
        if self._said is not None:
            return bar(self._said[0], f"{100 * self._said[0]:.0f} % - {self._said[1]}", LABEL)
        if self._progress is None:
            return bar(0, "reading networks and prompt", LABEL)
        done, total = self.part
        share = (done + self._progress.step / self._progress.steps) / total
        words = self._progress.text() if total == 1 else self._of_several(done, total, share)
        return bar(share, f"{100 * share:.0f} % - {words}", LABEL) + self._preview

    def _of_several(self, done: int, total: int, share: float) -> str:
        """Return which image it is, with the time left for all of them."""
        assert self._progress is not None
        words = f"image {done + 1} of {total}, step {self._progress.step} of {self._progress.steps}"
        return f"{words} - {remaining((time.monotonic() - self._began) * (1 - share) / share)}" if share > 0 else words

    def run(self) -> None:
        """Do it; whatever goes wrong is kept for the page that shows it."""
        try:
            self.result = self.make(self)
        except BaseException as error:  # noqa: BLE001 - it is told on the page, by failure()
            self.error = error
        self.ended.set()

    def failure(self) -> str:
        """Return what went wrong, as a sentence."""
        kind = "" if isinstance(self.error, LycorisError) else f"the image could not be made: {type(self.error).__name__}: "
        return f"{kind}{self.error}"


class Maker:
    """Starts work, one at a time."""

    def __init__(self) -> None:
        self.latest: Work | None = None
        self._last: dict[str, Work] = {}  # by kind
        self._lock = Lock()

    def start(self, kind: str, make: Callable[[Work], Any]) -> Work:
        """Start work and return it. Raises ToolError while other work is not done."""
        with self._lock:
            if self.latest is not None and not self.latest.ended.is_set():
                raise ToolError("an image is being made already, in this window or another; wait for it, or cancel it there")
            work = self.latest = self._last[kind] = Work(kind, make)
        Thread(target=work.run, daemon=True).start()
        return work

    def running(self, kind: str) -> Work | None:
        """Return the work of this kind that is not done."""
        work = self.last(kind)
        return work if work is not None and not work.ended.is_set() else None

    def last(self, kind: str) -> Work | None:
        """Return the newest work of this kind, done or not: who follows it may come when it has just ended."""
        return self._last.get(kind)

    def stop(self) -> None:
        """Ask what is in the making to stop, at the end of its step."""
        if self.latest is not None:
            self.latest.cancel.set()
