"""The page Extract: two checkpoints to a network, with the size and the error of every choice drawn before anything is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr

from ...errors import ToolError
from ...tools.extract import measure
from ...tools.extract.options import OPTIONS
from ...tools.jobs.queue import Job
from ...tools.linalg.candidates import ALGORITHMS
from ...tools.linalg.ranks import NEEDS_ALL
from ...tools.linalg.size_curve import LEADING, CurveRequest, Spectra
from ..context import PageContext
from ..events import Update
from ..parts.curve import CurveView
from ..parts.figures import figure_box, figure_update
from ..parts.file_choice import checkpoint_picker
from ..parts.guidance import advice_html, guidance_part
from ..parts.names import NO_NAME, free_name, tag_of
from ..parts.plots import block_norms
from ..parts.tools.fields import OptionFields
from ..parts.tools.job_panel import JobPanel
from ..parts.tools.live_plan import LivePlan
from ..parts.tools.rank_choice import NAMES, RankChoice
from ..style import tag_box

PAGE = "extract"
RULES = {
    "a share of the change's energy": "energy",
    "singular values above a threshold": "threshold",
    "singular values above a part of the largest": "ratio",
    "a share of the singular values' sum": "quantile",
}
RANKED = ("lora", "locon", "loha", "auto")  # what a rule for ranks has a meaning for
CURVED = ("lora", "locon")
REST = ("conv_dim", "conv_value", "factor", "lokr_rank", "block", "style", "save_precision", "text_encoder", "embeddings", "device")
EMPTY = "Choose the original and the fine-tuned checkpoint to see what will happen."
UNMEASURED = "Press Preview sizes to see the size and the error of every choice; both files are read once, the result is kept."
ORDER = ("org", "tuned", "algorithm", "name")  # of the fields' values; then those of the ranks, then those of REST


class ExtractPage:
    """Builds the page; choosing two files and pressing Extract is enough."""

    def __init__(self, context: PageContext) -> None:
        self.context = context
        self.panel = JobPanel(context, PAGE)
        self.plan = LivePlan(context, PAGE, EMPTY)
        self.curve = CurveView(PAGE, UNMEASURED)
        self.rest = OptionFields(context, "extract", REST, PAGE)
        self.ranks = RankChoice(PAGE, RULES, LEADING, with_largest=True)
        self.fields: dict[str, Any] = {}

    def build(self) -> None:
        """Add the components to the open gr.Blocks."""
        with gr.Row(elem_classes=["lyco_columns"]):
            with gr.Column(scale=5, min_width=340):
                self._files()
                self._choices()
                with gr.Accordion("More options", open=False):
                    self.rest.build(self.context)
            with gr.Column(scale=6, min_width=340):
                self.curve.build()
                self.plan.build()
                with gr.Row():
                    measure_button = gr.Button("Preview sizes", elem_id="lyco_extract_measure", min_width=90)
                    button = gr.Button("Extract", variant="primary", elem_id="lyco_extract_run", min_width=120)
                self.panel.build()
                self.tag = gr.HTML("", elem_id="lyco_extract_tag")
                self.blocks = figure_box("lyco_extract_blocks", visible=False)
        guidance_part("lyco_extract_guidance")
        self._wire(button, measure_button)

    def _files(self) -> None:
        self.org = checkpoint_picker(self.context.store, "Original checkpoint", "lyco_extract_org")
        self.tuned = checkpoint_picker(self.context.store, "Fine-tuned checkpoint", "lyco_extract_tuned", loaded=False)
        self.fields.update(org=self.org.component, tuned=self.tuned.component)

    def _choices(self) -> None:
        f = self.fields
        f["algorithm"] = gr.Dropdown(list(ALGORITHMS), value="locon", label="Algorithm of the network", elem_id="lyco_extract_algorithm")
        self.advice = gr.HTML(advice_html("locon"), elem_id="lyco_extract_advice")
        self.ranks.build(self.context, rank=32, size=30)
        f["name"] = gr.Textbox(
            label="Name of the new network", placeholder=NO_NAME, max_lines=1, elem_id="lyco_extract_name"
        )  # fmt: skip

    def _wire(self, button: Any, measure_button: Any) -> None:
        fields = self.inputs
        self.context.keep(PAGE, {name: part for name, part in self.fields.items() if name != "name"})
        choice = [self.fields["algorithm"], self.ranks.components[0]]
        for part in choice:
            part.change(self.visible, choice, [self.advice, *self.ranks.components], queue=False, show_progress="hidden")
        self.plan.watch(fields, self.make, lambda *values: bool(values[0] and values[1]))
        self.curve.watch([part for part in fields if part is not self.fields["name"]], self._find_without_name)
        self.panel.shows([self.tag, self.blocks, *self.curve.outputs], self.results)
        self.panel.start(button, self.make, fields)
        self.panel.start(measure_button, self.make_measure, fields)

    @property
    def inputs(self) -> list[Any]:
        """The components whose values make an extraction."""
        return [*(self.fields[name] for name in ORDER), *self.ranks.components, *self.rest.components]

    def visible(self, algorithm: str, rule: str) -> list[Update]:
        """Return what is said of the algorithm, and the fields that its rule needs."""
        return [gr.update(value=advice_html(algorithm)), *self.ranks.shown(rule, algorithm in RANKED)]

    def options(self, values: Sequence[Any]) -> dict[str, Any]:
        """Return the options of an extraction without its files. Raises ToolError."""
        algorithm = values[ORDER.index("algorithm")]
        rest = len(ORDER) + len(NAMES)
        found = {"algorithm": algorithm, **self.rest.read(values[rest:])}
        if algorithm not in RANKED:
            return found
        chosen = self.ranks.read(values[len(ORDER) : rest])
        found["dim"] = chosen.rank
        return {**found, "rule": chosen.kind, "value": chosen.value} if chosen.kind else {**found, "size": chosen.size}

    def make(self, *values: Any) -> tuple[str, dict[str, Any]]:
        """Return the tool and its options. Raises ToolError for what is wrong with a field."""
        given = dict(zip(ORDER, values))
        files = {"model_org": self.org.path(given["org"]), "model_tuned": self.tuned.path(given["tuned"])}
        if files["model_org"] == files["model_tuned"]:
            raise ToolError("the original and the tuned checkpoint are the same file; choose two")
        options = self.options(values)
        name = free_name(self.context, given["name"], f"{files['model_tuned'].stem}-{options['algorithm']}")
        return "extract", {**files, **options, "save_to": name}

    def make_measure(self, *values: Any) -> tuple[str, dict[str, Any]]:
        """Return the tool that measures, and its options. Raises ToolError."""
        self.curve.last = self._without_name(values)
        _, options = self.make(*self._with_name(self.curve.last))
        asked = _measured(options)
        place = measure.cache_file(self.context.store.data_folder(), asked)
        place.parent.mkdir(parents=True, exist_ok=True)
        measure.tidy(self.context.store.data_folder())
        return "measure", {**asked, **{key: options[key] for key in ("device",) if key in options}, "save_to": place}

    def find(self, *values: Any) -> tuple[Spectra, CurveRequest] | str:
        """Return what was measured of the two files and what is asked for, or why there is nothing to draw."""
        if not (values[0] and values[1]):
            return UNMEASURED
        _, options = self.make(*values)
        if options["algorithm"] not in CURVED:
            return f"Size and error are known beforehand for lora and locon; of {options['algorithm']} the report tells them afterwards."
        asked = _measured(options)
        folder = self.context.store.data_folder()
        places = [measure.cache_file(folder, {**asked, "whole": True})]
        if not asked["whole"]:
            places.append(measure.cache_file(folder, asked))
        place = next((path for path in places if path.is_file()), None)
        return UNMEASURED if place is None else (_read(place, place.stat().st_mtime_ns), CurveRequest.of(options))

    def _without_name(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        at = ORDER.index("name")
        return (*values[:at], *values[at + 1 :])

    def _with_name(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        at = ORDER.index("name")
        return (*values[:at], "", *values[at:])

    def _find_without_name(self, *values: Any) -> tuple[Spectra, CurveRequest] | str:
        return self.find(*self._with_name(values))  # a name that is taken already is no reason to draw nothing

    def results(self, job: Job | None) -> list[Update]:
        """Return the updates of the tag, the plot of the blocks and the curve for a job that is done."""
        kept = [gr.update() for _ in self.curve.outputs]
        if job is None:
            return [gr.update(value=""), gr.update(visible=False), *kept]
        if job.tool == "measure" or job.result is None:
            return [gr.update(), gr.update(), *self.curve.again()]
        report = job.result.report
        figure = block_norms(blocks_of(report), report["family"], title="The checkpoints' difference, block by block")
        tag = tag_box(tag_of(self.context, job.result.outputs[0]), self.context.send)
        return [gr.update(value=tag), figure_update(figure), *kept]


def blocks_of(report: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return what an extraction's report says of the blocks, as the bars' series."""
    blocks = report["blocks"]
    return {"all of it": {b: facts["change"] for b, facts in blocks.items()}, "not kept": {b: facts["left"] for b, facts in blocks.items()}}


def _measured(options: Mapping[str, Any]) -> dict[str, Any]:
    default = next(option.default for option in OPTIONS if option.name == "style")
    files = {key: options[key] for key in ("model_org", "model_tuned")}
    return {**files, "style": options.get("style", default), "whole": options.get("rule") in NEEDS_ALL}


@lru_cache(maxsize=4)
def _read(path: Path, _changed: int) -> Spectra:
    return measure.read(path)
