"""The part of the page Block weight that writes the sliders' values into a new network file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gradio as gr

from ...errors import ToolError
from ...prompt import BlockWeights
from ..context import PageContext
from ..parts.file_choice import Picker, base_picker
from ..parts.names import free_name
from ..parts.tools.job_panel import JobPanel
from ..parts.tools.live_plan import LivePlan
from .values import weights_of, with_text

STATE, NETWORK = 2, 3  # places of the sliders and of the network's name among what make() takes


class BakePart:
    """Builds the part; what is baked does at strength 1 what the tag does."""

    def __init__(self, context: PageContext, network: Picker) -> None:
        self.context = context
        self.network = network

    def build(self, state: Any, fields: list[Any], values: Any) -> None:
        """Add the components to the open gr.Blocks; ``state`` holds the sliders, ``values`` shows them."""
        with gr.Accordion("Bake: write these strengths into a new network file", open=False, elem_id="lyco_blocks_bake_part"):
            with gr.Row():
                name = gr.Textbox(label="Name of the new file", placeholder="style-baked", max_lines=1, elem_id="lyco_blocks_bake_name")
                self.base = base_picker(
                    self.context.store, "Base model (optional)", "lyco_blocks_bake_base", info="DoRA, OFT and BOFT need it."
                )
            plan = LivePlan(self.context, "blocks_bake", "Choose a network above to see what will happen.")
            plan.build()
            button = gr.Button("Bake", variant="primary", elem_id="lyco_blocks_bake")
            panel = JobPanel(self.context, "blocks_bake")
            panel.build()
        inputs = [name, self.base.component, state, *fields]
        followed = [values.change, *(field.change for field in fields)]
        watched = [name, self.base.component]
        plan.watch(watched, self.planned, lambda *given: bool(given[NETWORK]), [*inputs, values], more=followed, base=self.base)
        panel.start(button, self.make, inputs)

    def planned(self, *given: Any) -> tuple[str, Mapping[str, Any]]:
        """Return what :meth:`make` does, for the values that the page shows: they come before the sliders' own state does."""
        *rest, text = given
        rest[STATE] = replace(rest[STATE], sliders=with_text(rest[STATE].sliders, text))
        return self.make(*rest)

    def make(
        self, name: str, base: str | None, state: Any, network: str | None, te: float | None, unet: float | None,
        start: float | None, stop: float | None,
    ) -> tuple[str, Mapping[str, Any]]:  # fmt: skip
        """Return the tool and its options; raise ToolError for fields that cannot be baked."""
        if start or stop:
            raise ToolError("a file has the same strength at every step; empty the fields of steps, or keep the tag")
        path = self.network.path(network)
        options: dict[str, Any] = {"model": path, "save_to": free_name(self.context, name, f"{path.stem}-baked")}
        if te is None or unet is None:
            raise ToolError("text encoder and UNet need a strength each; 1 is what was trained")
        options |= {"te": float(te), "unet": float(unet)}
        weights = weights_of(state.sliders)
        if isinstance(weights, BlockWeights):
            options["lbw"] = weights.format()
        elif weights:
            options["lbwe"] = ",".join(rule.format() for rule in weights)
        if self.base.chosen(base) and (base != self.base.default() or self.context.fits_loaded([network] if network else [])):
            options["sd_model"] = self.base.path(base)
        return "bake", options
