"""The form behind a card of the LyCORIS tab; it writes the same keys of `<file>.json` as the built-in loader's form."""

from __future__ import annotations

import html
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from modules import shared, sysinfo, ui_extra_networks_user_metadata  # type: ignore[import-not-found,unused-ignore]

from ....atomic import write_text
from ....plain_json import read_json
from ....wording import counted
from . import card_files as files

gr = shared.gr  # the gradio that the host itself draws with
SHOWN_TAGS = 24
ROWS = (  # label, keys of the file's metadata: the first that says something
    ("Trained name:", ("ss_output_name", "modelspec.title")),
    ("Author:", ("modelspec.author", "ssmd_author")),
    ("Trained on:", ("ss_sd_model_name", "modelspec.architecture")),
    ("Rank:", ("ss_network_dim",)),
    ("Alpha:", ("ss_network_alpha",)),
    ("Trainer's module:", ("ss_network_module",)),
    ("Trainer's arguments:", ("ss_network_args",)),
    ("Trigger words:", ("modelspec.trigger_phrase", "ssmd_keywords")),
    ("License:", ("modelspec.license",)),
)


class Editor(ui_extra_networks_user_metadata.UserMetadataEditor):  # type: ignore[misc] # the webui's has no types
    """Description, base model, activation text, weight, negative text and notes of one network."""

    def get_metadata_table(self, name: str) -> list[tuple[str, str]]:
        """Return the rows about the file, escaped."""
        item = self.page.items.get(name)
        if item is None:
            return []
        path, metadata = Path(item["filename"]), item["metadata"]
        rows: list[tuple[str, str]] = [("File:", self.relative_path(str(path)))]
        if item["broken"]:
            rows.append(("Problem:", item["broken"]))
        if path.is_file():
            when = datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
            rows += [("Size:", sysinfo.pretty_bytes(path.stat().st_size)), ("Changed:", when)]
        known = files.known_hash(path, files.facts(path))  # an image may have been made with it since the cards were drawn
        rows += [("Hash:", known or "not computed yet"), ("Algorithm:", _algorithms(item["algorithms"]))]
        rows += [(label, _first(metadata, keys)) for label, keys in ROWS]
        rows.append(("Trained:", _date(metadata.get("ss_training_finished_at") or metadata.get("ss_training_started_at"))))
        return [(label, html.escape(text)) for label, text in rows if text]

    def create_extra_default_items_in_left_column(self) -> None:
        """Add the choice of the base model."""
        choices = [*dict.fromkeys(files.VERSIONS.values()), files.UNKNOWN]
        self.select_version = gr.Dropdown(
            choices, value=files.UNKNOWN, label="Base model", info="Unknown, and words of your own: as detected", interactive=True,
            allow_custom_value=True,
        )  # fmt: skip

    def create_editor(self) -> None:
        """Draw the form and connect its buttons; the webui calls this."""
        self.create_default_editor_elems()
        self.tags = gr.HighlightedText(label="Tags it was trained on (click to add to the activation text)", elem_classes="lycoris-tags")
        self.edit_text = gr.Text(label="Activation text", info="Added to the prompt behind the tag")
        self.edit_weight = gr.Slider(label="Preferred weight", info="0: the default of the settings", minimum=-2.0, maximum=2.0, step=0.01)
        self.edit_negative = gr.Text(label="Negative prompt", info="Added to the negative prompt")
        self.edit_notes = gr.TextArea(label="Notes", lines=4)
        self.tags.select(
            fn=toggle_tag, inputs=[self.edit_text], outputs=[self.edit_text], show_progress=False,
        )  # fmt: skip
        self.create_default_buttons()
        head = [self.edit_name, self.edit_description, self.html_filedata, self.html_preview, self.edit_notes]
        fields = [self.select_version, self.edit_text, self.edit_weight, self.edit_negative]
        self.button_edit.click(fn=self.put_values_into_components, inputs=[self.edit_name_input], outputs=[*head, *fields, self.tags]).then(
            fn=lambda: gr.update(visible=True), inputs=[], outputs=[self.box]
        )
        self.setup_save_handler(self.button_save, self.save, [self.edit_description, *fields, self.edit_notes])

    def put_values_into_components(self, name: str) -> list[Any]:
        """Return what the form shows for one network."""
        said, item = self.get_user_metadata(name), self.page.items.get(name, {})
        tags = files.top_tags(item.get("metadata") or {}, SHOWN_TAGS)
        version = str(said.get("sd version") or item.get("sd_version") or files.UNKNOWN)
        return [
            *super().put_values_into_components(name)[:5],
            version,
            str(said.get("activation text") or ""),
            (item.get("click") or {}).get("weight", 0.0),
            str(said.get("negative text") or ""),
            gr.update(value=[(tag, str(count)) for tag, count in tags], visible=bool(tags)),
        ]

    def save(self, name: str, description: str, version: str, text: str, weight: float, negative: str, notes: str) -> None:
        """Write the form into `<file>.json`; keys that the form does not have stay as they are."""
        found = dict(self.get_user_metadata(name))
        found.update({"description": description, "sd version": version, "activation text": text})
        found.update({"preferred weight": weight, "negative text": negative, "notes": notes})
        self.write_user_metadata(name, found)

    def write_user_metadata(self, name: str, metadata: dict[str, Any]) -> None:
        """Write the file beside its place, then rename; tell the user if that fails."""
        item = self.page.items.get(name)
        if item is None:
            raise gr.Error(f"{name} is not in the folders any more; refresh the page.")
        path = Path(item["filename"]).with_suffix(".json")
        problem = unreadable(path)
        if problem:
            raise gr.Error(problem)
        try:
            write_text(path, json.dumps(files.showable(metadata), indent=4, ensure_ascii=False))
        except OSError as error:
            raise gr.Error(f"{path.name} cannot be written: {error.strerror or error}.") from error
        self.page.lister.update_file_entry(str(path))


def unreadable(path: Path) -> str:
    """Return why an existing file must not be written over: it holds something that we cannot keep. Empty if it may."""
    if not path.exists():
        return ""
    try:
        kept = isinstance(read_json(path), dict)
    except (OSError, ValueError):
        kept = False
    return "" if kept else f"{path.name} is there but holds no table of notes; move it away to save yours."


def toggle_tag(text: str, evt: gr.SelectData) -> str:  # type: ignore[name-defined,unused-ignore]
    """Put the clicked training tag into the activation text, or take it out again."""
    return toggled(text, evt.value[0])


def toggled(text: str, tag: str) -> str:
    """Return a comma-separated text with the tag added, or without it if it was there."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    return ", ".join([word for word in words if word != tag] if tag in words else [*words, tag])


def _algorithms(counts: dict[str, int]) -> str:
    return ", ".join(f"{title} ({counted(count, 'layer')})" for title, count in counts.items())


def _first(metadata: dict[str, Any], keys: tuple[str, ...]) -> str:
    values = (metadata.get(key) for key in keys)
    found = next((value for value in values if value not in (None, "", "None")), "")
    return json.dumps(found, ensure_ascii=False) if isinstance(found, dict) else str(found)


def _date(value: Any) -> str:
    try:
        return datetime.fromtimestamp(float(value), timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except (TypeError, ValueError, OverflowError, OSError):
        return ""
