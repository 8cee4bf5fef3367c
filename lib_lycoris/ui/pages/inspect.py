"""The page Inspect: what a network file is, says and was trained on, what each module does; and several networks side by side."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from ...errors import LycorisError, ToolError
from ...models import FAMILIES, BaseModel, count_layers
from ...prompt import escape_name
from ...records import dataclass
from ...tools.examine.inspect import Inspection
from ...tools.examine.module_sizes import Sizes, measure_modules, singular_values
from ...tools.jobs.queue import Job
from ...wording import counted
from ..context import PageContext, Receiver
from ..events import QUICK, Update, cumulative
from ..parts.dropped import DroppedFiles
from ..parts.figures import figure_box, figure_update
from ..parts.file_choice import base_picker, network_picker
from ..parts.guidance import advice_html
from ..parts.inspection import comparison, details, facts, module_table, overview, words
from ..parts.plots import block_norms, block_totals, spectra
from ..parts.tools.job_panel import JobPanel
from ..parts.tools.live_plan import LivePlan
from ..parts.tools.metadata_form import MetadataForm
from ..style import bar, idle, notes, tag_box

PAGE = "inspect"
EMPTY = "Choose a network: it is read and described at once."
KEPT = 4  # inspections that searching and drawing need not make again
DRAWN = 4  # layers whose spectra are drawn at first: those that change most
MOST_DRAWN = 6
FAILURES = (LycorisError, OSError, RuntimeError, ValueError, MemoryError)  # what reading and computing can end with
PAUSE = 0.3  # seconds between two states of the progress
LARGEST = "largest change first"
ORDERS = ("order of the file", LARGEST)
AS_TOLD = "what the file tells"
LABELS = {family.label: family.id for family in FAMILIES.values()}


@dataclass(frozen=True)
class Shown:
    """What was found out about one file."""

    stamp: tuple[int, int, str]  # of the file, and which model is loaded
    inspection: Inspection
    base: BaseModel | None = None  # the loaded model, where the file fits it better than the usual one of its family
    sizes: Sizes | None = None
    family: str | None = None  # that the user reads it for


class InspectPage:
    """Builds the page; choosing a file is enough."""

    def __init__(self, context: PageContext) -> None:
        self.context = context
        self.panel, self.metadata, self.dropped = JobPanel(context, "compare"), MetadataForm(context), DroppedFiles(context)
        self.plan = LivePlan(context, "compare", "Choose two networks or more to see what will happen.")
        self._shown: dict[Path, Shown] = {}
        self._latest: str | None = None

    def build(self) -> None:
        """Add the components to the open gr.Blocks."""
        self.picker = network_picker(self.context.store, "Network", "lyco_inspect_model")
        self.state = gr.HTML(idle(EMPTY), elem_id="lyco_inspect_progress", elem_classes=["lyco_plan"])
        with gr.Column(visible=False, elem_id="lyco_inspect_found") as self.found:
            self._build_found()
        with gr.Accordion("Edit what the file says about itself", open=False, elem_id="lyco_inspect_metadata"):
            self.metadata.build()
        self.dropped.build()
        with gr.Accordion("Compare several networks", open=False, elem_id="lyco_inspect_compare"):
            self._build_comparison()
        self._wire()

    def _build_found(self) -> None:
        self.head = gr.HTML("", elem_id="lyco_inspect_head")
        self.family = gr.Dropdown(
            [AS_TOLD, *LABELS], value=AS_TOLD, label="Read it for the base model", elem_id="lyco_inspect_family",
            info="where its layers fit several; else those that fit are shown",
        )  # fmt: skip
        self.tag = gr.HTML("", elem_id="lyco_inspect_tag")
        self.advice = gr.HTML("", elem_id="lyco_inspect_advice")
        with gr.Row(elem_classes=["lyco_columns"]):
            with gr.Column(scale=5, min_width=340):
                self.words = gr.HTML("", elem_id="lyco_inspect_words")
                self.facts = gr.HTML("", elem_id="lyco_inspect_facts")
            with gr.Column(scale=6, min_width=340):
                self.blocks = figure_box("lyco_inspect_blocks")
                self.layers = gr.Dropdown(
                    [], value=[], multiselect=True, max_choices=MOST_DRAWN, label="Layers whose singular values are drawn",
                    elem_id="lyco_inspect_layers",
                )  # fmt: skip
                self.values = figure_box("lyco_inspect_spectra")
        with gr.Row():
            self.search = gr.Textbox(
                label="Search the layers", placeholder="attn2 to_k, OUT04, text encoder, dead ...", max_lines=1,
                elem_id="lyco_inspect_search", scale=4,
            )  # fmt: skip
            self.order = gr.Dropdown(list(ORDERS), value=ORDERS[0], label="Order", elem_id="lyco_inspect_order", scale=1, min_width=160)
        self.table = gr.HTML("", elem_id="lyco_inspect_modules")
        self.details = gr.HTML("", elem_id="lyco_inspect_details")

    def _build_comparison(self) -> None:
        self.several = network_picker(self.context.store, "Networks of one family", "lyco_inspect_several", multiselect=True)
        self.base = base_picker(self.context.store, "Base model (optional)", "lyco_inspect_base", info="DoRA and (IA)³ need it.")
        self.plan.build()
        self.compare = gr.Button("Compare", variant="primary", elem_id="lyco_inspect_run")
        self.panel.build()
        self.compared = gr.HTML("", elem_id="lyco_inspect_compared")
        self.sides = figure_box("lyco_inspect_sides", visible=False)

    def _wire(self) -> None:
        self.context.receivers["Compare"] = Receiver(lambda names: self.several.shown(names), [], [self.several.component])
        self.context.keep(PAGE, {"model": self.picker.component, "several": self.several.component, "base": self.base.component})
        self.picker.component.change(lambda: (AS_TOLD, ""), None, [self.family, self.search], **QUICK)
        told = self.picker.component.change(self.show, [self.picker.component], self.outputs, show_progress="hidden")
        told.then(self.settle, [self.picker.component], self.outputs, show_progress="hidden")
        self.picker.component.change(self.metadata.choose, [self.picker.component], [self.metadata.pickers["models"].component], **QUICK)
        self.family.input(self.show, [self.picker.component, self.family], self.outputs, show_progress="hidden")
        for part in (self.search, self.order):
            part.change(self.filtered, [self.picker.component, self.search, self.order], [self.table], **QUICK)
        self.layers.change(self.drawn, [self.picker.component, self.layers], [self.values], **QUICK)
        self.panel.shows([self.compared, self.sides], self.results)
        inputs = [self.several.component, self.base.component]
        self.plan.watch(inputs, self.make, lambda names, _: len(names or ()) > 1, base=self.base)
        self.panel.start(self.compare, self.make, inputs)

    @property
    def outputs(self) -> list[Any]:
        """The components that :meth:`show` updates."""
        return [
            self.state, self.found, self.head, self.tag, self.advice, self.words, self.facts, self.blocks, self.layers, self.values,
            self.table, self.details,
        ]  # fmt: skip

    @cumulative
    def show(self, name: str | None, label: str = AS_TOLD) -> Iterator[list[Update]]:
        """Describe a network: at once what its file says, then, module by module, how much it changes; label: of what it is read for."""
        self._latest = name
        if not name:
            yield self._updates(state=idle(EMPTY), found=False)
            return
        try:
            path = self.picker.path(name)
            yield self._updates(state=idle(f"reading {name} ..."), found=False)
            shown = self._inspected(path, LABELS.get(label))
        except FAILURES as error:
            yield self._updates(state=notes(errors=[_sentence(error)]), found=False)
            return
        yield self._described(name, shown)
        if shown.sizes is None:
            yield from self._measured(path, shown)
        yield self._complete(path, self._shown.get(path, shown))

    @cumulative
    def settle(self, name: str | None) -> Iterator[list[Update]]:
        """Describe the network that is chosen now: Gradio drops a choice that is made while the one before is still worked on."""
        if name == self._latest:
            yield self._updates()
        else:
            yield from self.show(name)

    def _inspected(self, path: Path, family: str | None) -> Shown:
        info, live = path.stat(), self.context.loaded.now()
        stamp = (info.st_mtime_ns, info.st_size, "" if live is None else live[0])
        before = self._shown.get(path)
        same = before is not None and (before.stamp, before.family) == (stamp, family)
        found = before if before is not None and same else Shown(stamp, *self.context.loaded.inspect(path, family), family=family)
        self._shown.pop(path, None)
        self._shown[path] = found  # the latest last
        for old in list(self._shown)[:-KEPT]:
            self._shown.pop(old, None)
        return found

    def _measured(self, path: Path, shown: Shown) -> Iterator[list[Update]]:
        last = time.monotonic()
        try:
            for done, sizes in measure_modules(path, shown.base, shown.family):
                if time.monotonic() - last > PAUSE:
                    last = time.monotonic()
                    yield self._updates(state=bar(done / max(1, sizes.modules), f"measuring: {done} of {sizes.modules}"))
            self._shown[path] = replace(shown, sizes=sizes)
        except FAILURES as error:
            yield self._updates(state=notes(problems=[f"How much the layers change is not measured: {_sentence(error)}"]))

    def _described(self, name: str, shown: Shown) -> list[Update]:
        found = shown.inspection
        algorithm = next(iter(found.algorithms), "")
        return self._updates(
            state=idle("measuring ..."), found=True, head=overview(found),
            tag=tag_box(f"<lyco:{escape_name(name)}:1>", self.context.send),
            advice=advice_html(algorithm, found.layers_of or ""), words=words(found, bool(self.context.send)), facts=facts(found),
            blocks=gr.update(visible=False), layers=gr.update(choices=[], value=[], visible=False), values=gr.update(visible=False),
            table=module_table(found, None), details=details(found),
        )  # fmt: skip

    def _complete(self, path: Path, shown: Shown) -> list[Update]:
        sizes = shown.sizes
        if sizes is None:
            return self._updates()
        strongest = sizes.strongest(DRAWN)
        missing, every = count_layers(sizes.unmeasured), count_layers((*sizes.energies, *sizes.unmeasured))
        hint = "whose change depends on the base model; to see them, give it to Compare below"
        told = [f"Not measured: {missing} of {counted(every, 'layer')}, {hint}."] if missing else []
        figure = block_norms({shown.inspection.name: block_totals(sizes.energies.items(), sizes.family)}, sizes.family)
        return self._updates(
            state=notes(problems=told) if told else "", blocks=figure_update(figure if strongest else None),
            layers=gr.update(choices=list(sizes.energies), value=strongest, visible=bool(strongest)),
            values=self._figure(path, strongest), table=module_table(shown.inspection, sizes),
        )  # fmt: skip

    def filtered(self, name: str | None, search: str | None, order: str | None) -> Update:
        """Return the table of the modules that a search finds."""
        shown = self._known(name)
        if shown is None:
            return gr.update()
        return gr.update(value=module_table(shown.inspection, shown.sizes, search or "", order == LARGEST))

    def drawn(self, name: str | None, layers: Sequence[str] | None) -> Update:
        """Return the figure of the chosen layers' singular values."""
        if not layers or self._known(name) is None:
            return gr.update(visible=False)
        return self._figure(self.picker.path(name), layers)

    def _figure(self, path: Path, layers: Sequence[str]) -> Update:
        try:
            shown = self._shown.get(path)
            base, family = (shown.base, shown.family) if shown else (None, None)
            found = singular_values(path, layers[:MOST_DRAWN], base, family) if layers else {}
        except FAILURES:
            found = {}  # the sentence about it stands above already
        return figure_update(spectra(list(found.items())) if found else None)

    def _known(self, name: str | None) -> Shown | None:
        try:
            return self._shown.get(self.picker.path(name)) if name else None
        except ToolError:
            return None

    def make(self, names: Sequence[str] | None, base: str | None) -> tuple[str, Mapping[str, Any]]:
        """Return the options of a comparison. Raises ToolError."""
        paths = self.several.paths(names)
        if not paths:
            raise ToolError("no network is chosen; choose two or more to compare them")
        used = bool(self.base.chosen(base)) and (base != self.base.default() or self.context.fits_loaded(list(names or ())))
        return "compare", {"models": paths, **({"base_model": self.base.path(base)} if used else {})}

    def results(self, job: Job | None) -> list[Update]:
        """Return what shows a comparison that is done."""
        if job is None or job.result is None:
            return [gr.update(value=""), gr.update(visible=False)]
        report = job.result.report
        series = {item["name"]: {block: facts["norm"] for block, facts in item["blocks"].items()} for item in report["networks"]}
        return [gr.update(value=comparison(report)), figure_update(block_norms(series, report["family"]))]

    def _updates(self, **changed: Any) -> list[Update]:
        """Return the updates of ``outputs``: values by name, or whole updates; what is not named stays as it is."""
        names = (
            "state", "found", "head", "tag", "advice", "words", "facts", "blocks", "layers", "values", "table", "details",
        )  # fmt: skip
        made = []
        for name in names:
            value = changed.get(name)
            if name == "found":
                made.append(gr.update() if value is None else gr.update(visible=value))
            else:
                made.append(gr.update() if value is None else value if isinstance(value, dict) else gr.update(value=value))
        return made


def _sentence(error: Exception) -> str:
    if isinstance(error, LycorisError):
        return str(error)
    if isinstance(error, OSError):
        return f"{Path(error.filename or '').name} cannot be read: {error.strerror or error}"
    return f"the file cannot be worked out: {type(error).__name__}: {error}"
