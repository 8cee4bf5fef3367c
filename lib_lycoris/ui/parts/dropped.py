"""Files that are dropped onto the page Inspect, or named by their path: described at once, and copied into the networks on request."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ...atomic import replacing
from ...errors import LycorisError, ToolError
from ...networks.reading.folder import EXTENSIONS
from ...tools.jobs.places import Taken, new_file
from ..context import PageContext
from ..events import Update
from ..style import idle, notes
from .inspection import overview, words

MOST = 50


class DroppedFiles:
    """Builds the part; a path is asked for only where nobody else can open the page."""

    def __init__(self, context: PageContext) -> None:
        self.context = context

    def build(self) -> None:
        """Add the components to the open gr.Blocks."""
        with gr.Accordion("A file that is not in the list: drop it here", open=False, elem_id="lyco_drop"):
            drop = gr.File(label="Drop network files here, or click", file_count="multiple", elem_id="lyco_drop_files")
            with gr.Row(visible=self.context.any_path, elem_classes=["lyco_buttons"]):
                path = gr.Textbox(label="Path of a file", info="Instead of dropping it.", max_lines=1, elem_id="lyco_drop_path")
                look = gr.Button("Look", size="sm", elem_id="lyco_drop_look", min_width=80, scale=0)
            shown = gr.HTML("", elem_id="lyco_drop_shown")
            copy = gr.Button("Copy into my networks", size="sm", visible=False, elem_id="lyco_drop_copy")
            told = gr.HTML("", elem_id="lyco_drop_told")
        paths = gr.State([])
        drop.upload(self.dropped, drop, [shown, paths, copy, told], show_progress="hidden")
        for event in (look.click, path.submit):
            event(self.named, path, [shown, paths, copy, told], show_progress="hidden")
        copy.click(self.copied, paths, [told, copy], show_progress="hidden")

    def dropped(self, files: Any) -> tuple[Update, list[str], Update, Update]:
        """Describe the files that were dropped."""
        found: list[Any] = files if isinstance(files, list) else [files] if files else []
        shown, paths, copy, told = self._described([Path(getattr(file, "name", file)) for file in found[:MOST]])
        if len(found) > MOST:
            told = gr.update(value=notes(problems=[f"The first {MOST} of {len(found)} files are shown; drop the others again."]))
        return shown, paths, copy, told

    def named(self, text: str) -> tuple[Update, list[str], Update, Update]:
        """Describe the file of a path."""
        path = Path(os.path.expanduser((text or "").strip().strip('"')))
        if not self.context.any_path or not path.is_absolute() or not path.is_file():
            said = (
                "there is no such file; give its whole path" if self.context.any_path else "files are named by their path in the app only"
            )
            return gr.update(value=""), [], gr.update(visible=False), gr.update(value=notes(errors=[said]))
        return self._described([path])

    def _described(self, paths: Sequence[Path]) -> tuple[Update, list[str], Update, Update]:
        parts, good = [], []
        for path in paths:
            try:
                if path.suffix.lower() not in EXTENSIONS:
                    raise ToolError(f"{path.name} is no network file; those end in {', '.join(EXTENSIONS)}")
                found, _ = self.context.loaded.inspect(path)
                parts.append(f"<h2 class='lyco_heading3'>{escape(path.name)}</h2>{overview(found)}{words(found)}")
                good.append(str(path))
            except (LycorisError, OSError, RuntimeError, ValueError) as error:
                parts.append(notes(errors=[str(error) if isinstance(error, LycorisError) else f"{path.name} cannot be read: {error}"]))
        return gr.update(value="".join(parts) or idle("No file.")), good, gr.update(visible=bool(good)), gr.update(value="")

    def copied(self, paths: list[str]) -> tuple[Update, Update]:
        """Copy the described files into the folder of networks; one whose name is taken stays out, with a sentence."""
        done, said = [], []
        for path in map(Path, paths):
            try:
                place = new_file(self.context.store.network_folder(), path.name, path.suffix)
                with replacing(place) as beside:
                    shutil.copyfile(path, beside)
                done.append(place.name)
            except Taken as error:
                said.append(str(error))
            except (LycorisError, OSError) as error:
                said.append(f"{path.name} was not copied: {error}")
        self.context.store.refresh()
        applied = [f"{', '.join(done)}: in {self.context.store.network_folder()} now."] if done else []
        return gr.update(value=notes(applied, said)), gr.update(visible=bool(said))
