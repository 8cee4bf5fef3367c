"""The page Generate: prompt to image on a host that generates, with progress, cancel and what became of every tag."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from ...errors import LycorisError
from ...hosts.protocol import GeneratedImage, GenerationCancelled, GenerationRequest
from ...prompt import escape_name
from ...prompt.number import format_number
from ..context import PageContext
from ..events import QUICK, Update, cumulative, states
from ..parts.generation.grid_part import BeforeAfterPart, GridPart
from ..parts.generation.images import LIMIT, ImageFolder, Save, text_of
from ..parts.generation.making import LABEL, Work
from ..parts.generation.model_part import ModelPart
from ..parts.generation.request import read_generation_text, read_request
from ..parts.generation.stack_part import StackPart
from ..style import REFRESH, bar, idle, notes

PAGE = "generate"
KEPT = 24  # images in the gallery
POLL = 0.15  # seconds between two states of the progress bar
READY = "Ready."
FIELDS = ("prompt", "negative", "seed", "steps", "width", "height", "cfg", "sampler")  # in the order of a request


class GeneratePage:
    """Builds the page and runs its images, one at a time; an image goes on when the page is closed."""

    def __init__(self, context: PageContext, save: Save) -> None:
        assert context.generator is not None
        self.context = context
        self.host = context.generator
        self.images = ImageFolder(context.store.kept_folder() / "images", save)
        self.maker = context.maker
        self.model = ModelPart(context, self.host)

    def build(self) -> None:
        """Add the components to the open gr.Blocks."""
        with gr.Row():
            with gr.Column(scale=5, min_width=340):
                self.model.build()
                texts = self._texts()
                with gr.Row(elem_id="lyco_generate_row"):
                    start = gr.Button("Generate", variant="primary", elem_id="lyco_generate", scale=3)
                    stop = gr.Button("Cancel", interactive=False, elem_id="lyco_cancel", scale=1)
                numbers = self._numbers()
            with gr.Column(scale=6, min_width=340):
                state = gr.HTML(idle(READY), elem_id="lyco_progress")
                gallery = gr.Gallery(label="Images", elem_id="lyco_gallery", columns=3, object_fit="contain", preview=True)
                told = gr.HTML("", elem_id="lyco_notes")
                info = self._generation_text()
        self.inputs = [*texts, *numbers]
        self.shown = gr.State([])
        self.outputs = [state, gallery, told, info, start, stop, self.shown]
        self._wire(start, stop, texts[0], gallery, info)
        GridPart(self.context, self.host, self.images).build(self.inputs)
        BeforeAfterPart(self.context, self.host, self.images).build(self.inputs)
        StackPart(self.context).build(self.prompt, self.inputs[FIELDS.index("seed")])

    def follow(self, tab: Any, about: Any) -> None:
        """Show the model that images are made with, also in the line about it; to be called after all fields were built."""
        self.model.follow(tab, self.inputs[FIELDS.index("sampler")], about)

    def _texts(self) -> tuple[Any, Any]:
        names = list(self.host.networks())
        shown = "demo-lora" if "demo-lora" in names else escape_name(names[0]) if names else "style"
        tip = f"{self.host.example} <lyco:{shown}:1>"
        self.prompt = gr.Textbox(label="Prompt", lines=3, placeholder=tip, elem_id="lyco_prompt")
        with gr.Row():
            adder = gr.Dropdown(names, value=None, label="Add a network to the prompt", elem_id="lyco_add", scale=6, min_width=120)
            strength = gr.Number(value=1, step=0.05, label="Strength", elem_id="lyco_strength", scale=2, min_width=90)
            refresh = gr.Button(REFRESH, size="sm", elem_id="lyco_refresh", scale=0, min_width=40, elem_classes=["lyco_refresh"])
        negative = gr.Textbox(label="Negative prompt", lines=2, placeholder="what to stay away from", elem_id="lyco_negative")
        self.adder = [self.prompt, adder, strength]
        refresh.click(lambda: gr.update(choices=list(self.host.networks())), None, [adder], show_progress="hidden")
        return self.prompt, negative

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

    def _generation_text(self) -> Any:
        info = gr.Textbox(
            label="Generation text of the selected image",
            info="It is inside the PNG too.",
            lines=3,
            show_copy_button=True,
            elem_id="lyco_info",
        )
        with gr.Row(elem_classes=["lyco_buttons"]):
            self.apply = gr.Button("Use these settings", size="sm", elem_id="lyco_info_use", min_width=140)
            self.upload = gr.UploadButton("Read a PNG's settings", file_types=["image"], size="sm", elem_id="lyco_info_read", min_width=140)
        folder = f"The last {LIMIT:,} images are kept in {self.images.folder}"
        gr.Markdown(folder.replace("\\", "\\\\").replace("_", "\\_"), elem_id="lyco_images_folder")
        return info

    def _wire(self, start: Any, stop: Any, prompt: Any, gallery: Any, info: Any) -> None:
        kept = dict(zip(FIELDS, self.inputs))
        self.context.keep(PAGE, kept)
        for event in (start.click, prompt.submit):
            event(self.run, self.inputs, self.outputs, show_progress="hidden")
        stop.click(self.maker.stop, None, None, **QUICK)
        self.adder[1].input(add_tag, self.adder, [*self.adder[:2], self.outputs[2]], show_progress="hidden")
        gallery.select(self.selected, self.shown, info, **QUICK)
        self.apply.click(self.read_back, info, [*self.inputs, self.outputs[2]], **QUICK)
        uploaded = self.upload.upload(self.read_png, self.upload, info, **QUICK)
        uploaded.then(self.read_back, info, [*self.inputs, self.outputs[2]], **QUICK)
        self.context.on_return("lyco_following", self.found, self.resume, self.outputs)

    def found(self) -> tuple[Any, ...]:
        """Return the updates for somebody who opens the page: the newest images, and the one in the making if there is one."""
        paths = [str(path) for path in self.images.newest(KEPT)]
        work = self.maker.running("image")
        state = None if work is None else work.state()
        text = _text(paths[0]) if paths else None
        return (
            *_shown(state, paths or None, info=text, busy=work is not None),
            gr.update() if work is None else gr.update(value=str(id(work))),
        )

    @cumulative
    def resume(self) -> Iterator[tuple[Any, ...]]:
        """Follow the image in the making."""
        work = self.maker.last("image")
        if work is None:
            yield _shown()
        else:
            yield from self._follow(work)

    def selected(self, shown: list[str], event: gr.SelectData) -> Update:
        """Show the text of the image that is selected."""
        index = event.index[0] if isinstance(event.index, (list, tuple)) else event.index
        return gr.update(value=_text(shown[index])) if index < len(shown) else gr.update()

    def read_png(self, file: Any) -> Update:
        """Return the text inside an image that the user gives; what is wrong with it is said in its place."""
        path = Path(getattr(file, "name", file))
        try:
            return gr.update(value=text_of(path) or f"{path.name} holds no generation text")
        except LycorisError as error:
            return gr.update(value=str(error))

    def read_back(self, text: str) -> list[Update]:
        """Put the settings of a generation text into the fields; the last update says what was wrong with it."""
        try:
            found = read_generation_text(text or "")
        except LycorisError as error:
            return [*(gr.update() for _ in FIELDS), gr.update(value=notes(errors=[str(error)]))]
        loaded, said = self.context.store.loaded(), []
        if "model" in found and loaded is not None and Path(loaded.name).stem != Path(found["model"]).stem:
            said = [f"the image was made with {found['model']}; {loaded.name} is loaded"]
        if found.get("sampler") not in (None, *self.host.samplers()):
            said.append(f"there is no sampler {found.pop('sampler')} here; the chosen one stays")
        for name in FIELDS:
            if name in found:
                self.context.settings.keep(PAGE, name, found[name])
        return [*(gr.update(value=found[name]) if name in found else gr.update() for name in FIELDS), gr.update(value=notes(problems=said))]

    @cumulative
    def run(self, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Make an image, telling how far it is; whatever goes wrong is one sentence under the gallery."""
        try:
            request = read_request(*values)
            work = self.maker.start("image", lambda work: self._make(request, work))
        except LycorisError as error:
            yield _failed(str(error))
            return
        for name, value in zip(FIELDS, values):
            self.context.settings.keep(PAGE, name, value)
        yield _shown(state=bar(0, "reading networks and prompt", LABEL), notes="", busy=True)
        yield from self._follow(work)

    def _make(self, request: GenerationRequest, work: Work) -> GeneratedImage:
        image = self.host.generate(request, work.tell, work.cancel)
        self.images.add(image)
        return image

    def _follow(self, work: Work) -> Iterator[tuple[Any, ...]]:
        for now in states(work.ended.wait, work.state, POLL):
            yield _shown(state=now, busy=True)
        yield self._finished(work)

    def _finished(self, work: Work) -> tuple[Any, ...]:
        if isinstance(work.error, GenerationCancelled):
            return _shown(state=idle("Cancelled.", failed=True), info="")
        if work.error is not None:
            return _failed(work.failure())
        made: GeneratedImage = work.result
        paths = [str(path) for path in self.images.newest(KEPT)]
        return _shown(idle(f"Done, seed {made.seed}."), paths, notes(made.applied, made.problems), made.infotext)


