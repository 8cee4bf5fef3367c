"""The LyCORIS tab of the webui's Extra Networks panel; nothing that comes out of a file reaches the page unescaped."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from modules import extra_networks, shared, ui_extra_networks  # type: ignore[import-not-found,unused-ignore]

from ....errors import HostError
from ....prompt import escape_name
from ...library.library import NetworkFile
from . import card_files as files
from .card_editor import Editor

COVER_ADDRESS = "./sd_extra_networks/cover-images"


class Page(ui_extra_networks.ExtraNetworksPage):  # type: ignore[misc] # the webui's has no types
    """Cards of all network files that suit the loaded checkpoint."""

    def __init__(self) -> None:
        super().__init__("LyCORIS")
        self.hidden = 0  # files that are for another base model, after the last listing

    def refresh(self) -> None:
        """Look at the folders again."""
        files.library().refresh()

    def allowed_directories_for_previews(self) -> list[str]:
        """Return the folders that previews may be read from and written to."""
        return [str(folder) for folder in files.library().folders]

    def list_items(self) -> Iterator[dict[str, Any]]:
        """Give one item a card; a file that cannot be described is told of and left out."""
        shown, hidden = loaded_version(), 0  # counted for itself: the webui lists for both tabs at once
        for index, (name, file) in enumerate(files.library().named.items()):
            try:
                item = self._item(name, file, index)
            except OSError as error:
                print(f"LyCORIS: {file.path} is not shown: {error.strerror or error}")
                continue
            if suits(item["sd_version"], shown):
                yield item
            else:
                hidden += 1
        self.hidden = hidden

    def create_item(self, name: str, index: int | None = None, enable_filter: bool = True) -> dict[str, Any] | None:
        """Return the item of one name; the webui asks for it after an edit."""
        file = files.library().named.get(name)
        item = self._item(name, file, index) if file else None
        return item if item is None or not enable_filter or suits(item["sd_version"], loaded_version()) else None

    def _item(self, name: str, file: NetworkFile, index: int | None) -> dict[str, Any]:
        facts, bare = files.facts(file.path), os.path.splitext(file.path)[0]
        item: dict[str, Any] = {
            "name": name, "filename": str(file.path), "shorthash": files.known_hash(file.path, facts),
            "metadata": files.Metadata(file.path, facts.entries),
            "preview": self.find_preview(bare) or self._cover(name, facts), "description": self.find_description(bare) or "",
            "local_preview": f"{bare}.{shared.opts.samples_format}", "sort_keys": {"default": index, **self.get_sort_keys(str(file.path))},
            "label": facts.label, "alias": facts.alias, "broken": facts.broken, "algorithms": facts.algorithms,
        }  # fmt: skip
        self.read_user_metadata(item)
        item["sd_version"] = files.version(item["user_metadata"].get("sd version"), facts.version)
        item["click"] = self._click(name, file, facts, item["user_metadata"])
        # for hosts that draw cards in another way than create_item_html below
        item["prompt"], item["negative_prompt"] = json.dumps(f"<lyco:{item['click']['name']}:1>"), '""'
        item["search_terms"] = [html.escape(term) for term in self._search_terms(item, facts)]
        return item

    def _search_terms(self, item: dict[str, Any], facts: files.NetworkFacts) -> list[str]:
        words = [self.search_terms_from_path(item["filename"]), item["shorthash"], facts.alias, item["sd_version"], *facts.algorithms]
        words += facts.listed.values()
        words += [str(item["user_metadata"].get(key) or "") for key in ("sd version", "activation text", "notes")]
        words += [tag for tag, _ in facts.tags]
        return [word for word in dict.fromkeys(words) if word]

    def _click(self, name: str, file: NetworkFile, facts: files.NetworkFacts, said: dict[str, Any]) -> dict[str, Any]:
        """Return what a click inserts, and every name under which a second click finds it again."""
        alias = facts.alias if _usable(facts.alias, file) else ""
        by_alias = getattr(shared.opts, "lyco_preferred_name", "Filename") == "Alias from file" or not _writable(name)
        chosen = alias if alias and by_alias else name
        return {
            "name": escape_name(chosen),
            "names": [form for n in dict.fromkeys((name, file.place, alias)) if n for form in dict.fromkeys((n, escape_name(n)))],
            "weight": files.weight(said.get("preferred weight")),
            "text": str(said.get("activation text") or ""),
            "negative": str(said.get("negative text") or ""),
        }

    def _cover(self, name: str, facts: files.NetworkFacts) -> str | None:
        """Return the address of the image inside the file, if it holds one."""
        return f"{COVER_ADDRESS}?page={quote(self.name)}&item={quote(name)}" if facts.cover else None

    def read_user_metadata(self, item: dict[str, Any], use_cache: bool = True) -> None:
        """Read `<file>.json`; one that is no table counts as empty, so that it cannot take the page down."""
        found = extra_networks.get_user_metadata(item["filename"], lister=self.lister if use_cache else None)
        item["user_metadata"] = files.showable(found) if isinstance(found, dict) else {}
        if item["user_metadata"].get("description") is not None:
            item["description"] = str(item["user_metadata"]["description"])

    def create_user_metadata_editor(self, ui: Any, tabname: str) -> Editor:
        """Return the form behind a card's tool button."""
        return Editor(ui, tabname, self)

    def create_item_html(self, tabname: str, item: dict[str, Any], template: str | None = None) -> Any:
        """Draw one card, or return its parts for the tree when there is no template."""
        safe = {**item, "filename": html.escape(item["filename"])}
        safe["onclick"] = html.escape(f"lycorisCardClicked({json.dumps(tabname)}, {json.dumps(item['click'])})")
        parts = super().create_item_html(tabname, safe)
        if not parts:
            return parts  # in a hidden folder, and the settings say to leave those out
        parts["background_image"] += _badge(item)
        return template.format(**parts) if template else parts

    def create_tree_file_item_html(self, tabname: str, file_path: str, item: dict[str, Any]) -> str:
        """Draw one file of the tree."""
        safe = {**item, "name": html.escape(item["name"]), "shorthash": html.escape(item["shorthash"])}
        text: str = super().create_tree_file_item_html(tabname, html.escape(file_path), safe)
        return text

    def create_tree_dir_item_html(self, tabname: str, dir_path: str, content: str | None = None) -> str | None:
        """Draw one folder of the tree."""
        text: str | None = super().create_tree_dir_item_html(tabname, html.escape(dir_path), content)
        return text

    def create_card_view_html(self, tabname: str, *, none_message: str | None) -> str:
        """Draw all cards; where all are hidden, without the webui's words that there is no file, which the note above would contradict."""
        text: str = super().create_card_view_html(tabname, none_message=none_message or (" " if self.hidden else None))
        return text

    def create_html(self, tabname: str, **options: Any) -> str:
        """Draw the page; above the cards, whose place the webui's script clears, stands how many are not shown and why."""
        text: str = super().create_html(tabname, **options)
        if not self.hidden or options.get("empty"):
            return text
        return f"<p class='lycoris-note'>{self._hidden_note()}</p>{text}"

    def _hidden_note(self) -> str:
        made = "network is not shown because it was" if self.hidden == 1 else "networks are not shown because they were"
        return (
            f"{self.hidden} {made} not made for the kind of checkpoint that is selected ({loaded_version()}). "
            'To see all, switch on "Always show all networks" in Settings, LyCORIS.'
        )


