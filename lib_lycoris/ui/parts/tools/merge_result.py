"""What the page Merge shows of a finished merge: its blocks as an image, the tag of a new network, the ways on from here."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ....errors import LycorisError, ToolError
from ....prompt import escape_name
from ....tools.jobs.queue import Job
from ....tools.merge.norms import shares_of
from ....wording import counted
from ...context import PageContext
from ...events import Update
from ...style import notes, scripted, tag_box
from ..figures import figure_box, figure_update
from ..plots import block_norms, block_totals
from .job_panel import JobPanel

STAYS = "The merged file, its undo file and the model in use stay as they are."
SHOWN = 6  # networks in the image


class MergeResult:
    """The components below the progress of the page."""

    def __init__(self, context: PageContext, panel: JobPanel) -> None:
        self.context = context
        self.panel = panel

    def build(self) -> None:
        """Add the components to the open gr.Blocks."""
        tag = gr.HTML("", elem_id="lyco_merge_tag")
        with gr.Row():
            use = gr.Button("Use as checkpoint", size="sm", visible=False, elem_id="lyco_merge_use", min_width=120)
            back = gr.Button("Back to the one before", size="sm", visible=False, elem_id="lyco_merge_back", min_width=120)
            undo = gr.Button("Write the original again", size="sm", visible=False, elem_id="lyco_merge_undo_run", min_width=120)
        told = gr.HTML("", elem_id="lyco_merge_used")
        plot = figure_box("lyco_merge_plot", visible=False)
        self.panel.shows([tag, use, undo, told, plot, back], self.show)
        self.panel.start(undo, self.undo_options, [])
        shown: Any = {scripted(use.click): "() => window.lycorisShowCheckpoint && window.lycorisShowCheckpoint()"}
        for button, does in ((use, self.use), (back, self.use_the_one_before)):
            button.click(does, None, [told, back], show_progress="hidden").then(None, None, None, **shown)

    def show(self, job: Job | None) -> list[Update]:
        """Return the updates for a finished merge; for none, what clears them."""
        if job is None or job.result is None:
            hidden = gr.update(visible=False)
            return [gr.update(value=""), hidden, hidden, gr.update(value=""), hidden, hidden]
        tag = self._tag(job.result.outputs[0]) if job.tool == "networks_merge" else ""
        can_use = self.context.use_checkpoint is not None and job.tool in ("merge", "undo")
        figure, problem = (None, "") if job.tool == "undo" else _figure(job)
        return [
            gr.update(value=tag), gr.update(visible=can_use), self._undo_button(job),
            gr.update(value=notes([STAYS] if job.tool == "undo" else [], [problem] if problem else [])),
            figure_update(figure), gr.update(visible=False),
        ]  # fmt: skip

    def _undo_button(self, job: Job) -> Update:
        if job.tool != "merge" or job.result is None or len(job.result.outputs) < 2:
            return gr.update(visible=False)
        original = Path(job.options["sd_model"])
        return gr.update(value=f"Write the original again (as {self._free(original.stem, original.is_dir()).stem})", visible=True)

    def _tag(self, path: Path) -> str:
        name = next((file.name for file in self.context.store.networks() if file.path == path), path.stem)
        return tag_box(f"<lyco:{escape_name(name)}:1>", self.context.send)

    def use(self) -> tuple[Update, Update]:
        """Make images with the result from now on."""
        job = self._last(("merge", "undo"))
        if job is None or job.result is None or self.context.use_checkpoint is None:
            return gr.update(), gr.update()
        path = job.result.outputs[0]
        return self._used(lambda: self.context.use(path))

    def use_the_one_before(self) -> tuple[Update, Update]:
        """Make images with the checkpoint that was used before."""
        return self._used(self.context.use_the_one_before)

    def _used(self, change: Callable[[], str]) -> tuple[Update, Update]:
        try:
            said = notes([change()])
        except LycorisError as error:
            return gr.update(value=notes(errors=[str(error)])), gr.update()
        path = self.context.used
        title = self.context.checkpoint_title(path) if self.context.checkpoint_title is not None and path is not None else ""
        told = gr.update(value=f'{said}<i hidden data-lyco-checkpoint="{escape(title)}"></i>')
        return told, gr.update(visible=self.context.has_one_before)

    def undo_options(self) -> tuple[str, dict[str, Any]]:
        """Return what restores the checkpoint that the last merge started from. Raises ToolError."""
        job = self._last(("merge",))
        if job is None or job.result is None or len(job.result.outputs) < 2:
            raise ToolError("there is no merge with an undo file to take back")
        merged, undo_file = job.result.outputs[:2]
        original = Path(job.options["sd_model"])
        return "undo", {"merged": merged, "undo_file": undo_file, "save_to": self._free(original.stem, original.is_dir())}

    def _free(self, stem: str, a_folder: bool) -> Path:
        for number in range(1, 1000):
            try:
                return self.context.new_checkpoint(f"{stem}-restored" + (f"-{number}" if number > 1 else ""), a_folder)
            except ToolError as error:
                taken = error
        raise taken

    def _last(self, tools: tuple[str, ...]) -> Job | None:
        jobs = reversed(self.context.jobs.all())
        return next((job for job in jobs if job.owner == self.panel.owner and job.tool in tools and job.result is not None), None)


def _figure(job: Job) -> tuple[Any, str]:
    """Return an image of what a merge changes, block by block, and what it does not show; none if it cannot be drawn."""
    options = {**job.options, "models": job.options["models"]}
    try:
        found = shares_of(options)
    except (LycorisError, OSError) as error:  # an input was removed since
        return None, f"the change by block cannot be shown: {error}"
    family = found[0].family
    series = {f"{number + 1}. {share.name}": block_totals(share.energies, family) for number, share in enumerate(found[:SHOWN])}
    left = sum(share.left_out for share in found)
    return block_norms(series, family), f"not in the image: {counted(left, 'layer')} whose change depends on the base model" if left else ""
