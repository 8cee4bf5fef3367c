"""The part of the page Block weight that renames, imports and exports the presets that were saved there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from ...errors import LycorisError, PromptError, ToolError
from ...prompt import OwnPresets, Presets
from ...prompt.presets import read_text
from ...wording import counted
from ..context import PageContext
from ..events import QUICK, Update
from ..style import notes


class PresetFilesPart:
    """Builds the part; presets of other files are never written to."""

    def __init__(self, context: PageContext, own: OwnPresets) -> None:
        self.context, self.own = context, own

    def build(self, preset: Any) -> None:
        """Add the components to the open gr.Blocks; ``preset`` is the list of presets."""
        with gr.Accordion("Rename, import and export presets", open=False, elem_id="lyco_presets"):
            with gr.Row(elem_classes=["lyco_buttons"]):
                name = gr.Textbox(label="New name of the chosen preset", max_lines=1, elem_id="lyco_presets_name", min_width=140)
                rename = gr.Button("Rename", size="sm", elem_id="lyco_presets_rename", min_width=80, scale=0)
            text = gr.Textbox(
                label="Presets as a text", info="One on each line, NAME:values, as the block weight extension writes them.", lines=3,
                max_lines=10, show_copy_button=True, elem_id="lyco_presets_text",
            )  # fmt: skip
            with gr.Row(elem_classes=["lyco_buttons"]):
                export = gr.Button("Export mine", size="sm", elem_id="lyco_presets_export", min_width=90)
                file = gr.UploadButton("Read a file ...", file_types=[".txt"], size="sm", elem_id="lyco_presets_file", min_width=90)
                take = gr.Button("Import this text", size="sm", elem_id="lyco_presets_import", min_width=90)
            told = gr.HTML("", elem_id="lyco_presets_told")
        rename.click(self.rename, [preset, name], [preset, told], **QUICK)
        export.click(self.export, None, [text, told], **QUICK)
        file.upload(self.read, file, [text, told], **QUICK)
        take.click(self.take, text, [preset, told], **QUICK)

    def rename(self, before: str | None, after: str) -> tuple[Update, Update]:
        """Give one of the user's presets another name."""
        try:
            if before not in self.own.names():
                raise ToolError("choose a preset that was saved here; only those can be renamed")
            name = after.strip()
            if name in self.context.store.presets().weight_names:
                raise ToolError(f'"{name}" is a preset already; choose another name')
            self.own.save(name, Presets(self.own.text(), "").weights(before or ""))
            self.own.delete(before or "")
        except LycorisError as error:
            return gr.update(), gr.update(value=notes(errors=[str(error)]))
        return gr.update(choices=self._names(), value=name), gr.update(value=notes(applied=[f"{before} is called {name} now."]))

    def export(self) -> tuple[Update, Update]:
        """Show the user's presets as a text."""
        try:
            text = self.own.text()
        except LycorisError as error:
            return gr.update(), gr.update(value=notes(errors=[str(error)]))
        said = f"They are in {self.own.path}." if text.strip() else "No preset was saved here yet."
        return gr.update(value=text), gr.update(value=notes(applied=[said]))

    def read(self, file: Any) -> tuple[Update, Update]:
        """Show the text of a file, such as the block weight extension's lbwpresets.txt."""
        try:
            return gr.update(value=read_text(Path(getattr(file, "name", file)))), gr.update(value="")
        except LycorisError as error:
            return gr.update(), gr.update(value=notes(errors=[str(error)]))

    def take(self, text: str) -> tuple[Update, Update]:
        """Add the presets of a text to the user's own; a name that is there already stays as it is."""
        given, taken, said = Presets(text or "", ""), [], []
        try:
            known = self.context.store.presets().weight_names
        except PromptError as error:
            return gr.update(), gr.update(value=notes(errors=[str(error)]))
        for name in given.own_names:
            try:
                if name in known:
                    raise ToolError(f'"{name}" is a preset already')
                self.own.save(name, given.weights(name))
                taken.append(name)
            except LycorisError as error:
                said.append(f"{name} was left out: {error}")
        if not given.own_names:
            said = ["The text has no line NAME:values with as many values as a layout has."]
        done = [f"{counted(len(taken), 'preset was', 'presets were')} added: {', '.join(taken)}."] if taken else []
        return gr.update(choices=self._names()), gr.update(value=notes(done, said))

    def _names(self) -> list[str]:
        return sorted(self.context.store.presets().weight_names, key=str.lower)
