"""A form for any tool, made of its declaration: files to choose, a few fields in front, the rest behind a line to open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ....errors import ToolError
from ....tools.declaration import Option, Tool
from ....tools.jobs.queue import Job
from ...context import PageContext, Receiver
from ...events import Update
from ...style import tag_box
from ..file_choice import Picker, base_picker, checkpoint_picker, network_picker
from ..names import NO_NAME, free_name, tag_of
from .fields import OptionFields, sentence, with_fields
from .job_panel import JobPanel
from .live_plan import BASES, LivePlan

PICKED = ("network", "networks", "checkpoint")


class ToolForm:
    """Builds the form of one tool; a page with fields of its own overrides the methods that begin with ``own``."""

    own_infos: Mapping[str, str] = {}  # option -> what stands below its picker, where that is not the declaration's sentence

    def __init__(self, context: PageContext, tool: str, front: Sequence[str] = (), rest: Sequence[str] = (), suffix: str = "new") -> None:
        self.context, self.page, self.suffix = context, tool, suffix  # suffix: behind a file's name, for that of the result
        self.tool = context.jobs.tool(tool)
        self.front, self.rest = OptionFields(context, tool, front, tool), OptionFields(context, tool, rest, tool)
        self.panel = JobPanel(context, tool)
        self.picked: list[Option] = sorted((o for o in self.tool.options if o.kind in PICKED), key=lambda option: not option.required)
        self.output = next((option for option in self.tool.options if option.kind == "output"), None)
        self.pickers: dict[str, Picker] = {}
        self.own: list[Any] = []  # the components of own_fields
        self.plan = LivePlan(context, tool, f"Choose {_some(self.picked[0])} to see what will happen.")

    def build(self) -> None:
        """Add the components to the open gr.Blocks."""
        with gr.Row(elem_classes=["lyco_columns"]):
            with gr.Column(scale=5, min_width=340):
                self._pick()
                self.own = self.own_fields()
                self.front.build(self.context)
                self.name = gr.Textbox(
                    label="Name of the result", placeholder=NO_NAME, max_lines=1, visible=self.output is not None,
                    elem_id=f"lyco_{self.page}_name",
                )  # fmt: skip
                if self.rest.options:
                    with gr.Accordion("More options", open=False):
                        self.rest.build(self.context)
            with gr.Column(scale=6, min_width=340):
                self.own_results()
                self.plan.build()
                button = gr.Button(self.tool.pretty, variant="primary", elem_id=f"lyco_{self.page}_run")
                self.panel.build()
                self.tag = gr.HTML("", elem_id=f"lyco_{self.page}_tag")
        self.context.keep(self.page, {name: picker.component for name, picker in self.pickers.items()})
        base = next((picker for name, picker in self.pickers.items() if name in BASES), None)
        self.plan.watch(self.inputs, self.make, lambda *values: bool(values[0]), base=base)
        self.panel.shows([self.tag], self.results)
        self.panel.start(button, self.make, self.inputs)
        self.own_wiring()
        first = self.pickers[self.picked[0].name]
        if self.picked[0].kind == "network":
            take = lambda names: first.shown(names[0] if names else None)  # noqa: E731
            self.context.receivers[self.tool.pretty] = Receiver(take, [], [first.component], most=1)

    def _pick(self) -> None:
        for option in self.picked:
            elem_id, label = f"lyco_{self.page}_{option.name}", label_of(option)
            info = self.own_infos.get(option.name) or info_of(option, self.tool)
            if option.name in BASES and not option.required:
                self.pickers[option.name] = base_picker(self.context.store, label, elem_id, info)
            elif option.kind == "checkpoint":
                self.pickers[option.name] = checkpoint_picker(self.context.store, label, elem_id, option.name in BASES, info)
            else:
                self.pickers[option.name] = network_picker(self.context.store, label, elem_id, option.kind == "networks", info)

    def own_fields(self) -> list[Any]:
        """Add fields of one's own to the open gr.Blocks and return them."""
        return []

    def own_results(self) -> None:
        """Add what is shown above the plan to the open gr.Blocks."""

    def own_wiring(self) -> None:
        """Wire what own_fields and own_results added."""

    def own_options(self, paths: dict[str, Any], values: Sequence[Any]) -> dict[str, Any]:
        """Return the options that the own fields' values mean; paths: the chosen files. Raises ToolError."""
        return {}

    @property
    def inputs(self) -> list[Any]:
        """The components whose values make the options: pickers, name, own fields, those in front, the rest."""
        pickers = [self.pickers[option.name].component for option in self.picked]
        return [*pickers, self.name, *self.own, *self.front.components, *self.rest.components]

    def paths(self, values: Sequence[Any]) -> dict[str, Any]:
        """Return the chosen files by option. Raises ToolError for one that is missing or not in the list."""
        found: dict[str, Any] = {}
        chosen = [value for option, value in zip(self.picked, values) if option.kind == "network" and value]
        for option, value in zip(self.picked, values):
            picker = self.pickers[option.name]
            value = value if option.kind == "networks" else picker.chosen(value)
            if option.name in BASES and not option.required and value == picker.default() and not self.context.fits_loaded(chosen):
                continue  # the loaded model is only what is chosen by itself
            if option.kind == "networks" and value:
                found[option.name] = picker.paths(value)
            elif value or option.required:
                found[option.name] = picker.path(value)
        return found

    def make(self, *values: Any) -> tuple[str, dict[str, Any]]:
        """Return the tool and its options. Raises ToolError for what is wrong with a field."""
        count, own = len(self.picked), len(self.own)
        name, mine, left = values[count], values[count + 1 : count + 1 + own], values[count + 1 + own :]
        front = len(self.front.options)
        paths = self.paths(values)
        options = {**paths, **self.own_options(paths, mine), **self.front.read(left[:front]), **self.rest.read(left[front:])}
        if self.output is not None:
            options[self.output.name] = self.target(name, next(iter(paths.values())))
        return self.tool.name, options

    def target(self, name: str | None, first: Path) -> Path:
        """Return the path of the result. Raises ToolError for a name that is bad or taken."""
        checkpoint = self.output is not None and self.output.makes == "checkpoint"
        return free_name(self.context, name, f"{first.stem}-{self.suffix}", checkpoint)

    def results(self, job: Job | None) -> list[Update]:
        """Return the update of the tag for a job that is done."""
        if job is None or job.result is None or self.output is None or self.output.makes not in ("network", "networks"):
            return [gr.update(value="")]
        tags = "".join(
            tag_box(tag_of(self.context, path), self.context.send) for path in job.result.outputs if path.suffix == ".safetensors"
        )
        return [gr.update(value=tags)]


