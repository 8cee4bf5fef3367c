"""The parts of the page Generate that make several images: the grid, and two images over each other with a slider between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr

from ....errors import LycorisError, ToolError
from ....hosts.protocol import GeneratedImage, GenerationCancelled, GenerationRequest, Generator
from ....prompt import find_tags
from ...context import PageContext
from ...events import cumulative, states
from ...style import bar, idle, notes
from ..file_choice import network_picker
from .grid import ALGORITHMS, NETWORKS, ROWS, GridWork, plan_grid
from .images import ImageFolder, thumbnail
from .making import Work
from .request import read_request

POLL = 0.3  # seconds between two looks
LARGE = 768  # pixels of an image that is compared
LISTED = 50  # images to choose from
Updates = tuple[Any, ...]


class GridPart:
    """Builds the grid's fields and shows it while it is made."""

    def __init__(self, context: PageContext, host: Generator, images: ImageFolder) -> None:
        self.context, self.host, self.images, self.maker = context, host, images, context.maker
        self.work: GridWork | None = None

    def build(self, fields: Sequence[Any]) -> None:
        """Add the components to the open gr.Blocks; ``fields`` hold the request."""
        with gr.Accordion("Grid: strengths against networks, seeds, block presets or algorithms", open=False, elem_id="lyco_grid"):
            self.picker = network_picker(self.context.store, "Networks", "lyco_grid_networks", multiselect=True)
            with gr.Row():
                strengths = gr.Textbox("0, 0.5, 1", label="Strengths", max_lines=1, elem_id="lyco_grid_strengths", min_width=120)
                kind = gr.Dropdown(list(ROWS), value=NETWORKS, label="Rows", elem_id="lyco_grid_rows", min_width=120)
                typed = gr.Textbox(label="Seeds or presets", max_lines=1, placeholder="1, 2, 3", elem_id="lyco_grid_values", min_width=120)
            with gr.Row():
                start = gr.Button("Make the grid", elem_id="lyco_grid_run", scale=3)
                stop = gr.Button("Cancel", interactive=False, elem_id="lyco_grid_cancel", scale=1)
            state = gr.HTML(idle("A click on an image writes its tag into the prompt."), elem_id="lyco_grid_progress")
            shown = gr.HTML("", elem_id="lyco_grid_shown")
        self.context.keep("grid", {"networks": self.picker.component, "strengths": strengths, "rows": kind, "values": typed})
        outputs = [state, shown, start, stop]
        inputs = [self.picker.component, strengths, kind, typed, *fields]
        start.click(self.run, inputs, outputs, show_progress="hidden")
        stop.click(self.maker.stop, None, None, queue=False, show_progress="hidden")
        self.context.on_return("lyco_grid_following", self.found, self.resume, outputs)

    @cumulative
    def run(self, names: list[str] | None, strengths: str, kind: str, typed: str, *values: Any) -> Iterator[Updates]:
        """Make a grid, showing the images that are there."""
        try:
            self.picker.paths(names)
            algorithms = [self._algorithm(name) for name in names or ()] if kind == ALGORITHMS else ()
            made = GridWork(plan_grid(read_request(*values), strengths, kind, names or (), typed, algorithms), self.host, self.images)
            work = self.maker.start("grid", made)
            self.work = made
        except LycorisError as error:
            yield _updates(notes(errors=[str(error)]))
            return
        yield _updates(bar(0, "starting"), made.html(), busy=True)
        yield from self._follow(work)

    def _algorithm(self, name: str) -> str:
        if self.context.networks is None:
            return ""
        return next(iter(self.context.networks.card(name).algorithms), "unknown")

    def found(self) -> Updates:
        """Return the updates for somebody who opens the page: the last grid, and the one in the making."""
        work = self.maker.running("grid")
        shown = self.work.html() if self.work is not None else None
        if work is None:
            return (*_updates(None, shown), gr.update())
        return (*_updates(work.state(), shown, busy=True), gr.update(value=str(id(work))))

    @cumulative
    def resume(self) -> Iterator[Updates]:
        """Follow the grid in the making."""
        work = self.maker.last("grid")
        if work is None:
            yield _updates(None)
        else:
            yield from self._follow(work)

    def _follow(self, work: Work) -> Iterator[Updates]:
        made, before = self.work, -1
        for now, count in states(work.ended.wait, lambda: (work.state(), len(made.made) if made is not None else 0), POLL):
            yield _updates(now, made.html() if made is not None and count != before else None, busy=True)
            before = count
        shown = made.html() if made is not None else None
        if isinstance(work.error, GenerationCancelled):
            yield _updates(idle("Cancelled. The images that were made stay here."), shown)
        elif work.error is not None:
            yield _updates(notes(errors=[work.failure()]), shown)
        else:
            problems = list(made.problems) if made is not None else []
            yield _updates(idle(f"Done: saved as {work.result}.") + notes(problems=problems), shown)


