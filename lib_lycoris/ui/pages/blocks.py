"""The page Block weight: an image of the model whose blocks are sliders, presets, the tag, baking, and which block does what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from html import escape
from typing import Any

import gradio as gr

from ...errors import LycorisError, ToolError
from ...prompt import BlockWeights, Cell, OwnPresets, Presets
from ...prompt.number import format_number
from ...records import dataclass
from ...tools.examine.block_norms import BlockNorm
from ..blocks.analyzer import AnalyzerPart
from ..blocks.bake import BakePart
from ..blocks.diagram import bars, legend, picture, unit
from ..blocks.layouts import SHOWN
from ..blocks.network import Meter
from ..blocks.preset_files import PresetFilesPart
from ..blocks.values import BlockValues, fitting_presets, fixed, name_of, read_values, tag_of
from ..context import PageContext
from ..events import QUICK, cumulative, on_any
from ..parts.file_choice import network_picker
from ..style import bar, idle, notes, tag_box

AT_FIRST = f"{BlockValues().text}|1|1|0|0"
WAITS = " data-lyco-waits"  # the network of the last visit comes when the tab is opened: until then nothing can be moved
EMPTY = "Choose a network: its blocks get their bars, and the tag appears here."
OUTPUTS = ("state", "layout", "values", "picture", "legend", "preset", "tag", "notes")  # what every change can touch, in this order
Updates = tuple[Any, ...]


@dataclass(frozen=True)
class BlockState:
    """What one browser has on the page: the sliders, and the name of the network that they are for."""

    sliders: BlockValues = field(default_factory=BlockValues)
    network: str = ""


class BlocksPage:
    """Builds the page; the sliders' values come as a list in one text field, so that one image serves every layout."""

    def __init__(self, context: PageContext) -> None:
        self.context = context
        self.own = OwnPresets(context.store.kept_folder())
        self.meter = Meter(context.generator)

    def build(self) -> None:
        """Add the components to the open gr.Blocks."""
        self.state = gr.State(BlockState())
        with gr.Row(elem_id="lyco_blocks"):
            with gr.Column(scale=4, min_width=340):
                self.network = network_picker(self.context.store, "Network", "lyco_blocks_network")
                buttons = self._sliders()
                self.tag = gr.HTML(_tag(AT_FIRST, idle(EMPTY)), elem_id="lyco_blocks_tag")
                self.notes = gr.HTML("", elem_id="lyco_blocks_notes")
                saving = self._presets()
                self._values()
            with gr.Column(scale=7, min_width=420):
                self.picture = gr.HTML(picture(BlockValues()), elem_id="lyco_blocks_picture")
                self.legend = gr.HTML("", elem_id="lyco_blocks_legend")
                self._numbers()
        self.fields = [self.network.component, self.te, self.unet, self.start, self.stop]
        self.outputs = [getattr(self, name) for name in OUTPUTS]
        self.context.keep("blocks", {"network": self.network.component})
        self.context.on_load(self.begun, [self.tag])
        self._wire(buttons, saving)
        self.bake = BakePart(self.context, self.network)
        self.bake.build(self.state, self.fields, self.values)
        PresetFilesPart(self.context, self.own).build(self.preset)
        AnalyzerPart(self.context).build(self.state, self.fields, self.values)

    def _sliders(self) -> dict[str, Any]:
        with gr.Row():
            shown = BlockValues().layout.label
            self.layout = gr.Dropdown(list(SHOWN), value=shown, label="Layout", elem_id="lyco_blocks_layout", min_width=235)
            self.preset = gr.Dropdown(
                self._names(BlockValues()), value=None, label="Preset", elem_id="lyco_blocks_preset", min_width=150, interactive=True
            )
        with gr.Row(elem_classes=["lyco_buttons"]):
            labels = {"zero": "All 0", "one": "All 1", "invert": "Invert", "mirror": "Copy IN to OUT", "undo": "Undo"}
            return {key: gr.Button(label, size="sm", elem_id=f"lyco_blocks_{key}", min_width=50) for key, label in labels.items()}

    def _numbers(self) -> None:
        with gr.Row():
            self.te = gr.Number(value=1, label="Text encoder strength", elem_id="lyco_blocks_te", min_width=120)
            self.unet = gr.Number(value=1, label="UNet strength", elem_id="lyco_blocks_unet", min_width=120)
            self.start = gr.Number(value=0, precision=0, label="Start step (0: none)", elem_id="lyco_blocks_start", min_width=120)
            self.stop = gr.Number(value=0, precision=0, label="Stop step (0: none)", elem_id="lyco_blocks_stop", min_width=120)

    def _values(self) -> None:
        self.values = gr.Textbox(
            BlockValues().text, label="Values, comma-separated", lines=2, elem_id="lyco_blocks_values",
            info="Paste as many as there are sliders; or 12, 17, 20, 26 or 61, which choose their layout.",
        )  # fmt: skip

    def _presets(self) -> tuple[Any, Any, Any]:
        with gr.Row(elem_classes=["lyco_buttons"]):
            name = gr.Textbox(label="Save as preset", placeholder="a name", max_lines=1, elem_id="lyco_blocks_name", scale=4, min_width=120)
            save = gr.Button("Save", size="sm", elem_id="lyco_blocks_save", scale=1, min_width=70)
            delete = gr.Button("Delete", size="sm", elem_id="lyco_blocks_delete", scale=1, min_width=70, elem_classes=["lyco_ask"])
        return name, save, delete

    def _wire(self, buttons: Mapping[str, Any], saving: tuple[Any, Any, Any]) -> None:
        inputs, name = [self.state, *self.fields], saving[0]
        moves = {
            "zero": lambda values: values.all_at(0),
            "one": lambda values: values.all_at(1),
            "invert": BlockValues.inverted,
            "mirror": BlockValues.mirrored,
            "undo": BlockValues.undone,
        }
        for key, move in moves.items():
            buttons[key].click(self._mover(move), inputs, self.outputs, **QUICK)
        # in steps, each with the sliders as they are then; Gradio 3 drops a measurement that is asked for during another, so it comes twice
        chosen = self.network.component.change(self.choose, inputs, self.outputs, **QUICK)
        for _ in range(2):
            measured = chosen.then(self.measure, [self.network.component], [self.legend], show_progress="hidden")
            chosen = measured.then(self.show_norms, [self.state], [self.legend], **QUICK)
        self.layout.input(self.lay_out, [self.layout, *inputs], self.outputs, **QUICK)
        on_any([self.values.input], self.typed, [self.values, *inputs], self.outputs, queue=False)
        self.preset.input(self.load, [self.preset, *inputs], self.outputs, **QUICK)
        self.preset.focus(self.offer, [self.state], [self.preset], **QUICK)
        saving[1].click(self.save, [name, *inputs], [*self.outputs, name], **QUICK)
        saving[2].click(self.delete, [self.preset, *inputs], self.outputs, **QUICK)
        for number in self.fields[1:]:
            number.change(self.retag, [self.values, *inputs], self.outputs, **QUICK)

    def begun(self) -> dict[str, Any]:
        """Have the sliders wait for the network of the last visit, if there is one."""
        return gr.update(value=_tag(AT_FIRST, idle(EMPTY), WAITS)) if self.network.first() else gr.update()

    def _mover(self, move: Any) -> Any:
        def moved(state: BlockState, *fields: Any) -> Updates:
            return self.shown(replace(state, sliders=move(state.sliders)), fields)

        return moved

    def choose(self, state: BlockState, *fields: Any) -> Updates:
        """Show which blocks a network changes, in the layout that it needs, and how much if it was measured before."""
        unknown = BlockState(replace(state.sliders, touched=None), fields[0] or "")
        try:
            if fields[0]:
                return self.shown(self._with_facts(state, fields[0]), fields)
        except LycorisError as error:
            return self.shown(unknown, ("", *fields[1:]), notes(errors=[str(error)]))
        return self.shown(unknown, fields)

    @cumulative
    def measure(self, name: str | None) -> Iterator[dict[str, Any]]:
        """Measure a network that was not measured yet, telling how far it is."""
        yield gr.update()
        try:
            for found in self.meter.measure(self.network.path(name)) if name else ():
                if found.done % 25 == 0:
                    progress = f"measuring: {found.done} of {found.total}"
                    yield gr.update(value=bar(found.done / found.total, progress, "measuring"))
        except LycorisError:
            yield gr.update(value="")  # told when it was chosen

    def show_norms(self, state: BlockState) -> dict[str, Any]:
        """Show the norms of the chosen network in the image, whose sliders may have been moved meanwhile."""
        return gr.update(value=_legend(state.sliders, self._norms(state)))

    def _norms(self, state: BlockState) -> Mapping[str, BlockNorm]:
        try:
            return self.meter.norms(self.network.path(state.network)) if state.network else {}
        except LycorisError:
            return {}  # told when it was chosen

    def _with_facts(self, state: BlockState, name: str) -> BlockState:
        facts = self.meter.facts(self.network.path(name))
        return BlockState(state.sliders.for_network(facts.family, facts.touched), name)

    def lay_out(self, label: str, state: BlockState, *fields: Any) -> Updates:
        """Show another layout; the values of blocks that both have stay."""
        layout = SHOWN.get(label, state.sliders.layout)
        return self.shown(replace(state, sliders=replace(state.sliders, layout=layout)), fields)

    def typed(self, text: str, state: BlockState, *fields: Any) -> Updates:
        """Take values that sliders or the user put into the field; the image shows them already, unless the layout is another one."""
        try:
            layout, values = read_values(text, state.sliders.layout)
        except LycorisError as error:
            updates = self.shown(state, fields, notes(problems=[str(error)]), text)
            return self._some(updates, ("tag", "notes"))
        sliders = replace(state.sliders, layout=layout).with_values(values)
        updates = self.shown(replace(state, sliders=sliders), fields, understood=text)
        if layout != state.sliders.layout:
            return updates
        if sliders is state.sliders or values == list(state.sliders.shown):
            return self._some(updates, ("tag", "notes"))
        return self._some(updates, ("state", "preset", "tag", "notes"))

    def retag(self, text: str, state: BlockState, *fields: Any) -> Updates:
        """Write the tag again."""
        return self._some(self.shown(state, fields, understood=text), ("tag", "notes"))

    def load(self, name: str | None, state: BlockState, *fields: Any) -> Updates:
        """Set the sliders to a preset's values."""
        try:
            weights = self.context.store.presets().weights(name or "")
        except LycorisError as error:
            return self._told(errors=[str(error)])
        values = fixed(weights)
        if values is None:
            said = f'"{name}" draws random values for every image, which no slider can show; write lbw={name} in the tag instead'
            return self._told(problems=[said])
        return self.shown(replace(state, sliders=state.sliders.with_preset(values)), fields)

    def offer(self, state: BlockState) -> dict[str, Any]:
        """Return the presets as they are now."""
        return gr.update(choices=self._names(state.sliders))

    def save(self, name: str, state: BlockState, *fields: Any) -> Updates:
        """Save the values as a preset of our own file; the last update empties the name's field."""
        sliders, text = state.sliders, name.strip()
        try:
            if not sliders.layout.listed:
                what = f"weights of {sliders.layout.label.partition(':')[0]} are element filters"
                raise ToolError(f"{what}, which a preset cannot hold; copy the tag instead")
            if not text:
                raise ToolError("Give the preset a name.")
            known = self.context.store.presets().weight_names
            if text in known and text not in self.own.names():
                raise ToolError(f'"{text}" is a preset already, and not one that was saved here; choose another name')
            self.own.save(text, BlockWeights(tuple(Cell("number", value) for value in sliders.shown)))
        except LycorisError as error:
            return (*self._told(errors=[str(error)]), gr.update())
        said = notes(applied=[f"Saved: lbw={text} works in every prompt now."])
        return (*self.shown(state, fields, said), gr.update(value=""))

    def delete(self, name: str | None, state: BlockState, *fields: Any) -> Updates:
        """Delete a preset of our own file; the sliders stay."""
        try:
            if not name:
                raise ToolError("no preset is chosen; choose the one to delete")
            if name not in self.own.names():
                raise ToolError(f'"{name}" was not saved on this page and stays; only own presets can be deleted')
            self.own.delete(name)
        except LycorisError as error:
            return self._told(errors=[str(error)])
        return self.shown(state, fields, notes(applied=[f"Deleted: {name}."]))

    def shown(self, state: BlockState, fields: tuple[Any, ...], said: str = "", understood: str = "") -> Updates:
        """Return the updates of ``outputs`` for the sliders as they are; ``understood`` is the text that they came with, if they did."""
        sliders, presets, problems, norms = state.sliders, self._known(), [], self._norms(state)
        tag = ""
        if fields[0]:
            try:
                tag = tag_of(sliders, fields[0], presets, *fields[1:])
            except LycorisError as error:
                problems.append(str(error))
        mark = "|".join([understood.strip() or sliders.text, *("" if value is None else format_number(value) for value in fields[1:])])
        box = tag_box(tag, self.context.send) if tag else idle(EMPTY)
        return (
            state, gr.update(value=sliders.layout.label), gr.update(value=sliders.text),
            gr.update(value=picture(sliders, norms)),
            gr.update(value=_legend(sliders, norms)),
            gr.update(choices=self._names(sliders), value=name_of(sliders, presets)),
            gr.update(value=_tag(mark, box)), gr.update(value=said + notes(problems=problems)),
        )  # fmt: skip

    def _some(self, updates: Updates, names: Sequence[str]) -> Updates:
        """Return the updates of these outputs alone."""
        return tuple(updates[index] if name in names else gr.update() for index, name in enumerate(OUTPUTS))

    def _told(self, **notes_of: Sequence[str]) -> Updates:
        """Return updates that say something and change nothing."""
        return tuple(gr.update(value=notes(**notes_of)) if name == "notes" else gr.update() for name in OUTPUTS)

    def _known(self) -> Presets:
        """Return the presets; a file of other people that cannot be read leaves ours."""
        try:
            return self.context.store.presets()
        except LycorisError:
            return Presets.default()

    def _names(self, sliders: BlockValues) -> list[str]:
        return sorted(fitting_presets(self._known(), sliders.layout), key=str.lower)


def _legend(sliders: BlockValues, norms: Mapping[str, BlockNorm]) -> str:
    """Return the HTML of the line below the image, with the bars for the page's script."""
    said = escape(bars(sliders, norms)) if norms else ""
    return f'<div data-bars="{said}">{idle(legend(norms, sliders.left_out), title=unit(norms))}</div>'


def _tag(understood: str, box: str, waits: str = "") -> str:
    """Return the HTML of the tag, with the sliders and numbers that it was made of, for the page's script."""
    return f'<div data-understood="{escape(understood)}"{waits}>{box}</div>'
