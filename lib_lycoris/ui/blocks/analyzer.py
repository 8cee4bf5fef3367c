"""The part of the page Block weight that generates the image once for each block, and shows what changed."""

from __future__ import annotations

import queue
import random
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from threading import Event, Lock, Thread
from typing import Any, Union

import gradio as gr

from ...errors import LycorisError, ToolError
from ...hosts.protocol import GenerationCancelled, Generator
from ..context import PageContext
from ..events import Update, by_hand, on_any
from ..parts.generation.request import read_request
from ..style import bar, idle, notes
from .analysis import FULL, OFF, Outcome, Setup, analyse, caption, chosen_blocks, first_cell, grid, prompts, side_by_side
from .values import with_text

READY = "Ready. One image is made for each block, and one or two to compare them with."
NOT_PLANNED = "Choose a network above to see what will happen."
NO_GENERATOR = "The analyzer compares images, and none can be made here; open this page where images are made."
DROP, ALONE = "without each block", "each block alone"
NETWORK = 9  # place of the network's name among what setup() takes
LARGEST_SEED = 2**32 - 1
LOOK = 0.2  # seconds between two looks at the images in the making
Message = Union[tuple[float, str], Outcome, BaseException, None]  # None: all is done
Updates = tuple[dict[str, Any], ...]


class AnalyzerPart:
    """Builds the part; one analysis runs at a time, in a thread of its own."""

    def __init__(self, context: PageContext) -> None:
        self.context = context
        self.cancel = Event()
        self._busy = Lock()

    def build(self, state: Any, fields: list[Any], values: Any) -> None:
        """Add the components to the open gr.Blocks; ``state`` holds the sliders, ``values`` shows them."""
        generator = self.context.generator
        with gr.Accordion("Analyzer: see what each block does to an image", open=False, elem_id="lyco_blocks_analyzer"):
            if generator is None:
                gr.HTML(notes(problems=[NO_GENERATOR]))
                return
            inputs = self._fields(generator)
            plan = gr.HTML(idle(NOT_PLANNED), elem_id="lyco_blocks_analyze_plan", elem_classes=["lyco_plan"])
            with gr.Row():
                start = gr.Button("Analyze", variant="primary", elem_id="lyco_blocks_analyze", scale=3)
                stop = gr.Button("Cancel", interactive=False, elem_id="lyco_blocks_analyze_cancel", scale=1)
            shown = gr.HTML(idle(READY), elem_id="lyco_blocks_analyze_progress")
            told = gr.HTML("", elem_id="lyco_blocks_analyze_notes")
            with gr.Row():
                ranking = gr.HTML("", elem_id="lyco_blocks_ranking")
                sheet = gr.Image(
                    type="pil", interactive=False, label="All images in one, to keep", show_label=False, visible=False,
                    elem_id="lyco_blocks_grid",
                )  # fmt: skip
            gallery = gr.Gallery(
                label="Image and heat map of each block", columns=3, object_fit="contain", visible=False, elem_id="lyco_blocks_gallery"
            )
        outputs = [shown, told, ranking, sheet, gallery, start, stop]
        given = [*inputs, state, *fields]
        start.click(self.run, given, outputs, show_progress="hidden")
        changes = [*map(by_hand, inputs), values.change, *(field.change for field in fields)]
        on_any(changes, self.planned, [*given, values], plan, queue=False)
        stop.click(self.stop, None, [shown], queue=False, show_progress="hidden")

    def _fields(self, generator: Generator) -> list[Any]:
        with gr.Row():
            hint = "the network's tag is added by itself"
            prompt = gr.Textbox(label="Prompt", lines=2, placeholder=hint, elem_id="lyco_blocks_prompt", scale=3)
            mode = gr.Radio([DROP, ALONE], value=DROP, label="Images", elem_id="lyco_blocks_mode", scale=2)
        side = generator.size
        with gr.Row():
            seed = gr.Number(value=1, precision=0, label="Seed (-1: any)", elem_id="lyco_blocks_seed", min_width=80)
            steps = gr.Number(value=12, precision=0, label="Steps", elem_id="lyco_blocks_steps", min_width=80)
            width = gr.Number(value=side, precision=0, label="Width", elem_id="lyco_blocks_width", min_width=80)
            height = gr.Number(value=side, precision=0, label="Height", elem_id="lyco_blocks_height", min_width=80)
            cfg = gr.Number(value=generator.cfg, label="Guidance (CFG)", elem_id="lyco_blocks_cfg", min_width=80)
            blocks = gr.Textbox(
                label="Blocks (empty: all it changes)", placeholder="IN04-IN08 M00", max_lines=1, elem_id="lyco_blocks_which",
                min_width=220,
            )  # fmt: skip
        kept = {"prompt": prompt, "mode": mode, "seed": seed, "steps": steps, "cfg": cfg}
        self.context.keep("blocks", kept)
        self.context.on_load(lambda: (generator.size, generator.size), [width, height])  # another model may be loaded by then
        return [prompt, mode, seed, steps, width, height, cfg, blocks]

    def planned(self, *given: Any) -> Update:
        """Say how many images an analysis makes, and which, for the values that the page shows."""
        *values, text = given
        try:
            setup = self.setup(*values)
            setup = replace(setup, sliders=with_text(setup.sliders, text))
            wanted, request = prompts(setup), setup.request
        except LycorisError as error:
            return gr.update(value=idle(str(error) if values[NETWORK] else NOT_PLANNED))
        size = f"{request.width} x {request.height}, {request.steps} steps each"
        return gr.update(value=idle(f"{len(wanted)} images of {size}: {', '.join(label for label, _ in wanted)}."))

    def stop(self) -> dict[str, Any]:
        """Ask the analysis to stop."""
        self.cancel.set()
        return gr.update(value=idle("stopping ..."))

    def run(self, *values: Any) -> Iterator[Updates]:
        """Generate, telling how far it is; whatever goes wrong is one sentence."""
        try:
            setup = self.setup(*values)
        except LycorisError as error:
            yield _updates(idle(READY), notes(errors=[str(error)]))
            return
        if not self._busy.acquire(blocking=False):
            yield _updates(idle("Another analysis is running; cancel it, or wait for its end."))
            return
        messages: queue.Queue[Message] = queue.Queue()
        self.cancel = cancel = Event()
        try:
            Thread(target=self._paint, args=(setup, messages, cancel), daemon=True).start()
            yield _updates(bar(0, "reading networks and prompt", "analyzing"), "", busy=True, ranking="", cleared=True)
            yield from self._follow(setup, messages, cancel)
        finally:
            cancel.set()  # the page was closed: nobody waits for the images
            self._busy.release()

    def setup(
        self, prompt: str, mode: str, seed: float | None, steps: float, width: float, height: float, cfg: float, blocks: str,
        state: Any, network: str | None, *strengths: float | None,
    ) -> Setup:  # fmt: skip
        """Return what the fields ask for; raise LycorisError for one that is wrong."""
        if self.context.generator is None or not network:
            raise ToolError("no network is chosen; choose one at the top of this page")
        request = read_request(prompt, "", seed, steps, width, height, cfg, next(iter(self.context.generator.samplers())))
        if request.seed < 0:
            request = replace(request, seed=random.SystemRandom().randint(0, LARGEST_SEED))
        return Setup(request, network, state.sliders, strengths, mode == ALONE, chosen_blocks(blocks or "", state.sliders))

    def _paint(self, setup: Setup, messages: queue.Queue[Message], cancel: Event) -> None:
        assert self.context.generator is not None
        try:
            for outcome in analyse(self.context.generator, setup, lambda share, text: messages.put((share, text)), cancel):
                messages.put(outcome)
            messages.put(None)
        except BaseException as error:  # noqa: BLE001 - handed to the page's own thread, which tells the user
            messages.put(error)

    def _follow(self, setup: Setup, messages: queue.Queue[Message], cancel: Event) -> Iterator[Updates]:
        outcome: Outcome | None = None
        while not cancel.is_set():
            found = _news(messages)
            for message in found:
                if isinstance(message, Outcome):
                    outcome = message
                    yield _updates(ranking=ranking(outcome, setup.alone), busy=True)
            last = found[-1] if found else (0.0, "")
            if isinstance(last, BaseException):
                yield self._failed(last)
                return
            if last is None and outcome is not None:
                yield _finished(setup, outcome)
                return
            if isinstance(last, tuple) and last[1]:
                yield _updates(bar(last[0], last[1], "analyzing"), busy=True)
        # the image in the making ends with its step; nobody has to wait for that
        yield _updates(idle("Cancelled."))

    def _failed(self, error: BaseException) -> Updates:
        if isinstance(error, GenerationCancelled):
            return _updates(idle("Cancelled."))
        kind = "" if isinstance(error, LycorisError) else f"the images could not be made: {type(error).__name__}: "
        return _updates(idle(READY), notes(errors=[f"{kind}{error}"]))


