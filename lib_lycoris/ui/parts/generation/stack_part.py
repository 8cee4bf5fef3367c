"""The part of the page Generate that saves, loads and shares stacks, and takes a prompt's networks to the page Merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from ....atomic import write_text
from ....errors import LycorisError, ToolError, reason
from ....prompt import find_tags
from ....tools.jobs.places import check_name, new_file
from ....wording import counted
from ...context import PageContext
from ...events import QUICK, Update
from ...style import notes, opens, scripted
from ..network_table import rows_of_prompt
from .stack import read_stack, stack_of, tags_here

SUFFIX = ".json"


class StackPart:
    """Builds the part; stacks lie as files in a folder that people keep."""

    def __init__(self, context: PageContext) -> None:
        self.context = context
        self.folder = context.store.kept_folder() / "stacks"

    def build(self, prompt: Any, seed: Any) -> None:
        """Add the components to the open gr.Blocks."""
        with gr.Accordion("Stacks: keep and share the prompt's networks", open=False, elem_id="lyco_stacks"):
            with gr.Row(elem_classes=["lyco_buttons"]):
                name = gr.Textbox(label="Save as", max_lines=1, placeholder="a name", elem_id="lyco_stack_name", min_width=120)
                save = gr.Button("Save", size="sm", elem_id="lyco_stack_save", min_width=60, scale=0)
                saved = gr.Dropdown([], label="Saved stacks", elem_id="lyco_stack_saved", min_width=120)
                load = gr.Button("Load", size="sm", elem_id="lyco_stack_load", min_width=60, scale=0)
                delete = gr.Button(
                    "Delete this stack", size="sm", elem_id="lyco_stack_delete", min_width=60, scale=0, elem_classes=["lyco_ask"]
                )
            text = gr.Textbox(
                label="The stack as a text to share", info="It has no paths: files are found by their hash. Paste one here and use it.",
                lines=3, max_lines=8, show_copy_button=True, elem_id="lyco_stack_text",
            )  # fmt: skip
            with gr.Row(elem_classes=["lyco_buttons"]):
                use = gr.Button("Use this text", size="sm", elem_id="lyco_stack_use", min_width=120)
                merge = gr.Button("Merge what the prompt says", size="sm", elem_id="lyco_stack_merge", min_width=160)
            told = gr.HTML("", elem_id="lyco_stack_told")
        saved.focus(self.offered, None, saved, **QUICK)
        save.click(self.save, [name, prompt, seed], [text, saved, told], show_progress="hidden")
        loaded = load.click(self.load, saved, [text, told], **QUICK)
        loaded.then(self.use, [text, prompt, seed], [prompt, seed, told], show_progress="hidden")
        use.click(self.use, [text, prompt, seed], [prompt, seed, told], show_progress="hidden")
        delete.click(self.delete, saved, [saved, told], **QUICK)
        self.context.later(lambda _: self._wire_merge(merge, prompt, told))

    def _wire_merge(self, button: Any, prompt: Any, told: Any) -> None:
        receiver = self.context.receivers.get("Merge rows")
        if receiver is None:
            return

        def send(text: str) -> list[Any]:
            try:
                return [*receiver.take(rows_of_prompt(text)), gr.update(value="")]
            except LycorisError as error:
                return [*(gr.update() for _ in receiver.outputs), gr.update(value=notes(errors=[str(error)]))]

        sent = button.click(send, prompt, [*receiver.outputs, told], **QUICK)
        sent.then(None, told, None, **{scripted(button.click): opens("Merge", "lyco_note")})

    def names(self) -> list[str]:
        """Return the names of the saved stacks."""
        return sorted((path.stem for path in self.folder.glob(f"*{SUFFIX}")), key=str.lower) if self.folder.is_dir() else []

    def offered(self) -> Update:
        """Return them as choices."""
        return gr.update(choices=self.names())

    def save(self, name: str, prompt: str, seed: float | None) -> tuple[Update, Update, Update]:
        """Keep the prompt's networks under a name, and show the text to share; without a name the text alone."""
        try:
            cards = self.context.networks.cards() if self.context.networks is not None else ()
            stack = stack_of(prompt, -1 if seed is None else int(seed), cards)
            text, said = stack.as_json(), "The text above can be shared."
            if name.strip():
                self.folder.mkdir(parents=True, exist_ok=True)
                path = new_file(self.folder, name, SUFFIX, replace=True)
                write_text(path, text)
                said = f"Saved as {path.stem}."
        except LycorisError as error:
            return gr.update(), gr.update(), gr.update(value=notes(errors=[str(error)]))
        except OSError as error:
            return gr.update(), gr.update(), gr.update(value=notes(errors=[f"the stack cannot be written: {error.strerror or error}"]))
        return gr.update(value=text), gr.update(choices=self.names()), gr.update(value=notes(applied=[said]))

    def load(self, name: str | None) -> tuple[Update, Update]:
        """Show the text of a saved stack."""
        try:
            return gr.update(value=self._path(name).read_text(encoding="utf-8")), gr.update()
        except LycorisError as error:
            return gr.update(value=""), gr.update(value=notes(errors=[str(error)]))
        except (OSError, ValueError) as error:
            return gr.update(value=""), gr.update(value=notes(errors=[f"{name} cannot be read: {reason(error)}"]))

    def _path(self, name: str | None) -> Path:
        if name not in self.names():
            raise ToolError("no stack is chosen; choose one from the list")
        check_name(str(name))
        return self.folder / f"{name}{SUFFIX}"

    def use(self, text: str, prompt: str, seed: float | None) -> tuple[Update, Update, Update]:
        """Put a stack's tags into the prompt, in the place of those that are there, and its seed into the field."""
        try:
            stack = read_stack(text or "")
            tags, said = tags_here(stack, self.context.networks.cards() if self.context.networks is not None else ())
        except LycorisError as error:
            return gr.update(), gr.update(), gr.update(value=notes(errors=[str(error)]))
        rest = find_tags(prompt)[0].strip()
        value = " ".join([*([rest] if rest else []), *tags])
        kept = gr.update(value=stack.seed) if stack.seed >= 0 else gr.update()
        return (
            gr.update(value=value),
            kept,
            gr.update(value=notes([f"In the prompt: {len(tags)} of {counted(len(stack.layers), 'network')}."], said)),
        )

    def delete(self, name: str | None) -> tuple[Update, Update]:
        """Delete a saved stack."""
        try:
            self._path(name).unlink()
        except LycorisError as error:
            return gr.update(), gr.update(value=notes(errors=[str(error)]))
        except OSError as error:
            return gr.update(), gr.update(value=notes(errors=[f"{name} cannot be deleted: {error.strerror}"]))
        return gr.update(choices=self.names(), value=None), gr.update(value=notes(applied=[f"Deleted: {name}."]))