def _badge(item: dict[str, Any]) -> str:
    """Return the words in a card's corner: algorithm and base model, or why the file cannot be read."""
    if item["broken"]:
        reason = html.escape(item["broken"])
        return f'<span class="lycoris-badge lycoris-broken">cannot be read</span><span class="lycoris-reason">{reason}</span>'
    return f'<span class="lycoris-badge">{html.escape(item["label"])}</span>' if item["label"] else ""


def _usable(alias: str, file: NetworkFile) -> bool:
    """Say whether a tag can use the alias and means this file by it."""
    if not alias or not _writable(alias):
        return False
    try:
        return files.library().find(alias).path == file.path
    except HostError:
        return False


def _writable(name: str) -> bool:
    """Say whether a name can stand in a tag as it is."""
    return not any(mark in name for mark in ":<>\n")


def loaded_version() -> str | None:
    """Return the kind of the checkpoint in use in the words of VERSIONS; None where it cannot be told."""
    return files.VERSIONS.get(files.family_in_use() or "")


def suits(version: str, loaded: str | None) -> bool:
    """Say whether a card is shown: its network is for the loaded base model, or the settings ask for more."""
    if getattr(shared.opts, "lyco_show_all", False) or loaded is None:
        return True
    if version == files.UNKNOWN:
        return loaded not in (getattr(shared.opts, "lyco_hide_unknown_for_versions", None) or ())
    return version == loaded
