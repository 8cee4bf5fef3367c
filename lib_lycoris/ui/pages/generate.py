"""The page Generate: prompt to image on a host that generates, with progress, cancel and what became of every tag."""

from __future__ import annotations

import queue
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, Union

import gradio as gr

from ...errors import LycorisError
from ...hosts.protocol import GeneratedImage, GenerationCancelled, GenerationProgress, GenerationRequest, Generator
from ...prompt import escape_name
from ..parts.request import read_request
from ..style import bar, idle, notes, small_picture

KEPT = 24  # images in the gallery
POLL = 0.15  # seconds between two states of the progress bar
READY = "Ready."
LABEL = "sampling"
Message = Union[GenerationProgress, GeneratedImage, BaseException]
Update = dict[str, Any]


@dataclass(frozen=True)
class Controls:
    """The components whose values make a request, in its order, and those that show what became of it."""

    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]  # state, gallery, notes, infotext, generate button, cancel button


class GeneratePage:
    """Builds the page and runs its images, one at a time; closing the app removes the images that were not downloaded."""

    def __init__(self, host: Generator, save: Callable[[GeneratedImage, Path], None]) -> None:
        self.host = host
        self.save = save
        self.folder = tempfile.TemporaryDirectory(prefix="lycoris-pictures-")
        self.pictures: list[str] = []
        self.cancel = Event()
        self._free = Lock()  # held by the thread that generates

    def build(self) -> None:
        """Add the components to the open gr.Blocks."""
        with gr.Row():
            with gr.Column(scale=5, min_width=380):
                texts = self._texts()
                with gr.Row():
                    start = gr.Button("Generate", variant="primary", elem_id="lyco_generate", scale=3)
                    stop = gr.Button("Cancel", interactive=False, elem_id="lyco_cancel", scale=1)
                numbers = self._numbers()
            with gr.Column(scale=6, min_width=380):
                state = gr.HTML(idle(READY), elem_id="lyco_progress")
                gallery = gr.Gallery(label="Pictures", elem_id="lyco_gallery", columns=3, object_fit="contain", preview=True)
                told = gr.HTML("", elem_id="lyco_notes")
                label = "Generation text (also inside the PNG)"
                info = gr.Textbox(label=label, lines=3, interactive=False, show_copy_button=True, elem_id="lyco_info")
        controls = Controls((*texts, *numbers), (state, gallery, told, info, start, stop))
        start.click(self.run, list(controls.inputs), list(controls.outputs), show_progress="hidden")
        texts[0].submit(self.run, list(controls.inputs), list(controls.outputs), show_progress="hidden")
        stop.click(self.stop, None, None, queue=False, show_progress="hidden")

    def _texts(self) -> tuple[Any, Any]:
        names = list(self.host.networks())
        tip = f"a castle on a hill <lyco:{names[0] if names else 'style'}:0.7>"
        prompt = gr.Textbox(label="Prompt", lines=3, placeholder=tip, elem_id="lyco_prompt")
        with gr.Row():
            adder = gr.Dropdown(names, value=None, label="Add a network to the prompt", elem_id="lyco_add", scale=6)
            strength = gr.Number(value=1, label="Strength", elem_id="lyco_strength", scale=2, min_width=90)
            refresh = gr.Button("Refresh", size="sm", elem_id="lyco_refresh", scale=1, min_width=70)
        negative = gr.Textbox(label="Negative prompt", lines=2, placeholder="what to stay away from", elem_id="lyco_negative")
        adder.input(add_tag, [prompt, adder, strength], [prompt, adder], show_progress="hidden")
        refresh.click(lambda: gr.update(choices=list(self.host.networks())), None, [adder], show_progress="hidden")
        return prompt, negative

    def _numbers(self) -> tuple[Any, ...]:
        samplers = list(self.host.samplers())
        with gr.Row():
            seed = gr.Number(value=-1, precision=0, label="Seed (-1: a new one each time)", elem_id="lyco_seed", min_width=140)
            sampler = gr.Dropdown(samplers, value=samplers[0], label="Sampler", elem_id="lyco_sampler", min_width=140)
        with gr.Row():
            steps = gr.Slider(1, 100, value=20, step=1, label="Steps", elem_id="lyco_steps")
            cfg = gr.Slider(1, 20, value=self.host.cfg, step=0.5, label="Guidance (CFG)", elem_id="lyco_cfg")
        with gr.Row():
            width = gr.Slider(64, 2048, value=self.host.size, step=8, label="Width", elem_id="lyco_width")
            height = gr.Slider(64, 2048, value=self.host.size, step=8, label="Height", elem_id="lyco_height")
        return seed, steps, width, height, cfg, sampler

    def run(self, *values: Any) -> Iterator[tuple[Update, ...]]:
        """Make an image, telling how far it is; whatever goes wrong is one sentence under the gallery."""
        try:
            request = read_request(*values)
        except LycorisError as error:
            yield _failed(str(error))
            return
        if not self._free.acquire(blocking=False):
            yield _failed("an image is being made already, in this window or another; wait for it, or cancel it there")
            return
        self.cancel = cancel = Event()
        messages: queue.Queue[Message] = queue.Queue()
        Thread(target=self._paint, args=(request, messages, cancel), daemon=True).start()
        yield _shown(state=bar(0, "reading networks and prompt", LABEL), notes="", busy=True)
        try:
            yield from self._follow(messages)
        finally:
            cancel.set()  # the page was closed: nobody waits for the image

    def stop(self) -> None:
        """Ask the image in the making to stop, at the end of its step. Nothing is shown from here: it might come after the end."""
        self.cancel.set()

    def _paint(self, request: GenerationRequest, messages: queue.Queue[Message], cancel: Event) -> None:
        try:
            messages.put(self.host.generate(request, messages.put, cancel))
        except BaseException as error:  # noqa: BLE001 - handed to the page's own thread, which tells the user
            messages.put(error)
        finally:
            self._free.release()

    def _follow(self, messages: queue.Queue[Message]) -> Iterator[tuple[Update, ...]]:
        preview = ""
        while True:
            message = _latest(messages)
            if isinstance(message, GenerationProgress):
                preview = preview if message.preview is None else small_picture(message.preview)
                going = not self.cancel.is_set()
                state = bar(message.step / message.steps, message.text(), LABEL) + preview if going else idle("stopping ...")
                yield _shown(state, busy=True)
                continue
            yield self._finished(message)
            return

    def _finished(self, message: GeneratedImage | BaseException) -> tuple[Update, ...]:
        if isinstance(message, GenerationCancelled):
            return _shown(state=idle("GenerationCancelled.", failed=True), info="")
        if isinstance(message, BaseException):
            kind = "" if isinstance(message, LycorisError) else f"the image could not be made: {type(message).__name__}: "
            return _failed(f"{kind}{message}")
        path = Path(self.folder.name) / f"{len(list(Path(self.folder.name).iterdir())):05}-{message.seed}.png"
        self.save(message, path)
        self.pictures = [str(path), *self.pictures][:KEPT]
        told = notes(message.applied, message.problems)
        return _shown(state=idle(f"Done, seed {message.seed}."), gallery=self.pictures, notes=told, info=message.infotext)


