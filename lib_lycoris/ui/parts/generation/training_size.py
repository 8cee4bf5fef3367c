"""What the spectra of a trained network say: change by block, what a smaller dim would lose, and a button that makes the smaller file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr

from ....errors import LycorisError
from ....models import FAMILIES
from ....tools.training.runs import RunFacts, network_of
from ...events import Update
from ...style import notes
from ..figures import figure_box, figure_update
from ..plots import block_norms, size_curve

if TYPE_CHECKING:
    from pathlib import Path

    from ...context import PageContext


class TrainedSize:
    """Shows the figures of a run that is done, and resizes its network."""

    def __init__(self, context: PageContext) -> None:
        self.context = context

    def build(self) -> None:
        """Add the components to the open gr.Blocks."""
        with gr.Accordion("Spectra and size", open=False, visible=False, elem_id="lyco_train_spectra") as self.box:
            self.blocks = figure_box("lyco_train_blocks")
            self.curve = figure_box("lyco_train_curve")
            with gr.Row():
                self.dim = gr.Number(8, precision=0, label="Rank of the smaller file", elem_id="lyco_train_new_dim")
                self.resize = gr.Button("Resize to this", elem_id="lyco_train_resize", min_width=120)
            self.said = gr.HTML("", elem_id="lyco_train_resized", elem_classes=["lyco_notes"])

    @property
    def outputs(self) -> list[Any]:
        """What :meth:`updates` is for."""
        return [self.box, self.blocks, self.curve, self.dim, self.said]

    def updates(self, facts: RunFacts) -> tuple[Update, ...]:
        """Return the figures of a run that is done; of any other nothing is shown."""
        told = facts.spectra
        if facts.status != "done" or not facts.network.is_file() or not told.get("curve") or told.get("family") not in FAMILIES:
            return (gr.update(visible=False), *(gr.update() for _ in range(4)))
        whole, dim = facts.network.stat().st_size, max(int(told["dim"]), 1)
        points = [(round(whole * int(rank) / dim), float(lost)) for rank, lost in told["curve"].items() if int(rank) <= dim]
        chosen = int(told.get("advised") or max(dim // 2, 1))
        blocks = block_norms({facts.name: {str(block): float(norm) for block, norm in told["blocks"].items()}}, told["family"])
        curve = size_curve(sorted(points))
        return gr.update(visible=True), figure_update(blocks), figure_update(curve), gr.update(value=chosen), gr.update(value="")

    def run(self, folder: Path | None, dim: float | None) -> Iterator[Update]:
        """Make the smaller file beside the network; return what is said of it."""
        if folder is None:
            yield gr.update(value=notes(errors=["there is no network that was trained"]))
            return
        model, rank = network_of(folder), int(dim or 0)
        try:
            save_to = self.context.new_network(f"{model.stem}-dim{rank}")
            job = self.context.jobs.start("resize", {"model": model, "save_to": save_to, "new_rank": rank})
        except LycorisError as error:
            yield gr.update(value=notes(errors=[str(error)]))
            return
        yield gr.update(value=notes(applied=[f"making {save_to.name}"]))
        job.wait()
        yield gr.update(value=notes(applied=[f"made {save_to.name}"]) if job.status == "done" else notes(errors=[job.error]))
