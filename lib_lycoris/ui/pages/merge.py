"""The page Merge: networks into a checkpoint, or into one network; what will happen is shown before it does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ...errors import ToolError
from ...records import dataclass
from ...tools.jobs.places import Taken
from ..context import PageContext, Receiver
from ..parts.file_choice import checkpoint_picker
from ..parts.network_table import EMPTY, NetworkRow, NetworkTable
from ..parts.tools.fields import DEFAULT, OptionFields
from ..parts.tools.job_panel import JobPanel
from ..parts.tools.live_plan import LivePlan
from ..parts.tools.merge_result import MergeResult
from ..style import notes, tag_box

PAGE = "merge"
INTO_CHECKPOINT, INTO_NETWORK = "into a checkpoint", "into one network"
CHECKPOINT = "Checkpoint"
BASE = "Base model (optional)"
BASE_INFO = "For networks whose change depends on it (DoRA, OFT, BOFT, (IA)³, GLoRA) or of a model of unusual size, such as the demo."
MORE_CHECKPOINT = ("seed", "device", "no_hash", "no_metadata")
MORE_NETWORK = ("rule", "value", "conv_dim", "method", "density", "seed", "style", "device")
PRECISIONS = (DEFAULT, "fp32", "fp16", "bf16", "fp8_e4m3fn", "fp8_e5m2")
NO_NAME = "empty: made of the inputs' names"
LONGEST = 80  # characters of a name that we make
FIELDS = 7  # values beside those of the table and of the rarely needed options
NOTHING = "Choose a checkpoint and a network to see what will happen."


@dataclass(frozen=True)
class MergeInput:
    """What the fields hold."""

    mode: str
    checkpoint: str | None
    name: str
    precision: str
    undo: bool
    rank: float | None
    size: float | None
    entries: list[NetworkRow]
    more: dict[str, Any]

    @property
    def into_network(self) -> bool:
        """Tell which of the two tools is meant."""
        return self.mode == INTO_NETWORK


class MergePage:
    """Builds the page and turns its fields into options of the two tools."""

    def __init__(self, context: PageContext) -> None:
        self.context = context
        self.panel = JobPanel(context, PAGE)
        self.plan = LivePlan(context, PAGE, NOTHING)
        self.table = NetworkTable(context, PAGE)
        self.more_checkpoint = OptionFields(context, "merge", MORE_CHECKPOINT, "merge_more")
        self.more_network = OptionFields(context, "networks_merge", MORE_NETWORK, "merge_networks_more")
        self.result = MergeResult(context, self.panel)

    def build(self) -> None:
        """Add the components to the open gr.Blocks."""
        with gr.Row(elem_classes=["lyco_columns"]):
            with gr.Column(scale=6, min_width=400):
                self._build_inputs()
                self._build_target()
            with gr.Column(scale=5, min_width=400):
                gr.HTML('<h2 class="lyco_heading3">What will happen</h2>')
                self.plan.build()
                start = gr.Button("Merge", variant="primary", elem_id="lyco_merge_run")
                as_tags = gr.Button("Try it as tags, without writing a file", size="sm", elem_id="lyco_merge_as_tags")
                tags = gr.HTML("", elem_id="lyco_merge_tags")
                self.panel.build()
                self.result.build()
        self._wire(start, as_tags, tags)

    def _build_inputs(self) -> None:
        self.mode = gr.Radio([INTO_CHECKPOINT, INTO_NETWORK], value=INTO_CHECKPOINT, label="Merge networks", elem_id="lyco_merge_mode")
        self.checkpoint = checkpoint_picker(self.context.store, CHECKPOINT, "lyco_merge_checkpoint")
        self.table.build()

    def _build_target(self) -> None:
        with gr.Row():
            self.name = gr.Textbox(
                label="Name of the result", placeholder=NO_NAME, max_lines=1, elem_id="lyco_merge_name", scale=3, min_width=260
            )
            self.precision = gr.Dropdown(
                list(PRECISIONS), value=DEFAULT, label="Precision", elem_id="lyco_merge_precision", scale=2, min_width=120
            )
        self.undo = gr.Checkbox(
            value=False,
            label="Keep an undo file (restores the original exactly)",
            elem_id="lyco_merge_undo",
        )
        with gr.Row(visible=False) as self.limits:
            self.rank = gr.Number(value=0, precision=0, label="Rank", info="0: exact", elem_id="lyco_merge_rank", min_width=120)
            self.size = gr.Number(value=0, label="or size in MB", info="0: any", elem_id="lyco_merge_size", min_width=120)
        with gr.Accordion("More options", open=False, elem_id="lyco_merge_more"):
            with gr.Column() as self.group_checkpoint:
                self.more_checkpoint.build(self.context)
            with gr.Column(visible=False) as self.group_network:
                self.more_network.build(self.context)

    def _wire(self, start: Any, as_tags: Any, tags: Any) -> None:
        own = [self.mode, self.checkpoint.component, self.name, self.precision, self.undo, self.rank, self.size]
        rest = [*self.more_checkpoint.components, *self.more_network.components]
        inputs = [*own, *self.table.inputs, *rest]
        names = ("mode", "checkpoint", "name", "precision", "undo", "rank", "size")
        self.context.keep(PAGE, {name: part for name, part in zip(names, own) if name != "name"})  # a name is for one result
        self.context.receivers["Merge"] = self.table.receiver
        self.context.receivers["Merge rows"] = Receiver(self.table.show, [], self.table.outputs)
        as_tags.click(self.as_tags, self.table.inputs, tags, queue=False, show_progress="hidden")
        shown = [self.checkpoint.component, self.undo, self.limits, self.group_checkpoint, self.group_network]
        self.mode.change(mode_changed, self.mode, shown, queue=False, show_progress="hidden")
        for part in (self.mode, self.checkpoint.component):
            part.change(button_text, [self.mode, self.checkpoint.component], start, queue=False, show_progress="hidden")
        self.plan.watch([*own, *self.table.inputs, *rest], self.planned, self.ready, inputs, self.table.events, base=self.checkpoint)
        self.panel.start(start, self.options, inputs)
        self.context.on_load(self.restored, self.table.outputs)

    def as_tags(self, rows: str) -> dict[str, Any]:
        """Return the tags that do to an image what the merge would do to the checkpoint."""
        try:
            entries = self.table.read(rows)
            if not entries:
                raise ToolError("no network is chosen; add one from the list")
        except ToolError as error:
            return gr.update(value=notes(errors=[str(error)]))
        return gr.update(value=tag_box(" ".join(entry.tag for entry in entries), self.context.send))

    def restored(self) -> list[Any]:
        """Return the table of the last visit; what is not a table any more is left out."""
        kept = self.context.settings.get(PAGE, "networks", [])
        try:
            return self.table.show([NetworkRow(*row) for row in kept])
        except (TypeError, ValueError):
            return self.table.show([])

    def read(self, values: Sequence[Any]) -> MergeInput:
        """Return what the fields hold. Raises ToolError."""
        split = len(values) - len(self.more_checkpoint.components) - len(self.more_network.components)
        own, table, rest = values[:FIELDS], values[FIELDS:split], values[split:]
        cut = len(self.more_checkpoint.components)
        into_network = own[0] == INTO_NETWORK
        more = self.more_network.read(rest[cut:]) if into_network else self.more_checkpoint.read(rest[:cut])
        mode, checkpoint, name, precision, undo, rank, size = own
        return MergeInput(mode, checkpoint, name or "", precision or DEFAULT, bool(undo), rank, size, self.table.read(table[0]), more)

    def ready(self, *values: Any) -> bool:
        """Tell whether there is something to plan."""
        return values[FIELDS] not in (None, "", EMPTY) and (values[0] == INTO_NETWORK or bool(values[1]))

    def planned(self, *values: Any) -> tuple[str, dict[str, Any]]:
        """Return tool and options as :meth:`options` does, and keep the table for the next visit."""
        rows = [[entry.name, entry.strength, entry.te, entry.unet, entry.blocks] for entry in self.read(values).entries]
        self.context.settings.keep(PAGE, "networks", rows)
        return self.options(*values)

    def options(self, *values: Any) -> tuple[str, dict[str, Any]]:
        """Return the tool and its options. Raises LycorisError naming the field that is wrong."""
        asked = self.read(values)
        options = {**self.table.options(asked.entries), **asked.more}
        if asked.precision != DEFAULT:
            options["save_precision"] = asked.precision
        return self._network(asked, options) if asked.into_network else self._checkpoint(asked, options)

    def _checkpoint(self, asked: MergeInput, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        source = self.checkpoint.path(asked.checkpoint)
        wanted = [source.stem, *(entry.name for entry in asked.entries)]
        save_to = self._target(asked.name, wanted, lambda name: self.context.new_checkpoint(name, source.is_dir()))
        options.update(sd_model=source, save_to=save_to)
        if asked.undo:
            options["undo_file"] = save_to.with_name(f"{save_to.stem if not source.is_dir() else save_to.name}.undo")
        return "merge", options

    def _network(self, asked: MergeInput, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        if asked.precision in ("fp8_e4m3fn", "fp8_e5m2"):
            raise ToolError(f"{asked.precision} is for checkpoints; a network is written in fp32, fp16 or bf16")
        names = [entry.name for entry in asked.entries]
        options["save_to"] = self._target(asked.name, names, self.context.new_network)
        if asked.checkpoint and (asked.checkpoint != self.checkpoint.default() or self.context.fits_loaded(names)):
            options["base_model"] = self.checkpoint.path(asked.checkpoint)
        for label, value in (("Rank", asked.rank), ("Size", asked.size)):
            if value is None:
                raise ToolError(f"{label}: a number is missing; 0 sets no limit")
        if asked.rank:
            options["dim"] = int(asked.rank)
        if asked.size:
            options["size"] = float(asked.size)
        return "networks_merge", options

    def _target(self, name: str, parts: Sequence[str], make: Any) -> Path:
        """Return the path of the result: of the name given, or of one made of the inputs' that is free."""
        if name and name.strip():
            return Path(make(name))
        made = "+".join(part.replace("/", "-") for part in parts)[:LONGEST].strip(". ")
        for number in range(1, 1000):
            try:
                return Path(make(made if number == 1 else f"{made}-{number}"))
            except Taken:
                continue
        raise ToolError(f"a thousand results are called {made}; give this one another name")


def button_text(mode: str, checkpoint: str | None) -> dict[str, Any]:
    """Return the update that says on the button what it makes."""
    into = "one network" if mode == INTO_NETWORK else Path(checkpoint).name if checkpoint else ""
    return gr.update(value=f"Merge into {into}" if into else "Merge")


def mode_changed(mode: str) -> list[Any]:
    """Show the fields of a way to merge."""
    network = mode == INTO_NETWORK
    return [
        gr.update(label=BASE if network else CHECKPOINT, info=BASE_INFO if network else ""),
        gr.update(visible=not network), gr.update(visible=network),
        gr.update(visible=not network), gr.update(visible=network),
    ]  # fmt: skip