def add_tag(prompt: str, name: str | None, strength: float | None) -> tuple[str, Update]:
    """Return the prompt with the network's tag behind it, and the list with nothing chosen."""
    if not name:
        return prompt, gr.update()
    tag = f"<lyco:{escape_name(name)}:{1 if strength is None else strength:g}>"
    return f"{prompt.rstrip()} {tag}".lstrip(), gr.update(value=None)


def _latest(messages: queue.Queue[Message]) -> Message:
    """Wait for news; of several steps only the last is shown, so that a slow browser does not hold the image up."""
    message = messages.get()
    if isinstance(message, GenerationProgress):
        time.sleep(POLL)
    while isinstance(message, GenerationProgress) and not messages.empty():
        newer = messages.get()
        seen = isinstance(newer, GenerationProgress) and newer.preview is None
        message = replace(newer, preview=message.preview) if seen else newer  # type: ignore[type-var]
    return message


def _failed(sentence: str) -> tuple[Update, ...]:
    """Return the updates for a run without an image: those made before stay, dimmed, and their text goes."""
    return _shown(state=idle("No image was made.", failed=True), notes=notes(errors=[sentence]), info="")


def _shown(
    state: str, gallery: list[str] | None = None, notes: str | None = None, info: str | None = None, busy: bool = False
) -> tuple[Update, ...]:
    """Return the updates of Controls.outputs; None leaves a component as it is."""
    kept = [gr.update() if value is None else gr.update(value=value) for value in (gallery, notes, info)]
    return (gr.update(value=state), *kept, gr.update(interactive=not busy), gr.update(interactive=busy))