class BeforeAfterPart:
    """Two images over each other; with one click the prompt's image with its networks and without."""

    def __init__(self, context: PageContext, host: Generator, images: ImageFolder) -> None:
        self.context, self.host, self.images, self.maker = context, host, images, context.maker
        self.last: Work | None = None

    def build(self, fields: Sequence[Any]) -> None:
        """Add the components to the open gr.Blocks; ``fields`` hold the request."""
        with gr.Accordion("Before and after: two images with a slider between them", open=False, elem_id="lyco_pair"):
            with gr.Row():
                one = gr.Dropdown([], label="Left", elem_id="lyco_pair_left", min_width=140)
                two = gr.Dropdown([], label="Right", elem_id="lyco_pair_right", min_width=140)
            with gr.Row():
                show = gr.Button("Compare these", elem_id="lyco_pair_run", min_width=140)
                both = gr.Button("Without and with the networks", elem_id="lyco_pair_both", min_width=200)
                stop = gr.Button("Cancel", interactive=False, elem_id="lyco_pair_cancel", min_width=80)
            state = gr.HTML("", elem_id="lyco_pair_progress")
            shown = gr.HTML("", elem_id="lyco_pair_shown")
        for box in (one, two):
            box.focus(self.offered, None, box, queue=False, show_progress="hidden")
        show.click(self.show, [one, two], [state, shown], queue=False, show_progress="hidden")
        outputs = [state, shown, both, stop]
        both.click(self.run, list(fields), outputs, show_progress="hidden")
        stop.click(self.maker.stop, None, None, queue=False, show_progress="hidden")
        self.context.on_return("lyco_pair_following", self.found, self.resume, outputs)

    def offered(self) -> dict[str, Any]:
        """Return the names of the newest images."""
        return gr.update(choices=[path.name for path in self.images.newest(LISTED)])

    def show(self, left: str | None, right: str | None) -> tuple[Any, Any]:
        """Show two images of the folder."""
        try:
            if not left or not right:
                raise ToolError("choose an image on the left and one on the right")
            paths = [self.images.path(name) for name in (left, right)]
        except LycorisError as error:
            return gr.update(value=notes(errors=[str(error)])), gr.update()
        return gr.update(value=""), gr.update(value=slider([(path.name, thumbnail(path, LARGE)) for path in paths]))

    @cumulative
    def run(self, *values: Any) -> Iterator[Updates]:
        """Make the image of the fields without its tags and with them, of one seed."""
        try:
            request = read_request(*values)
            self.last = work = self.maker.start("compare", lambda work: self._make(request, work))
        except LycorisError as error:
            yield _updates(notes(errors=[str(error)]))
            return
        yield from self._follow(work)

    def _make(self, request: GenerationRequest, work: Work) -> tuple[list[str], GeneratedImage]:
        """Return the names of both images, and the second one."""
        names, seed = [], request.seed
        for number, prompt in enumerate((find_tags(request.prompt)[0].strip(), request.prompt)):
            work.part = (number, 2)
            made = self.host.generate(replace(request, prompt=prompt, seed=seed), work.tell, work.cancel)
            seed = made.seed
            names.append(self.images.add(made).name)
        return names, made

    def found(self) -> Updates:
        """Return the updates for somebody who opens the page: the last pair, or how far the one in the making is."""
        work = self.last
        if work is None or work.error is not None:
            return (*_updates(None), gr.update())
        if work.ended.is_set():
            return (*self._ended(work), gr.update())
        return (*_updates(work.state(), busy=True), gr.update(value=str(id(work))))

    @cumulative
    def resume(self) -> Iterator[Updates]:
        """Follow the pair in the making."""
        if self.last is None:
            yield _updates(None)
        else:
            yield from self._follow(self.last)

    def _follow(self, work: Work) -> Iterator[Updates]:
        for now in states(work.ended.wait, work.state, POLL):
            yield _updates(now, busy=True)
        yield self._ended(work)

    def _ended(self, work: Work) -> Updates:
        if isinstance(work.error, GenerationCancelled):
            return _updates(idle("Cancelled."))
        if work.error is not None:
            return _updates(notes(errors=[work.failure()]))
        names, made = work.result
        pairs = zip(("without networks", "with networks"), (thumbnail(self.images.folder / name, LARGE) for name in names))
        return _updates(notes(made.applied, made.problems), slider(list(pairs)))


def slider(images: Sequence[tuple[str, str]]) -> str:
    """Return two images, each with its name, over each other."""
    pictures = "".join(f'<img src="{address}" alt="{escape(name)}">' for name, address in images)
    names = "".join(f"<span>{escape(name)}</span>" for name, _ in images)
    control = '<input type="range" min="0" max="100" value="50" aria-label="How much of the left image is seen, in percent">'
    return f'<div class="lyco_compare">{pictures}{control}<p>{names}</p></div>'


def _updates(state: str | None, shown: str | None = None, busy: bool = False) -> Updates:
    kept = (gr.update() if value is None else gr.update(value=value) for value in (state, shown))
    return (*kept, gr.update(interactive=not busy), gr.update(interactive=busy))
