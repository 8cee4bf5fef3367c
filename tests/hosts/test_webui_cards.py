"""The page of cards without a webui: which networks it shows, and what it says of the others."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lib_lycoris.hosts.library.library import Library
from lib_lycoris.hosts.webui.interface import card_files
from tests.webui.sample_networks import SDXL, write_network

OURS = [f"lib_lycoris.hosts.webui.interface.{name}" for name in ("cards", "card_editor")]
NO_CARDS = "Nothing here."


class HostsPage:
    """What our page takes from the webui's."""

    def __init__(self, title: str) -> None:
        self.title, self.items, self.lister = title, {}, None

    def search_terms_from_path(self, filename: str) -> str:
        return filename

    def find_preview(self, path: str) -> None: ...

    def find_description(self, path: str) -> None: ...

    def get_sort_keys(self, path: str) -> dict[str, Any]:
        return {}

    def create_card_view_html(self, tabname: str, *, none_message: str | None) -> str:
        return "".join(self.items) or none_message or NO_CARDS

    def create_html(self, tabname: str, *, empty: bool = False) -> str:
        self.items = {item["name"]: item for item in ([] if empty else self.list_items())}  # type: ignore[attr-defined] # ours has it
        return f"<div>{self.create_card_view_html(tabname, none_message='Loading...' if empty else None)}</div>"


def notes_beside(filename: str, lister: object) -> Any:
    path = Path(filename).with_suffix(".json")
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Our page in a webui with an SD1 checkpoint and one network for SDXL."""
    contents: dict[str, dict[str, Any]] = {
        "modules": {"__path__": []},
        "modules.shared": {"opts": SimpleNamespace(samples_format="png"), "gr": None},
        "modules.sysinfo": {},
        "modules.hashes": {"sha256_from_cache": lambda *_, **__: None},
        "modules.extra_networks": {"get_user_metadata": notes_beside},
        "modules.ui_extra_networks": {"ExtraNetworksPage": HostsPage},
        "modules.ui_extra_networks_user_metadata": {"UserMetadataEditor": object},
    }
    for name, content in contents.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
        if "." in name:
            setattr(sys.modules["modules"], name.split(".")[1], module)
    write_network(tmp_path / "large.safetensors", SDXL)
    library = Library([tmp_path])
    monkeypatch.setattr(card_files, "library", lambda: library)
    monkeypatch.setattr(card_files, "family_in_use", lambda: "sd1")
    yield importlib.import_module(OURS[0]).Page()
    for name in OURS:
        sys.modules.pop(name, None)


def test_where_all_networks_are_hidden_the_page_says_so_above_the_place_that_the_webuis_script_clears(page: Any) -> None:
    text = page.create_html("txt2img")
    assert text.startswith("<p class='lycoris-note'>1 network is not shown because it was not made for") and "(SD1)" in text
    assert NO_CARDS not in text and not page.items


def test_a_word_that_is_no_kind_of_checkpoint_hides_no_network(page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As reForge's form writes PonyXL, and people what they like: such a card was hidden from every checkpoint."""
    write_network(tmp_path / "mine.safetensors")
    page.refresh()
    for word in ("PonyXL", "<b>", ["SD1"], "SD1", "Unknown", "SDXL"):
        (tmp_path / "mine.json").write_text(json.dumps({"sd version": word}))
        page.create_html("txt2img")
        assert list(page.items) == ([] if word == "SDXL" else ["mine"]), word
    (tmp_path / "large.json").write_text('{"sd version": "PonyXL"}')
    assert "large" not in page.create_html("txt2img")
    monkeypatch.setattr(card_files, "family_in_use", lambda: "sdxl")
    page.create_html("txt2img")
    assert "ponyxl" in " ".join(page.items["large"]["search_terms"]).lower()
