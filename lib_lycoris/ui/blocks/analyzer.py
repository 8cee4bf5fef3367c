"""The part of the page Block weight that generates the image once for each block, and shows what changed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr

from ...errors import LycorisError, ToolError
from ...hosts.protocol import GenerationCancelled, Generator
from ...wording import counted
from ..context import PageContext
from ..events import QUICK, Update, by_hand, cumulative, on_any, states
from ..parts.generation.making import Work
from ..parts.generation.request import read_request
from ..style import idle, notes
from .analysis import FULL, OFF, Outcome, Setup, analyse, caption, chosen_blocks, first_cell, grid, prompts, side_by_side
from .values import with_text

READY = "Ready. One image is made for each block, and one or two to compare them with."
NOT_PLANNED = "Choose a network above to see what will happen."
NO_GENERATOR = "The analyzer compares images, and none can be made here; open this page where images are made."
KIND = "analysis"  # of work on images
DROP, ALONE = "without each block", "each block alone"
NETWORK = 9  # place of the network's name among what setup() takes
LARGEST_SEED = 2**32 - 1
LOOK = 0.2  # seconds between two looks at the images in the making
Updates = tuple[dict[str, Any], ...]


class Analysis:
    """One analysis: what it was asked for, and what is known so far."""

    def __init__(self, generator: Generator, setup: Setup) -> None:
        self.generator, self.setup = generator, setup
        self.outcome: Outcome | None = None
        self.whole = False

    def __call__(self, work: Work) -> None:
        """Make all images. Raises what the host raises, at the first that cannot be made."""
        for outcome in analyse(self.generator, self.setup, work.say, work.cancel):
            self.outcome = outcome
        self.whole = True


class AnalyzerPart:
    """Builds the part; an analysis goes on when the page is closed, and is shown again when it is opened."""

    def __init__(self, context: PageContext) -> None:
        self.context = context
        self.made: Analysis | None = None

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
        stop.click(self.context.maker.stop, None, None, **QUICK)
        self.context.on_return("lyco_blocks_analyze_following", self.found, self.resume, outputs)

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
        return gr.update(value=idle(f"{counted(len(wanted), 'image')} of {size}: {', '.join(label for label, _ in wanted)}."))

    @cumulative
    def run(self, *values: Any) -> Iterator[Updates]:
        """Generate, telling how far it is; whatever goes wrong is one sentence."""
        try:
            setup = self.setup(*values)
            if self.context.maker.running(KIND) is not None:
                yield _updates(idle("Another analysis is running; cancel it, or wait for its end."))
                return
            assert self.context.generator is not None  # setup() has looked
            made = Analysis(self.context.generator, setup)
            work = self.context.maker.start(KIND, made)
            self.made = made
        except LycorisError as error:
            yield _updates(idle(READY), notes(errors=[str(error)]))
            return
        yield _updates(work.state(), "", busy=True, ranking="", cleared=True)
        yield from self._follow(work)

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

    def found(self) -> Updates:
        """Return the updates for somebody who opens the page: the last analysis, or the one in the making."""
        work, made = self.context.maker.running(KIND), self.made
        if work is not None:
            return (*_updates(work.state(), busy=True), gr.update(value=str(id(work))))
        if made is None or made.outcome is None or not made.whole:
            return (*(gr.update() for _ in range(7)), gr.update())
        return (*_finished(made.setup, made.outcome), gr.update())

    @cumulative
    def resume(self) -> Iterator[Updates]:
        """Follow the analysis in the making."""
        work = self.context.maker.last(KIND)
        if work is None:
            yield _updates()
        else:
            yield from self._follow(work)

    def _follow(self, work: Work) -> Iterator[Updates]:
        made = work.make
        assert isinstance(made, Analysis)
        for now, outcome in states(work.ended.wait, lambda: (work.state(), made.outcome), LOOK):
            yield _updates(now, busy=True, ranking=None if outcome is None else ranking(outcome, made.setup.alone))
        if isinstance(work.error, GenerationCancelled) or work.cancel.is_set():
            yield _updates(idle("Cancelled."))
        elif work.error is not None:
            yield _updates(idle(READY), notes(errors=[work.failure()]))
        elif made.outcome is not None:
            yield _finished(made.setup, made.outcome)


def _finished(setup: Setup, outcome: Outcome) -> Updates:
    compared = OFF if setup.alone else FULL
    pictures = [first_cell(outcome, setup.alone)]
    pictures += [(side_by_side(trial, outcome.largest), caption(trial, setup.alone)) for trial in outcome.ranking]
    said = f"Done, seed {setup.request.seed}: {counted(len(outcome.trials), 'block')}, each compared with the image of {compared}."
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
