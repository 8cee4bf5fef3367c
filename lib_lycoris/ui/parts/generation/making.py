"""Images in the making: one piece of work at a time, in a thread of its own, which every window can follow and stop."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Lock, Thread
from typing import Any

from ....errors import LycorisError, ToolError
from ....hosts.protocol import GenerationProgress
from ...style import bar, idle, small_picture

LABEL = "sampling"


class Work:
    """One piece of work: how far it is, and what came of it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind  # the part of the page that shows it: "image", "grid"
        self.cancel = Event()
        self.ended = Event()
        self.result: Any = None
        self.error: BaseException | None = None
        self.part: tuple[int, int] = (0, 1)  # which of several images this is, and how many there are
        self._progress: GenerationProgress | None = None
        self._preview = ""

    def tell(self, progress: GenerationProgress) -> None:
        """Take a step of the image that is made now."""
        self._progress = progress
        if progress.preview is not None:
            self._preview = small_picture(progress.preview)

    def state(self) -> str:
        """Return how far it is, as HTML."""
        if self.cancel.is_set():
            return idle("stopping ...")
        if self._progress is None:
            return bar(0, "reading networks and prompt", LABEL)
        done, total = self.part
        share = (done + self._progress.step / self._progress.steps) / total
        which = f"image {done + 1} of {total} - " if total > 1 else ""
        return bar(share, f"{100 * share:.0f} % - {which}{self._progress.text()}", LABEL) + self._preview

    def run(self, make: Callable[[Work], Any]) -> None:
        """Do it; whatever goes wrong is kept for the page that shows it."""
        try:
            self.result = make(self)
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
        self._lock = Lock()

    def start(self, kind: str, make: Callable[[Work], Any]) -> Work:
        """Start work and return it. Raises ToolError while other work is not done."""
        with self._lock:
            if self.latest is not None and not self.latest.ended.is_set():
                raise ToolError("an image is being made already, in this window or another; wait for it, or cancel it there")
            work = self.latest = Work(kind)
        Thread(target=work.run, args=(make,), daemon=True).start()
        return work

    def running(self, kind: str) -> Work | None:
        """Return the work of this kind that is not done."""
        work = self.latest
        return work if work is not None and work.kind == kind and not work.ended.is_set() else None

    def stop(self) -> None:
        """Ask what is in the making to stop, at the end of its step."""
        if self.latest is not None:
            self.latest.cancel.set()
