"""The page Resize, convert, bake: a network file in, a changed one out; and the smaller tools of files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from ...errors import ToolError
from ...tools.examine.network_spectra import network_spectra
from ...tools.linalg.size_curve import CurveRequest, Spectra
from ..context import PageContext
from ..parts.curve import CurveView
from ..parts.tools.rank_choice import RankChoice
from ..parts.tools.tool_form import ToolForm, UndoForm, VerifyForm, can_have_a_form, value_options

RESIZE_RULES = {
    "a share of each layer's norm": "sv_fro",
    "a share of the singular values' sum": "sv_cumulative",
    "how many times smaller the last value may be": "sv_ratio",
}
PLACED = ("merge", "networks_merge", "extract", "measure", "compare", "metadata")  # tools with a page of their own
SLIM = ("blocks", "elements", "size", "error", "new_rank")  # options, one of which says what is to go
NONE = "no block weights"
HIGHEST = 256  # rank of a slider


class ChangePage:
    """Builds the page: one tab for each tool that has no page of its own; a new one comes in by its declaration."""

    def __init__(self, context: PageContext) -> None:
        convert = ToolForm(context, "convert", ("style", "algorithm", "save_precision"), ("dim", "rule", "value"), "converted")
        self.forms: dict[str, ToolForm] = {
            "Resize": ResizeForm(context),
            "Convert": convert,
            "Bake": BakeForm(context),
            "Prune": ToolForm(context, "prune", (), ("save_precision",), "pruned"),
            "Split a DyLoRA": ToolForm(context, "split", ("unit",), ("alpha", "save_precision"), "rank"),
            "Verify a merge": VerifyForm(context, "verify", (), ("device",)),
            "Undo a merge": UndoForm(context, "undo", suffix="restored"),
            "Slim": ToolForm(context, "slim", SLIM, ("alpha", "save_precision", "family"), "slim"),
        }
        placed = {*PLACED, *(form.page for form in self.forms.values())}
        others = [tool for name, tool in context.jobs.tools.items() if name not in placed and can_have_a_form(tool)]
        self.forms |= {tool.pretty: ToolForm(context, tool.name, rest=value_options(tool), suffix=tool.name) for tool in others}

    def build(self) -> None:
        """Add the components to the open gr.Blocks."""
        with gr.Tabs():
            for label, form in self.forms.items():
                with gr.Tab(label, elem_id=f"lyco_tab_change_{form.page}"):
                    gr.HTML(f'<p class="lyco_advice">{form.tool.summary[0].upper()}{form.tool.summary[1:]}.</p>')
                    form.build()


class ResizeForm(ToolForm):
    """Resize, with the curve of size against error and the network's singular values."""

    def __init__(self, context: PageContext) -> None:
        super().__init__(context, "resize", (), ("new_conv_rank", "save_precision"), "resized")
        self.ranks = RankChoice("resize", RESIZE_RULES, HIGHEST, with_largest=False)
        self.curve = CurveView("resize", "Choose a network to see its singular values, and the size and the error of every choice.")

    def own_fields(self) -> list[Any]:
        """Add the fields of the ranks."""
        self.ranks.build(self.context, rank=16, size=10)
        return self.ranks.components

    def own_results(self) -> None:
        """Add the curve."""
        self.curve.build()

    def own_wiring(self) -> None:
        """Let the fields of the rule and the curve follow."""
        rule = self.ranks.components[0]
        rule.change(self.ranks.shown, rule, self.ranks.components, queue=False, show_progress="hidden")
        self.curve.watch([part for part in self.inputs if part is not self.name], self.find)

    def own_options(self, paths: dict[str, Any], values: Sequence[Any]) -> dict[str, Any]:
        """Return the options of the ranks."""
        chosen = self.ranks.read(values)
        if chosen.kind == "fixed":
            return {"new_rank": chosen.rank}
        return {"dynamic_method": chosen.kind, "dynamic_param": chosen.value} if chosen.kind else {"size": chosen.size}

    def find(self, *values: Any) -> tuple[Spectra, CurveRequest] | str:
        """Return the network's spectra and what is asked for, or why there is nothing to draw."""
        if not values[0]:
            return self.curve.empty
        count = len(self.picked)
        _, options = self.make(*values[:count], "", *values[count:])  # a name that is taken is no reason to draw nothing
        measured, whole = network_spectra(options["model"], options.get("base_model"))
        if not measured.strongest(1):
            return "Nothing in this network has ranks, so there is nothing to resize; Convert can make a LoRA of it."
        return measured, _asked(whole, options)


def _asked(whole: CurveRequest, options: dict[str, Any]) -> CurveRequest:
    """Return what a resize asks for, in the terms of an extraction; ``whole``: all ranks that the network has."""
    kind = options.get("dynamic_method") or "fixed"
    conv = options.get("new_conv_rank")
    return replace(
        whole, dim=options.get("new_rank") or whole.dim, conv_dim=conv, rule=kind, value=options.get("dynamic_param") or 0.0,
        size=options.get("size"), save_precision=options.get("save_precision") or whole.save_precision,
    )  # fmt: skip


class BakeForm(ToolForm):
    """Bake, with a strength and the block weights' presets in front."""

    def __init__(self, context: PageContext) -> None:
        super().__init__(context, "bake", (), ("te", "te2", "unet", "lbwe", "save_precision", "seed"), "baked")

    def own_fields(self) -> list[Any]:
        """Add strength, preset and weights."""
        strength = gr.Slider(-2, 2, value=1, step=0.05, label="Strength", elem_id="lyco_bake_ratio")
        preset = gr.Dropdown(
            [NONE, *self.context.store.presets().weight_names], value=NONE, label="Block weights", elem_id="lyco_bake_preset"
        )
        weights = gr.Textbox(
            label="or your own weights", placeholder="12, 17, 20, 26 or 61 numbers with commas", max_lines=1, elem_id="lyco_bake_weights"
        )
        self.context.keep("bake", {"ratio": strength, "preset": preset, "weights": weights})
        return [strength, preset, weights]

    def own_options(self, paths: dict[str, Any], values: Sequence[Any]) -> dict[str, Any]:
        """Return strength and block weights; a preset is written out, so that the file does not depend on its name."""
        strength, preset, weights = values
        if strength is None:
            raise ToolError("Strength: a number is missing")
        found: dict[str, Any] = {"ratio": float(strength)}
        if weights and weights.strip():
            found["lbw"] = weights.strip()
        elif preset and preset != NONE:
            found["lbw"] = self.context.store.presets().weights(preset).format()
        return found
