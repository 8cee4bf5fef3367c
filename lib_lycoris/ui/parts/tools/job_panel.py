"""The part of a page that shows a job: progress with step, rate and time left, Cancel, what went wrong, and the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any

import gradio as gr

from ....errors import LycorisError
from ....tools.jobs.progress import ProgressState
from ....tools.jobs.queue import Job
from ....wording import counted, remaining, took
from ...context import PageContext
from ...events import Update, cumulative, states
from ...style import bar, idle, notes, report
from .fields import as_shown

POLL = 0.2  # seconds between two looks at the job
READY = "Ready."
BUSY = "This page's job was still running, started here or in another window: yours was not started. Start it when that one is done."
Make = Callable[..., "tuple[str, Mapping[str, Any]]"]  # values of a page's fields -> tool and options


class JobPanel:
    """Shows the jobs of one page, one at a time; a job goes on when the page is closed, and is shown again when it is opened."""

    def __init__(self, context: PageContext, name: str) -> None:
        self.context = context
        self.owner = f"lyco_{name}"
        self._buttons: list[Any] = []
        self._results: list[Any] = []
        self._show: Callable[[Job | None], Sequence[Any]] = lambda _: ()
        self._last: tuple[str, Sequence[Any]] = ("", ())  # what is shown of a finished job, by its id

    def build(self) -> None:
        """Add the components to the open gr.Blocks."""
        with gr.Row(elem_classes=["lyco_progress_row"]):
            self._state = gr.HTML(idle(READY), elem_id=f"{self.owner}_progress", elem_classes=["lyco_progress"])
            self._cancel = gr.Button("Cancel", size="sm", interactive=False, elem_id=f"{self.owner}_cancel", elem_classes=["lyco_cancel"])
        self._notes = gr.HTML("", elem_id=f"{self.owner}_notes", elem_classes=["lyco_notes"])
        self._cancel.click(self.cancel, None, None, queue=False, show_progress="hidden")
        self._following = gr.Textbox("", elem_id=f"{self.owner}_following", elem_classes=["lyco_hidden"], show_label=False, container=False)
        self.context.later(self._wire_resume)

    def _wire_resume(self, _: Any) -> None:
        """Show the last job to somebody who opens the page; one that runs is followed, which takes an event of its own."""
        self.context.on_load(self.found, [*self.outputs, self._following])
        self._following.change(self.resume, None, self.outputs, show_progress="hidden")

    def found(self) -> tuple[Update, ...]:
        """Return the updates for the last job as it is now, and its id if it is to be followed."""
        job = self.context.jobs.latest(self.owner)
        if job is None:
            return tuple(gr.update() for _ in range(len(self.outputs) + 1))
        if not job.ended:
            return (*self._updates(self._now(job), busy=True), gr.update(value=job.id))
        return (*self._finished(job), gr.update())

    def shows(self, components: Sequence[Any], show: Callable[[Job | None], Sequence[Any]]) -> None:
        """Have a page's own components show the result: ``show(job)`` returns one update for each.

        It is called with a job that is done, and with None when a new one begins, to clear what the last one left.
        """
        self._results, self._show = list(components), show

    def start(self, button: Any, make: Make, inputs: Sequence[Any]) -> None:
        """Start a job at a click: ``make(*values of inputs)`` returns the tool's name and options, or raises LycorisError."""
        self._buttons.append(button)

        @cumulative
        def go(*values: Any) -> Iterator[tuple[Update, ...]]:
            yield from self.make_and_run(make, values)

        self.context.later(lambda _: button.click(go, list(inputs), self.outputs, show_progress="hidden"))

    @property
    def outputs(self) -> list[Any]:
        """The components that :meth:`run` updates; complete when ``shows`` and ``start`` were called."""
        return [self._state, self._cancel, self._notes, *self._buttons, *self._results]

    def make_and_run(self, make: Make, values: Sequence[Any]) -> Iterator[tuple[Update, ...]]:
        """As :meth:`run`, for options that are made of fields; what is wrong with them is told here too."""
        try:
            tool, options = make(*values)
        except LycorisError as error:
            yield self._updates(idle(READY), notes(errors=[str(error)]))
            return
        yield from self.run(tool, options)

    def run(self, tool: str, options: Mapping[str, Any]) -> Iterator[tuple[Update, ...]]:
        """Start a job and give the updates of ``outputs`` until it ends; errors are a sentence below the progress."""
        last = self.context.jobs.latest(self.owner)
        if last is not None and not last.ended:
            yield from self._follow(last, notes(problems=[BUSY]))
            return
        try:
            job = self.context.jobs.start(tool, options, self.owner)
        except LycorisError as error:
            yield self._updates(idle(READY), notes(errors=[self._said(str(error), tool)]))
            return
        yield self._updates(bar(0, "starting"), "", busy=True, results=self._show(None))
        yield from self._follow(job)

    @cumulative
    def resume(self) -> Iterator[tuple[Update, ...]]:
        """Show the page's last job to somebody who opens the page: how far it is, or what came of it."""
        job = self.context.jobs.latest(self.owner)
        if job is None:
            yield tuple(gr.update() for _ in self.outputs)
        else:
            yield from self._follow(job)

    def cancel(self) -> None:
        """Ask the page's job to stop. Nothing is shown from here: it might come after what the job's end shows."""
        job = self.context.jobs.latest(self.owner)
        if job is not None and not job.ended:
            job.cancel()

    def _follow(self, job: Job, before: str = "") -> Iterator[tuple[Update, ...]]:
        """Give the updates until a job ends; ``before``: what is to be said above all that it says, until then and afterwards."""
        for now in states(job.wait, lambda: self._now(job), POLL):
            yield self._updates(now, before or None, busy=True)
        yield self._finished(job, before)

    def _now(self, job: Job) -> str:
        if job.stopping:
            return idle("stopping ...")
        ahead = self.context.jobs.before(job)
        if job.status == "waiting" and ahead:
            return bar(0, f"waiting for {counted(ahead, 'other job')}")
        if job.progress is None:
            return bar(0, "starting")
        return bar(share(job.progress), words(job.progress))

    def _finished(self, job: Job, before: str = "") -> tuple[Update, ...]:
        if job.status == "cancelled":
            return self._updates(idle("Cancelled. Nothing was written."), before or None)
        if job.status == "failed":
            return self._updates(idle(READY), before + notes(errors=[self._said(job.error, job.tool)]))
        if self._last[0] != job.id:  # to draw it may take seconds, which the next opening of the page need not wait for
            self._last = (job.id, self._show(job))
        when = time.strftime("%H:%M", time.localtime(job.ended_at))
        said = before + notes(problems=[self._said(note, job.tool) for note in job.notes])
        said += report(self._said(job.result.text, job.tool)) if job.result else ""
        return self._updates(idle(f"Done in {took(job.seconds)}, at {when}."), said, results=self._last[1])

    def _said(self, text: str, tool: str) -> str:
        return as_shown(text, self.context.jobs.tool(tool), self.context.store)

    def _updates(self, state: str, said: str | None = None, busy: bool = False, results: Sequence[Any] | None = None) -> tuple[Update, ...]:
        told = gr.update() if said is None else gr.update(value=said)
        buttons = [gr.update(interactive=not busy) for _ in self._buttons]
        shown = [gr.update() for _ in self._results] if results is None else [copy(update) for update in results]  # Gradio 4 empties them
        return (gr.update(value=state), gr.update(interactive=busy), told, *buttons, *shown)


def share(state: ProgressState) -> float:
    """Return how much of the stage is done, from 0 to 1."""
    return state.step / state.total if state.total else 0.0


def _rate(state: ProgressState) -> str:
    """Return how fast it is, with as many digits as say something."""
    if state.rate < 1:
        return f"{1 / state.rate:.1f} s each"
    return f"{state.rate:,.0f} {state.unit}/s" if state.rate >= 100 else f"{state.rate:.1f} {state.unit}/s"


def words(state: ProgressState) -> str:
    """Return a state as the user reads it: the share that is done, how much of what, rate and time left."""
    parts = [f"{100 * share(state):.0f} %"] if state.total else []
    if not state.total or " " in state.text:  # the name of a layer says nothing to anybody
        parts.append(state.text[:90])
    if state.unit == "B":
        parts.append(f"{state.step / 1e6:,.0f} of {state.total / 1e6:,.0f} MB")
        parts.append(f"{state.rate / 1e6:,.0f} MB/s")
    elif state.total > 1:
        parts.append(f"{state.step:,} of {state.total:,} {state.unit}")
        parts += [_rate(state)] if state.rate else []
    if state.left is not None:
        parts.append(remaining(state.left))
    return " - ".join(parts)
