"""Networks, notes, folders and a preset that are HTML, in a real webui: nothing of them is executed on our cards, form and tab.

Without the webui's built-in loader, whose own page takes names of files as HTML; so in the webuis whose loader is the extension `Lora`. The
webui's own script ends in an error where a card is drawn anew after *Save* and its name has a quotation mark: that is done with a name
that has none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from lib_lycoris.prompt import escape_name
from lib_lycoris.ui.pages import PAGES
from tests.ui.test_app import READY, choose
from tests.webui.sample_networks import EVIL, HOSTILE, write_hostile
from tests.webui.server import WebUI, make_checkpoints
from tests.webui.test_webui_browser import CARDS, PROMPT, context, page, prompts, show, shown
from tests.webui.test_webui_person import Person
from tests.webui.test_webui_tab import CHECKPOINT, merge, open_page, wait_until_says

pytestmark = [pytest.mark.webui, pytest.mark.browser, pytest.mark.new_set, pytest.mark.only_in("a1111", "reforge")]
FORM, POPUP = "#txt2img_lycoris_edit_user_metadata", ".global-popup-inner"
assert context and page  # fixtures


@pytest.fixture(scope="module")
def webui(webui_dir: Path, webui_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    folder = tmp_path_factory.mktemp("hostile")
    make_checkpoints(webui_dir, Path(webui_python), folder / "models", "sd1")
    server = WebUI(
        webui_dir, Path(webui_python), models=folder / "models", data=folder / "data", flags=["--gradio-allowed-path", str(webui_dir)],
        options={"disabled_extensions": ["Lora"]},
    )  # fmt: skip
    write_hostile(server.lyco_dir)
    (server.data / "lycoris").mkdir(parents=True)
    (server.data / "lycoris" / "lbwpresets.txt").write_text(f"{HOSTILE}:{','.join(['0.5'] * 17)}\n", encoding="utf-8")
    with server:
        yield server


def asked(source: Any) -> list[str]:
    """Return what a page, or a whole browser, asks for from now on: an image asks also where its element is gone at once."""
    paths: list[str] = []
    source.on("request", lambda request: paths.append(urlsplit(request.url).path))
    return paths


def check(page: Any, paths: list[str]) -> None:
    """Look a moment later: an image that is none says so when the answer is there."""
    page.wait_for_timeout(1000)
    assert page.evaluate("window.HACKED === undefined && !document.querySelector('img[src=x]')")
    assert paths and "/x" not in paths


@pytest.fixture
def paths(context: Any) -> list[str]:
    return asked(context)


@pytest.fixture
def opened(paths: list[str], page: Any) -> Iterator[Any]:
    """A page whose browser is listened to from the beginning, and which is looked at when the test is at its end."""
    yield page
    check(page, paths)


def card_of(name: str) -> str:
    return f"{CARDS}[data-name={json.dumps(name)}]"


@pytest.mark.parametrize("style", ["Tree", "Dirs"])
def test_cards_and_folders(opened: Any, webui: WebUI, style: str) -> None:
    place = f"#txt2img_lycoris_{style.lower()}"
    webui.options(extra_networks_tree_view_style=style)
    opened.locator("#txt2img_lycoris_extra_refresh").first.click()
    opened.wait_for_selector(place, state="attached")
    opened.wait_for_function(f"document.querySelector({place!r}).textContent.includes({json.dumps(HOSTILE)})")
    assert shown(opened) == sorted([EVIL, HOSTILE])
    assert HOSTILE in opened.inner_text(f"{card_of(EVIL)} .description") and HOSTILE in opened.inner_text(f"{card_of(HOSTILE)} .name")


@pytest.mark.parametrize("name", [EVIL, HOSTILE])
def test_a_click_on_a_card(opened: Any, name: str) -> None:
    opened.fill(PROMPT, "")
    opened.click(card_of(name))
    assert prompts(opened) == (f"<lyco:{escape_name(name)}:1> {HOSTILE}", HOSTILE)
    opened.click(card_of(name))
    assert prompts(opened) == ("", "")


@pytest.mark.parametrize("name", [EVIL, HOSTILE])
def test_the_form(opened: Any, name: str) -> None:
    form, card = opened.locator(FORM), card_of(name)
    opened.hover(card)
    opened.click(f"{card} .edit-button")
    form.get_by_label("Activation text").wait_for()
    wait_until_says(opened, FORM, f"{HOSTILE}/{name}.safetensors")
    texts = [form.get_by_label(label).input_value() for label in ("Description", "Activation text", "Negative prompt", "Notes")]
    assert texts == [HOSTILE] * 4 and HOSTILE in opened.inner_text(f"{FORM} .lycoris-tags")
    if name == EVIL:
        opened.eval_on_selector(card, "card => card.dataset.old = 1")
        form.get_by_role("button", name="Save").click()
        opened.wait_for_selector(f"{card}:not([data-old])")


def test_the_metadata_of_a_file(opened: Any) -> None:
    opened.hover(card_of(HOSTILE))
    opened.click(f"{card_of(HOSTILE)} .metadata-button")
    opened.wait_for_selector(POPUP)
    wait_until_says(opened, POPUP, "ss_output_name")
    assert HOSTILE in opened.inner_text(POPUP)


def test_an_image_and_what_is_said_below_it(webui: WebUI, context: Any, paths: list[str]) -> None:
    """On a page of its own: making an image, the webui's own scripts raise something now and then."""
    person = Person(webui, context.new_page())
    person.open()
    gone = escape_name(f"gone {HOSTILE}")
    made = person.make(f"<lyco:{escape_name(HOSTILE)}:0.5> <lyco:{gone}:1> {HOSTILE}")
    assert f'there is no network called "{gone}"' in made.below and HOSTILE in person.page.inner_text("#html_info_txt2img")
    check(person.page, paths)
    person.page.close()


def test_the_pages_of_the_tab(opened: Any) -> None:
    show(opened, '#tabs > .tab-nav button:has-text("LyCORIS")', "#lyco_tabs")
    opened.wait_for_selector(READY, state="attached")
    wait_until_says(opened, "#lyco_networks_cards", HOSTILE)
    opened.locator("[data-lyco-pick]", has_text=HOSTILE).click()
    wait_until_says(opened, "#lyco_networks_told", HOSTILE)
    open_page(opened, "Merge")
    merge(opened, CHECKPOINT, HOSTILE, "made")
    open_page(opened, "Inspect")
    choose(opened, "#lyco_inspect_model", HOSTILE)
    wait_until_says(opened, "#lyco_inspect_found", HOSTILE)
    open_page(opened, "Block weight")
    choose(opened, "#lyco_blocks_network", HOSTILE)
    opened.click("#lyco_blocks_preset input")
    opened.wait_for_selector("#lyco_blocks_preset ul li")
    assert HOSTILE in opened.inner_text("#lyco_blocks_preset ul")
    for label, name, _ in PAGES:
        open_page(opened, label)
        opened.wait_for_function(f"document.querySelector('#lyco_tab_{name}').innerText.trim().length > 50")
    wait_until_says(opened, "#lyco_results_list", "made")


def test_what_is_executed_would_be_seen(opened: Any, paths: list[str]) -> None:
    """The checks above are worth something: the same texts, put into a page as HTML, are found by each of them."""
    opened.evaluate("text => { document.createElement('p').innerHTML = text; }", HOSTILE)
    opened.wait_for_function("window.HACKED === 1")
    assert "/x" in paths
    with pytest.raises(AssertionError):
        check(opened, paths)
    opened.evaluate("delete window.HACKED")
    paths[:] = [path for path in paths if path != "/x"]
