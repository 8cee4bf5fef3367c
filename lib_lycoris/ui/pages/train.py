"""The page Train: a folder of images to a network, in a process of its own that goes on when the page, or the program, is closed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ...errors import LycorisError, ToolError
from ...tools.jobs.places import inside
from ...tools.training import place, runs
from ...tools.training.command import checked, given
from ...tools.training.network_options import ALGORITHMS, USES
from ..context import PageContext
from ..events import Update, cumulative
from ..parts.figures import figure_box, figure_update
from ..parts.file_choice import checkpoint_picker
from ..parts.generation.training_size import TrainedSize
from ..parts.generation.training_view import curves, images_html, said_html, state_html
from ..parts.generation.training_words import more_words, prompt_words, without
from ..parts.guidance import guidance_part
from ..parts.names import tag_of
from ..style import bar, idle, notes, report, tag_box

POLL, REDRAWN = 1.0, 5.0  # seconds between two looks at a run, and between two drawings of its curves
READY = "Choose a folder of images. Each image's caption stands in a .txt file of the same name."
PRESETS = ("attn-mlp", "full", "attn-only", "unet-transformer-only", "unet-convblock-only", "unet-only")
OWN = "as chosen below"
DATASETS = "datasets"  # in the folder of what is kept
OPTIONS = {  # field -> option, for those that are one option
    "folder": "train_data_dir", "name": "output_name", "dim": "network_dim", "alpha": "network_alpha", "steps": "max_train_steps",
    "batch": "train_batch_size", "rate": "learning_rate", "resolution": "resolution", "trigger": "trigger_word",
}  # fmt: skip


class TrainPage:
    """Builds the page; a folder, a name and Train are enough."""

    def __init__(self, context: PageContext) -> None:
        self.context = context
        self.fields: dict[str, Any] = {}
        self.shown: Path | None = None  # the run that the page shows
        self.size = TrainedSize(context)

    def build(self) -> None:
        """Add the components to the open gr.Blocks."""
        with gr.Row(elem_classes=["lyco_columns"]):
            with gr.Column(scale=5, min_width=340):
                self._data()
                self._network()
                self._more()
            with gr.Column(scale=6, min_width=340):
                self._buttons()
                self.state = gr.HTML(idle(READY), elem_id="lyco_train_progress", elem_classes=["lyco_progress"])
                self.said = gr.HTML("", elem_id="lyco_train_notes", elem_classes=["lyco_notes"])
                self.tag = gr.HTML("", elem_id="lyco_train_tag")
                self.plot = figure_box("lyco_train_plot", visible=False)
                self.images = gr.HTML("", elem_id="lyco_train_images")
                self.size.build()
        guidance_part("lyco_train_guidance")
        self.context.keep("train", {name: part for name, part in self.fields.items() if name != "model"})
        self._wire()

    def _data(self) -> None:
        field = self.fields
        field["folder"] = gr.Textbox("", label="Folder of images", placeholder="/pictures/my-cat", max_lines=1, elem_id="lyco_train_folder")
        self.model = checkpoint_picker(self.context.store, "Base model", "lyco_train_model")
        field["model"] = self.model.component
        with gr.Row():
            field["name"] = gr.Textbox("", label="Name of the network", max_lines=1, elem_id="lyco_train_name")
            field["trigger"] = gr.Textbox("", label="Trigger word", max_lines=1, elem_id="lyco_train_trigger")
        field["prompts"] = gr.Textbox(
            "", lines=2, label="Prompts for images while training", info="One on each line.", elem_id="lyco_train_prompts"
        )

    def _network(self) -> None:
        field = self.fields
        field["use"] = gr.Dropdown([OWN, *USES], value=OWN, label="Settings for", elem_id="lyco_train_use")
        with gr.Row():
            field["algorithm"] = gr.Dropdown(list(ALGORITHMS), value="lora", label="Algorithm", elem_id="lyco_train_algorithm")
            field["preset"] = gr.Dropdown(list(PRESETS), value="attn-mlp", label="Layers", elem_id="lyco_train_preset")
        with gr.Row():
            field["dim"] = gr.Number(16, precision=0, label="Rank", elem_id="lyco_train_dim")
            field["alpha"] = gr.Number(8, label="Alpha", elem_id="lyco_train_alpha")
            field["rate"] = gr.Number(1e-4, label="Learning rate", elem_id="lyco_train_rate")
        with gr.Row():
            field["steps"] = gr.Number(1600, precision=0, label="Steps", elem_id="lyco_train_steps")
            field["batch"] = gr.Number(1, precision=0, label="Images a step", elem_id="lyco_train_batch")
            field["resolution"] = gr.Textbox(label="Resolution", placeholder="the model's", max_lines=1, elem_id="lyco_train_resolution")

    def _more(self) -> None:
        with gr.Accordion("More options", open=False):
            self.fields["more"] = gr.Textbox(
                "", lines=2, label="Options as on the command line", info="docs/training.md lists all; paths are given above",
                placeholder="--min_snr_gamma 5 --optimizer_type Prodigy", elem_id="lyco_train_more",
            )  # fmt: skip
            missing = place.to_install(self.context.trains_here)
            self.install = gr.Checkbox(
                value=not missing, label="Install what is missing first", info=missing or "Nothing is missing.", visible=bool(missing),
                elem_id="lyco_train_install",
            )  # fmt: skip

    def _buttons(self) -> None:
        with gr.Row():
            self.check = gr.Button("Check", elem_id="lyco_train_check", min_width=80)
            self.start = gr.Button("Train", variant="primary", elem_id="lyco_train_run", min_width=100)
            self.resume = gr.Button("Resume", elem_id="lyco_train_resume", min_width=80)
            self.cancel = gr.Button("Cancel", elem_id="lyco_train_cancel", min_width=80)
            self.unload = gr.Button(
                "Unload the model first", elem_id="lyco_train_unload", min_width=120, visible=self.context.unload is not None
            )
        self.following = gr.Textbox("", elem_id="lyco_train_following", elem_classes=["lyco_hidden"], show_label=False, container=False)

    def _wire(self) -> None:
        inputs = [*self.fields.values(), self.install]
        hidden: dict[str, Any] = {"show_progress": "hidden"}
        self.start.click(self.train, inputs, self.outputs, **hidden)
        self.check.click(self.dry_run, inputs, [self.state, self.said], **hidden)
        self.resume.click(self.go_on, inputs, self.outputs, **hidden)
        self.size.resize.click(self.smaller, [self.size.dim], [self.size.said], **hidden)
        self.cancel.click(self.stop, inputs, [self.said], queue=False, **hidden)
        if self.context.unload is not None:
            self.unload.click(self.give_back, None, [self.said], **hidden)
        self.following.change(self.come_back, None, self.outputs, **hidden)
        self.context.after_load(self.found, [], [*self.outputs, self.following])  # to read and draw a long run takes its time

    @property
    def outputs(self) -> list[Any]:
        """What a run's course changes."""
        return [self.state, self.said, self.tag, self.plot, self.images, *self.size.outputs]

    # ---- what the buttons do

    @cumulative
    def train(self, *values: Any) -> Iterator[tuple[Update, ...]]:
        """Start a run and follow it."""

        def ask() -> tuple[list[str], Path]:
            folder = self.folder(values)
            if runs.is_there(folder) and not runs.running(folder):
                raise ToolError(f"{runs.name_of(folder)} is there already; press Resume, or choose another name")
            return self.words(values), folder

        yield from self._started(ask, values)

    @cumulative
    def go_on(self, *values: Any) -> Iterator[tuple[Update, ...]]:
        """Go on with the run of the name in the field, or the one that is shown."""

        def ask() -> tuple[list[str], Path]:
            folder = self.folder(values) if self._values(values)["name"].strip() else self.latest()
            if folder is None:
                raise ToolError("there is no run to go on with; start one with Train")
            return [*runs.words_of(folder), "--resume"], folder

        yield from self._started(ask, values)

    def _started(self, ask: Any, values: Sequence[Any]) -> Iterator[tuple[Update, ...]]:
        try:
            words, folder = ask()
            if not values[-1] and (missing := place.to_install(self.context.trains_here)):
                raise ToolError(f'{missing} Tick it below "More options" first')
            runs.start(place.command(self.context.trains_here), words, folder)
        except LycorisError as error:
            yield (gr.update(value=idle(READY)), gr.update(value=notes(errors=[str(error)])), *(gr.update() for _ in self.outputs[2:]))
            return
        self.shown = folder
        state, blank, hidden = gr.update(value=bar(0, "starting")), gr.update(value=""), gr.update(visible=False)
        yield (state, blank, dict(blank), hidden, dict(blank), dict(hidden), *(gr.update() for _ in self.outputs[6:]))
        yield from self._follow(folder)

    @cumulative
    def dry_run(self, *values: Any) -> Iterator[tuple[Update, ...]]:
        """Say what a run would take."""
        try:
            words = self.words(values, dry=True)
            command = place.command(self.context.trains_here)
        except LycorisError as error:
            yield gr.update(value=idle(READY)), gr.update(value=notes(errors=[str(error)]))
            return
        yield gr.update(value=bar(0, "two steps of the largest batch")), gr.update(value="")
        done = subprocess.run([*command, *words], capture_output=True, text=True, env=runs.environment())
        if done.returncode:
            errors = [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.startswith("error: ")]
            yield gr.update(value=idle(READY)), gr.update(value=notes(errors=errors or [done.stderr[-runs.TAIL :]]))
        else:
            yield gr.update(value=idle("Checked. Nothing was written.")), gr.update(value=report(done.stdout))

    def stop(self, *values: Any) -> Update:
        """Ask the run that is shown to stop."""
        folder = self.shown or self.latest()
        if folder is None or not runs.running(folder):
            return gr.update(value=notes(problems=["Nothing is being trained."]))
        runs.stop(folder)
        return gr.update(value=notes(applied=["It stops after this step and keeps its state."]))

    @cumulative
    def smaller(self, dim: float | None) -> Iterator[Update]:
        """Make a smaller file of the network that is shown."""
        yield from self.size.run(self.shown, dim)

    def give_back(self) -> Update:
        """Give the memory of the loaded model back."""
        assert self.context.unload is not None
        try:
            return gr.update(value=notes(applied=[self.context.unload()]))
        except LycorisError as error:
            return gr.update(value=notes(errors=[str(error)]))

    # ---- what is shown

    def found(self) -> tuple[Update, ...]:
        """Return the updates for the last run as it is now, and its name if it is to be followed."""
        folder = self.latest()
        if folder is None:
            return tuple(gr.update() for _ in range(len(self.outputs) + 1))
        self.shown = folder
        facts = runs.facts_of(folder)
        return (*self._updates(facts, drawn=True), gr.update(value=f"{facts.name} {time.time()}") if facts.running else gr.update())

    @cumulative
    def come_back(self) -> Iterator[tuple[Update, ...]]:
        """Follow the run that is shown, for somebody who opens the page."""
        if self.shown is not None:
            yield from self._follow(self.shown)

    def _follow(self, folder: Path) -> Iterator[tuple[Update, ...]]:
        drawn, reader = 0.0, runs.RunReader(folder)
        while runs.running(folder):
            due = time.monotonic() - drawn > REDRAWN
            drawn = time.monotonic() if due else drawn
            yield self._updates(reader.look(), drawn=due)
            time.sleep(POLL)
        yield self._updates(reader.look(), drawn=True)

    def _updates(self, facts: runs.RunFacts, drawn: bool) -> tuple[Update, ...]:
        plot = figure_update(curves(facts)) if drawn and facts.losses else gr.update()
        images = gr.update(value=images_html(facts)) if drawn else gr.update()
        size = self.size.updates(facts) if drawn else tuple(gr.update() for _ in self.size.outputs)
        said = (gr.update(value=state_html(facts)), gr.update(value=said_html(facts)), gr.update(value=self._tag(facts)))
        return (*said, plot, images, *size)

    def _tag(self, facts: runs.RunFacts) -> str:
        if facts.status != "done" or not facts.network.is_file():
            return ""
        return tag_box(tag_of(self.context, facts.network), self.context.send)

    def latest(self) -> Path | None:
        """Return the folder of the run that did something last."""
        return next(iter(runs.runs_in(self.context.store.network_folder())), None)

    # ---- what the fields mean

    def _values(self, values: Sequence[Any]) -> dict[str, Any]:
        return dict(zip(self.fields, values))

    def folder(self, values: Sequence[Any]) -> Path:
        """Return the folder of the run that the fields name. Raises ToolError for a bad name."""
        name = str(self._values(values)["name"]).strip()
        if not name:
            raise ToolError("the network needs a name; give one, such as my-cat")
        place.check_run_name(name)
        return self.context.store.network_folder() / f"{name}{runs.FOLDER_ENDING}"

    def words(self, values: Sequence[Any], dry: bool = False) -> list[str]:
        """Return the command line that the fields mean. Raises ToolError for what is wrong with one."""
        field = self._values(values)
        folder = self.folder(values)
        field["folder"] = self._images(str(field["folder"] or "").strip())
        words = ["--output_dir", str(self.context.store.network_folder())]
        for name, option in OPTIONS.items():
            if field[name] is None and isinstance(self.fields[name], gr.Number):
                raise ToolError(f"{self.fields[name].label}: a number is missing")
            if text := str("" if field[name] is None else field[name]).strip():
                words += [f"--{option}", text]
        if field["model"]:
            words += ["--pretrained_model_name_or_path", str(self.model.path(field["model"]))]
        if field["use"] != OWN:
            words = [*without(words, "network_dim", "network_alpha"), "--preset_for", field["use"]]
        else:
            words += ["--network_module", "lycoris.kohya", "--network_args", f"algo={field['algorithm']}", f"preset={field['preset']}"]
        words += more_words(str(field["more"] or ""))
        words += [] if dry else prompt_words(folder, str(field["prompts"] or ""))
        checked(given(words))
        return [*words, "--dry_run"] if dry else words

    def _images(self, text: str) -> str:
        """Return the folder of images; where others can open the page, only one of those that are kept for it. Raises ToolError."""
        if self.context.any_path or not text:
            return text
        kept = self.context.store.kept_folder() / DATASETS
        path = kept / text
        if not inside(path, [kept]):
            raise ToolError(f'"{text}" is none of the folders in {kept}; put the images there, or train from the command line')
        return str(path)
