"""The page Networks without a browser: what is found, in which order, the cards' HTML, notes, and the way to other pages."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from lib_lycoris.hosts.embedded.files import open_store
from lib_lycoris.hosts.embedded.host import EmbeddedHost
from lib_lycoris.hosts.library.cards import LibraryCards
from lib_lycoris.hosts.protocol import NetworkCard
from lib_lycoris.tools.jobs.queue import Jobs
from lib_lycoris.ui.context import PageContext
from lib_lycoris.ui.events import tab_of
from lib_lycoris.ui.pages import PAGES
from lib_lycoris.ui.pages.networks import NetworksPage
from lib_lycoris.ui.parts.card_list import SHOWN, Wanted, cards_html, found, options_of
from lib_lycoris.ui.settings import Settings

ONE = NetworkCard("Red hat", Path("a"), "sub", "SD1", ("LoRA",), (("hat", 3),), ("redhat",), size=10_000_000, changed=1.0)
TWO = NetworkCard("blue", Path("b"), "", "SDXL", ("LoKr",), size=20_000_000, changed=2.0, favourite=True, notes="for the sky", content="x")
SAME = replace(TWO, name="blue-copy", favourite=False, preferred=0.6)
EVIL = NetworkCard("<img src=x onerror=1>", Path("c"), base="Unknown", triggers=('"><script>',), broken="<b>")
CARDS = [ONE, TWO, SAME, EVIL]


@pytest.mark.parametrize(
    "wanted, names",
    [
        ({"search": "HAT"}, ["Red hat"]), ({"search": "sky"}, ["blue", "blue-copy"]), ({"search": "redhat red"}, ["Red hat"]),
        ({"base": "SDXL"}, ["blue", "blue-copy"]), ({"algorithm": "LoRA"}, ["Red hat"]), ({"folder": "sub"}, ["Red hat"]),
        ({"folder": "(top)", "sort": "largest first"}, ["blue", "blue-copy", EVIL.name]), ({"tag": "ha"}, ["Red hat"]),
        ({"only": "favourites"}, ["blue"]), ({"only": "duplicates"}, ["blue", "blue-copy"]),
        ({"only": "files with a problem"}, [EVIL.name]),
        ({"only": "what fits the loaded model", "loaded": "SD1"}, [EVIL.name, "Red hat"]),
        ({"sort": "newest first", "search": "blue"}, ["blue", "blue-copy"]),
        ({"sort": "favourites first", "base": "SDXL"}, ["blue", "blue-copy"]),
        ({"search": "nothing"}, []),
    ],
)  # fmt: skip
def test_cards_are_found_by_what_they_say(wanted: dict[str, Any], names: list[str]) -> None:
    assert [card.name for card in found(CARDS, Wanted(**wanted))] == names


def test_a_leaf_shows_marks_and_escapes_what_files_say() -> None:
    shown = cards_html(CARDS, 4, 0, 0, ["blue"], Wanted(loaded="SD1"), "Generate")
    assert "<img" not in shown and "<script" not in shown and "<b>" not in shown
    assert shown.count("for SDXL") == 2 and shown.count(">duplicate<") == 2 and "cannot be read" in shown and "★ blue" in shown
    assert shown.count('aria-pressed="true"') == 1 and 'data-lyco-send="&lt;lyco:blue-copy:0.6&gt;"' in shown
    assert 'data-lyco-send="redhat"' in shown and "data-lyco-copy" in cards_html([ONE], 1, 0, 0, [], Wanted(), "")
    assert options_of(CARDS) == (["any", "SD1", "SDXL", "Unknown"], ["any", "LoKr", "LoRA"], ["any", "(top)", "sub"])
    assert "No network file" in cards_html([], 0, 0, 0, [], Wanted(), "")


def test_a_card_whose_file_tells_no_base_model_says_whether_it_fits_the_loaded_one() -> None:
    told = replace(EVIL, name="odd", broken="")
    for fits, said, kept in ((True, "fits the loaded model", ["odd"]), (False, "not for the loaded model", [])):
        wanted = Wanted(loaded="SD1", fits=lambda _, fits=fits: fits, only="what fits the loaded model")
        assert said in cards_html([told], 1, 0, 0, [], wanted, "") and [card.name for card in found([told], wanted)] == kept
    assert "loaded model" not in cards_html([told], 1, 0, 0, [], Wanted(), "")


def test_a_word_that_is_no_base_model_says_nothing_of_what_a_network_fits() -> None:
    named = replace(ONE, base="PonyXL")
    assert not Wanted(loaded="SDXL").is_for_another(named) and Wanted(loaded="SDXL", fits=lambda _: False).is_for_another(named)
    assert options_of([named])[0] == ["any", "PonyXL"]


@pytest.fixture
def page(tmp_path: Path) -> NetworksPage:
    host = EmbeddedHost.open(device="cpu", data=tmp_path)
    context = PageContext(open_store(host, None, None, tmp_path), Jobs(), host, Settings(None), "Generate")
    context.networks = LibraryCards(lambda: host.library)
    pages = {}
    with gr.Blocks(analytics_enabled=False) as blocks:
        for label, _, made in PAGES:
            with gr.Tab(label):
                pages[label] = made(context)
                pages[label].build()
        context.finish(blocks)
    found: NetworksPage = pages["Networks"]
    return found


def test_the_cards_come_by_themselves_also_where_the_page_is_the_first(page: NetworksPage) -> None:
    """As in the webui: the first tab is never selected by anybody, and the page said that it reads the files until one left it."""
    root = tab_of(page.form).parent.parent
    shows = [event for event in root.get_config_file()["dependencies"] if page.cards._id in event["outputs"]]
    triggers = [event.get("trigger") or event["targets"][0][1] for event in shows]
    assert {"load", "select"} <= set(triggers)


FIELDS = ("", "any", "any", "any", "", "by name", "everything")


def test_the_page_shows_notes_and_saves_them_for_the_webui_too(page: NetworksPage, tmp_path: Path) -> None:
    (tmp_path / "networks" / "mine.safetensors").write_bytes((page.context.store.networks()[0].path).read_bytes())
    Image.new("RGB", (600, 400), "red").save(tmp_path / "networks" / "mine.png")
    cards, leaf, before, after, bases, *_ = page.look_again("[]", 0, *FIELDS)
    assert (leaf, before["visible"], after["visible"]) == (0, False, False)  # one page: nothing to turn
    assert "SD1" in bases["choices"] and 'src="data:image/jpeg;base64,' in cards["value"] and "duplicate" in cards["value"]
    picked = json.dumps(["demo-lora", "mine"])
    assert "Saved in mine.json" in page.keep(picked, True, 0.7, "hat, red", "good")["value"]
    said = json.loads((tmp_path / "networks" / "mine.json").read_text())
    assert said == {"lycoris favourite": True, "preferred weight": 0.7, "activation text": "hat, red", "notes": "good"}
    form, favourite, preferred, triggers, text, told = page.described(picked)
    assert (favourite["value"], preferred["value"], triggers["value"], text["value"]) == (True, 0.7, "hat, red", "good")
    assert form["visible"] and "2 cards are chosen. Notes of mine:" in told["value"]
    assert "a number is missing" in page.keep(picked, True, None, "", "")["value"]
    assert "no card is chosen" in page.keep("nonsense", True, 1, "", "")["value"]


def test_chosen_networks_go_to_the_other_pages(page: NetworksPage) -> None:
    picked = '["demo-lora", "demo-loha"]'
    receivers = page.context.receivers
    rows, _, _ = page._sender("Merge", receivers["Merge"])(picked, '[["demo-oft", "0.5", "", "", ""]]')
    assert [row[0] for row in json.loads(rows["value"])] == ["demo-oft", "demo-lora", "demo-loha"]
    assert page._sender("Compare", receivers["Compare"])(picked)[0]["value"] == ["demo-lora", "demo-loha"]
    for name in ("Resize", "Convert"):
        assert page._sender(name, receivers[name])('["demo-lora"]')[0]["value"] == "demo-lora"
        chosen, said = page._sender(name, receivers[name])(picked)
        assert "value" not in chosen and f"{name} takes one network at a time, and 2 are chosen" in said["value"]
        chosen, said = page._sender(name, receivers[name])("[]")
        assert "value" not in chosen and "No card is chosen" in said["value"]


def test_leaves_are_turned_and_5000_cards_are_quick(page: NetworksPage, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [replace(ONE, name=f"n{number:04}") for number in range(5000)]
    monkeypatch.setattr(LibraryCards, "cards", lambda _: many)
    began = time.process_time()
    cards, leaf, *buttons = page.turned(1)("[]", 0, *FIELDS)
    assert time.process_time() - began < 0.5
    assert leaf == 1 and f"n{SHOWN:04}" in cards["value"] and "n0000" not in cards["value"] and "page 2 of 209" in cards["value"]
    assert [button["visible"] for button in buttons] == [True, True]
    assert page.turned(1)("[]", 208, *FIELDS)[1] == 208 and page.turned(-1)("[]", 0, *FIELDS)[1] == 0
    assert len(cards["value"]) < 40_000