def add_tag(prompt: str, name: str | None, strength: float | None) -> tuple[str, Update, Update]:
    """Return the prompt with the network's tag behind it, the list with nothing chosen, and what was wrong."""
    if not name:
        return prompt, gr.update(), gr.update()
    if strength is None:
        return prompt, gr.update(value=None), gr.update(value=notes(errors=["Strength: a number is missing; 1 is what was trained"]))
    tag = f"<lyco:{escape_name(name)}:{format_number(strength)}>"
    return f"{prompt.rstrip()} {tag}".lstrip(), gr.update(value=None), gr.update()


def _text(path: str) -> str:
    try:
        return text_of(Path(path))
    except LycorisError as error:
        return str(error)


def _failed(sentence: str) -> tuple[Any, ...]:
    """Return the updates for a run without an image: those made before stay, dimmed, and their text goes."""
    return _shown(state=idle("No image was made.", failed=True), notes=notes(errors=[sentence]), info="")


def _shown(
    state: str | None = None, gallery: list[str] | None = None, notes: str | None = None, info: str | None = None, busy: bool = False
) -> tuple[Any, ...]:
    """Return the updates of the page's outputs; None leaves a component as it is."""
    kept = [gr.update() if value is None else gr.update(value=value) for value in (state, gallery, notes, info)]
    return (*kept, gr.update(interactive=not busy), gr.update(interactive=busy), gr.update() if gallery is None else gallery)
