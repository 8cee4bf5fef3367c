"""The part of the page Generate that chooses the checkpoint images are made with, and shows which one it is."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ....errors import LycorisError
from ....hosts.protocol import Generator
from ...context import PageContext
from ...events import QUICK, Update
from ...style import notes
from ..file_choice import checkpoint_picker


class ModelPart:
    """Builds the part. Other pages choose a checkpoint too, and so does another window: what is shown is asked for each time."""

    def __init__(self, context: PageContext, host: Generator) -> None:
        self.context = context
        self.host = host

    def build(self) -> None:
        """Add the components to the open gr.Blocks."""
        with gr.Row(elem_classes=["lyco_buttons"]):
            self.picker = checkpoint_picker(self.context.store, "Checkpoint", "lyco_checkpoint")
            back = gr.Button("Back", size="sm", elem_id="lyco_checkpoint_back", min_width=60, scale=0)
        told = gr.HTML("", elem_id="lyco_checkpoint_told")
        self._used = [
            self.picker.component.input(self.use, self.picker.component, told, show_progress="minimal"),
            back.click(self.use_the_one_before, None, told, show_progress="minimal"),
        ]

    def follow(self, tab: Any, sampler: Any, about: Any) -> None:
        """Show the model in its field, its samplers and the line about it: when the UI or the tab is opened, and after each choice."""
        shown = [self.picker.component, sampler, about]
        self.context.on_load(lambda: self.shown(None), shown)
        for event in (tab.select, *(used.then for used in self._used)):
            event(self.shown, sampler, shown, **QUICK)

    def use(self, name: str | None) -> Update:
        """Make images with a checkpoint of the list from now on; return what came of it."""
        try:
            return gr.update(value=notes([self.context.use(self.picker.path(name))]) if name else "")
        except LycorisError as error:
            return gr.update(value=notes(errors=[str(error)]))

    def use_the_one_before(self) -> Update:
        """Go back to the checkpoint that was used before; return what came of it."""
        try:
            return gr.update(value=notes([self.context.use_the_one_before()]))
        except LycorisError as error:
            return gr.update(value=notes(problems=[str(error)]))

    def shown(self, sampler: str | None) -> tuple[Update, Update, str]:
        """Return what is loaded: the checkpoint's name, the samplers with the chosen one if it is among them, and a line about it."""
        found, names = self.context.store.loaded(), list(self.host.samplers())
        wanted = (sampler, self.context.settings.get("generate", "sampler"), names[0])
        chosen = next(name for name in wanted if name in names)
        return self.picker.shown(None if found is None else found.name), gr.update(choices=names, value=chosen), about(self.host)


def about(host: Generator) -> str:
    """Return what is loaded, and how much memory is in use."""
    return " · ".join(filter(None, (host.about().removesuffix("."), host.memory())))