class UndoForm(ToolForm):
    """The form of `undo`, whose second file lies beside the first."""

    def own_options(self, paths: dict[str, Any], values: Sequence[Any]) -> dict[str, Any]:
        """Return where the undo file is. Raises ToolError if there is none."""
        merged: Path = paths["merged"]
        path = merged.with_name(f"{merged.name if merged.is_dir() else merged.stem}.undo")
        if not path.is_file():
            raise ToolError(f"there is no {path.name} beside {merged.name}; a merge writes it if it is asked for an undo file")
        return {"undo_file": path}


class VerifyForm(ToolForm):
    """The form of `verify`, whose inputs are found by their hashes in all folders that the pages know."""

    own_infos = dict.fromkeys(("sd_model", "models"), "Empty: found by its hash in the folders of networks and checkpoints")

    def own_options(self, paths: dict[str, Any], values: Sequence[Any]) -> dict[str, Any]:
        """Return the folders of the networks and checkpoints that the pages offer."""
        files = (*self.context.store.networks(), *self.context.store.checkpoints())
        return {"folders": sorted({file.path.parent for file in files})}


def can_have_a_form(tool: Tool) -> bool:
    """Tell whether a form made of the declaration alone can give all that a tool requires, and begins with a file."""
    offered = (*PICKED, "value", "output")
    return any(o.kind in PICKED for o in tool.options) and all(o.kind in offered for o in tool.options if o.required)


def value_options(tool: Tool) -> tuple[str, ...]:
    """Return the names of the options that are neither files nor without a meaning here."""
    return tuple(option.name for option in tool.options if option.kind == "value" and not (option.ignored or option.refused))


def label_of(option: Option) -> str:
    """Return what a picker is called."""
    return option.title if option.required else f"{option.title} (optional)"


def _some(option: Option) -> str:
    """Return what is to be chosen, in a sentence."""
    title = option.title.lower()
    return title if option.nargs in ("+", "*") else f"a {title}"


def info_of(option: Option, tool: Tool) -> str:
    """Return what is said below a picker: only of one that may be left empty, the others say enough by their names."""
    return "" if option.required else with_fields(sentence(option.help), tool)