def _news(messages: queue.Queue[Message]) -> list[Message]:
    """Return all that has been told since the last look, after waiting a moment for it."""
    try:
        found = [messages.get(timeout=LOOK)]
    except queue.Empty:
        return []
    while not messages.empty():
        found.append(messages.get())
    return found


def _finished(setup: Setup, outcome: Outcome) -> Updates:
    compared = OFF if setup.alone else FULL
    pictures = [first_cell(outcome, setup.alone)]
    pictures += [(side_by_side(trial, outcome.largest), caption(trial, setup.alone)) for trial in outcome.ranking]
    said = f"Done, seed {setup.request.seed}: {len(outcome.trials)} blocks, each compared with the image of {compared}."
    updates = _updates(idle(said), notes(problems=outcome.problems), ranking=ranking(outcome, setup.alone))
    return (*updates[:3], _picture(grid(outcome, setup.alone)), _picture(pictures), *updates[5:])


def _picture(value: Any) -> dict[str, Any]:
    """Return the update that shows images, or hides what would stay empty."""
    return gr.update(value=value, visible=value is not None)


def ranking(outcome: Outcome, alone: bool) -> str:
    """Return the blocks as bars, the one that matters most first."""
    top = max((trial.amount for trial in outcome.trials), default=0.0)
    lines = "".join(
        f'<tr><th scope="row">{escape(trial.block)}</th>'
        f'<td><div class="lyco_amount"><i style="width:{100 * trial.amount / top if top else 0:.0f}%"></i></div></td>'
        f"<td>{trial.amount:.2f}</td></tr>"
        for trial in outcome.ranking
    )
    what = "Change that each block makes alone" if alone else "Change when a block is left out"
    head = f"<caption>{what} (mean difference of all pixels, of 255)</caption>"
    return f'<table class="lyco_ranking">{head}{lines}</table>'


def _updates(
    state: str | None = None, said: str | None = None, busy: bool = False, ranking: str | None = None, cleared: bool = False
) -> Updates:
    texts = [gr.update() if text is None else gr.update(value=text) for text in (state, said, ranking)]
    pictures = [_picture(None) if cleared else gr.update() for _ in range(2)]
    return (*texts, *pictures, gr.update(interactive=not busy), gr.update(interactive=busy))
