"""Tools in the background: one thread runs the jobs one after another; each tells how far it is, can be stopped, and keeps its result."""

from __future__ import annotations

import queue
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal

from ...errors import LycorisError, ToolError
from ..declaration import Result, Tool
from ..validation import validated
from .progress import Cancelled, Progress, ProgressState

Status = Literal["waiting", "running", "done", "failed", "cancelled"]
KEPT = 50  # finished jobs whose results can still be asked for
WAITING = 100  # jobs that may wait: each holds its options, and an address is open to programs that start them in a loop
ENDED = ("done", "failed", "cancelled")


class Job:
    """One run of a tool: what was asked, how far it is, and what came of it."""

    def __init__(self, tool: Tool, options: Mapping[str, Any], owner: str = "", notes: tuple[str, ...] = ()) -> None:
        self.id = uuid.uuid4().hex[:16]
        self.tool = tool.name
        self.options = dict(options)
        self.owner = owner  # the page that started it
        self.notes = notes  # sentences on options that have no meaning here
        self.status: Status = "waiting"
        self.progress: ProgressState | None = None
        self.result: Result | None = None
        self.error = ""  # a sentence
        self.created = self.started_at = self.ended_at = time.time()
        self._declared = tool
        self._progress = Progress(self._tell)
        self._ended = threading.Event()
        self._change = threading.Lock()

    @property
    def ended(self) -> bool:
        """Tell whether nothing more will happen to it."""
        return self._ended.is_set()

    @property
    def stopping(self) -> bool:
        """Whether cancellation was requested."""
        return self._progress.stopping

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return self.ended_at - self.started_at

    def cancel(self) -> None:
        """Stop it: at once if it waits, at the next step if it runs, which is a matter of less than a second."""
        self._progress.cancel()
        with self._change:
            if self.status == "waiting":
                self._end("cancelled", "stopped before it began")

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for its end; tell whether it came in that time."""
        return self._ended.wait(seconds)

    def run(self, told: Callable[[Job], None]) -> None:
        """Run it in this thread; whatever goes wrong is kept as a sentence. ``told`` hears of the end before anybody else sees it."""
        with self._change:
            if self.status != "waiting":
                return
            self.status, self.started_at = "running", time.time()
        try:
            self.result = self._declared.run(progress=self._progress, **self.options)
        except Cancelled as error:
            ended: tuple[Status, str] = ("cancelled", str(error))
        except LycorisError as error:
            ended = ("failed", str(error))
        except Exception as error:  # noqa: BLE001 - a fault of ours ends its job, not the thread: page and API tell it, the log has the rest
            traceback.print_exc(file=sys.stderr)
            ended = ("failed", f"{self._declared.pretty} failed: {type(error).__name__}: {error}")
        else:
            ended = ("done", "")
        self._end(*ended, told)

    def _tell(self, state: ProgressState) -> None:
        self.progress = state

    def _end(self, status: Status, error: str, told: Callable[[Job], None] = lambda _: None) -> None:
        self.error, self.ended_at = error, time.time()
        self.status = status
        try:
            told(self)
        except Exception:  # noqa: BLE001 - who listens must not keep the job from ending, nor the next from beginning
            traceback.print_exc(file=sys.stderr)
        self._ended.set()


class NoSuchThing(ToolError):
    """There is no tool or no job of that name."""


class QueueFull(ToolError):
    """So many jobs are waiting that another one is not taken."""


class Jobs:
    """All jobs of this process, run one after another by a thread of their own."""

    def __init__(self, tools: Mapping[str, Tool] | None = None) -> None:
        self._tools = tools
        self._jobs: dict[str, Job] = {}  # in the order in which they were started
        self._waiting: queue.Queue[None] = queue.Queue()  # wakes the thread, once for each job
        self._order: list[Job] = []  # those that wait, the next one first
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self.on_end: Callable[[Job], None] = lambda _: None  # is told of each job that ran

    @property
    def tools(self) -> Mapping[str, Tool]:
        """The tools by name."""
        if self._tools is None:
            from .. import TOOLS  # importing all of them takes seconds, which the start of a program should not

            self._tools = TOOLS
        return self._tools

    def tool(self, name: str) -> Tool:
        """Return a tool's declaration. Raises NoSuchThing naming those that there are."""
        if name not in self.tools:
            raise NoSuchThing(f'there is no tool "{name}"; there are {", ".join(self.tools)}')
        return self.tools[name]

    def start(self, tool_name: str, options: Mapping[str, Any], owner: str = "") -> Job:
        """Put a run of a tool in the queue. Raises ToolError for options that its declaration does not allow, QueueFull."""
        tool = self.tool(tool_name)
        notes: list[str] = []
        job = Job(tool, validated(tool, options, notes.append), owner, tuple(notes))
        with self._lock:
            if sum(other.status == "waiting" for other in self._jobs.values()) >= WAITING:
                raise QueueFull(f"{WAITING} jobs are waiting already; wait until some have ended, or stop them")
            self._jobs[job.id] = job
            self._order.append(job)
            self._forget_old()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="lycoris-jobs", daemon=True)
                self._thread.start()
        self._waiting.put(None)
        return job

    def get(self, job_id: str) -> Job:
        """Return a job by its id. Raises NoSuchThing if there is none, or if it was forgotten after many others."""
        found = self._jobs.get(job_id)
        if found is None:
            raise NoSuchThing(f'there is no job "{job_id[:40]}"; only the last {KEPT} are kept')
        return found

    def all(self) -> list[Job]:
        """Return the jobs that are kept, the oldest first."""
        return list(self._jobs.values())

    def latest(self, owner: str) -> Job | None:
        """Return the last job that a page started."""
        return next((job for job in reversed(self.all()) if job.owner == owner), None)

    def before(self, job: Job) -> int:
        """Return how many jobs must end before this one begins."""
        with self._lock:
            ahead = self._order[: self._order.index(job)] if job in self._order else []
        running = any(other.status == "running" for other in self.all() if other is not job)
        return running + sum(not other.ended for other in ahead)

    def waiting(self) -> list[Job]:
        """Return the jobs that wait, the next one first."""
        with self._lock:
            return [job for job in self._order if not job.ended]

    def move_up(self, job_id: str) -> None:
        """Let a waiting job begin before the one that is ahead of it."""
        with self._lock:
            self._order = [job for job in self._order if not job.ended]
            place = next((place for place, job in enumerate(self._order) if job.id == job_id), 0)
            if place:
                self._order[place - 1], self._order[place] = self._order[place], self._order[place - 1]

    def close(self, seconds: float = 5.0) -> None:
        """Stop all jobs and the thread; wait for it so long, so that what was half written is removed."""
        for job in self.all():
            if not job.ended:
                job.cancel()
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._waiting.put(None)
            thread.join(seconds)

    def _work(self) -> None:
        mine = threading.current_thread()
        while True:
            self._waiting.get()
            with self._lock:
                if self._thread is not mine:
                    return
                job = self._order.pop(0) if self._order else None
            if job is not None:
                job.run(self.on_end)

    def _forget_old(self) -> None:
        ended = [job.id for job in self._jobs.values() if job.ended]
        for old in ended[: max(0, len(ended) - KEPT)]:
            del self._jobs[old]


@cache
def shared() -> Jobs:
    """Return the jobs of this process: a page that is built anew, as at the webui's UI reload, finds the running ones."""
    return Jobs()
