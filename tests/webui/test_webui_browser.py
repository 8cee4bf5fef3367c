"""The LyCORIS page, its form, the settings and pasted texts in a real webui, driven by a headless browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.webui.sample_networks import write_samples, write_traps
from tests.webui.server import WebUI, make_checkpoints

pytestmark = [pytest.mark.webui, pytest.mark.browser, pytest.mark.new_set]

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PROMPT, NEGATIVE = "#txt2img_prompt textarea", "#txt2img_neg_prompt textarea"
CARDS = "#txt2img_lycoris_cards .card"
CAT = f'{CARDS}[data-name="cat-style"]'
SEARCH = "#txt2img_lycoris_extra_search"


@pytest.fixture(scope="module", params=["with the built-in loader", "without it"])
def webui(request: pytest.FixtureRequest, webui_dir: Path, webui_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    folder = tmp_path_factory.mktemp("browser")
    make_checkpoints(webui_dir, Path(webui_python), folder / "models", "sd1")
    alone = request.param == "without it"
    # the webui is not started in its own folder, from which it could give its scripts to the browser without being told to
    flags = ["--gradio-allowed-path", str(webui_dir)]
    server = WebUI(
        webui_dir, Path(webui_python), models=folder / "models", data=folder / "data", flags=flags,
        options={"disabled_extensions": ["Lora"] if alone else []},
    )  # fmt: skip
    write_samples(server.lyco_dir)
    if alone:
        write_traps(server.lyco_dir)
    with server:
        yield server


@pytest.fixture(scope="module")
def context(browser_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        profile = str(tmp_path_factory.mktemp("profile"))
        size: Any = {"width": 1400, "height": 1000}
        opened = driver.chromium.launch_persistent_context(
            profile, executable_path=browser_path, headless=True, args=list(FLAGS), viewport=size
        )
        opened.set_default_timeout(240_000)  # a busy machine takes a while to draw the whole webui
        yield opened
        opened.close()


@pytest.fixture
def page(webui: WebUI, context: Any) -> Iterator[Any]:
    """Open the LyCORIS tab of txt2img with its cards; whatever a script on the page raises fails the test."""
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(webui.url, wait_until="domcontentloaded")
    show(opened, "#txt2img_extra_tabs > .tab-nav >> text=LyCORIS", CARDS)
    opened.wait_for_function(f"extraNetworksApplyFilter['txt2img_lycoris'] && document.querySelector({SEARCH!r})")
    yield opened
    opened.close()
    assert not errors


def show(page: Any, tab: str, content: str) -> None:
    """Click a tab until what is in it can be seen: a click on a page that Gradio is still building is lost."""
    from playwright.sync_api import TimeoutError as NotYet

    for _ in range(20):
        page.click(tab)
        try:
            page.wait_for_selector(content, timeout=12_000)
            return
        except NotYet:
            continue
    page.wait_for_selector(content)


def prompts(page: Any) -> tuple[str, str]:
    """Return the prompt and the negative prompt."""
    return page.input_value(PROMPT), page.input_value(NEGATIVE)


def shown(page: Any) -> list[str]:
    """Return the names on the cards that can be seen."""
    found: list[str] = page.eval_on_selector_all(CARDS, "all => all.filter(c => c.offsetParent).map(c => c.dataset.name)")
    return sorted(found)


def test_cards_are_those_for_the_checkpoint_and_nothing_in_a_file_becomes_part_of_the_page(page: Any) -> None:
    assert set(shown(page)) - {"trap"} == {"broken", "cat-style", "odd & 'name'", "plain"}
    assert "1 network is not shown" in page.inner_text("#txt2img_lycoris .lycoris-note")
    assert "Cats in ink & wash" in page.inner_text(CAT) and "LoRA, SD1" in page.inner_text(CAT)
    assert "cat-style.preview.png" in page.get_attribute(f"{CAT} img.preview", "src")
    assert "cannot be read" in page.inner_text(f'{CARDS}[data-name="broken"]')
    assert page.evaluate("window.HACKED") is None


def test_a_click_puts_the_tag_in_and_a_second_one_takes_it_out(page: Any) -> None:
    page.fill(PROMPT, "a cat")
    page.click(CAT)
    assert prompts(page) == ("a cat <lyco:cat-style:0.8> inkcat, wash", "blurry")
    page.click(CAT)
    assert prompts(page) == ("a cat", "")


@pytest.mark.parametrize(
    "before, after",
    [
        ("a <lyco:cat-style:-0.5:lbw=MIDD> b", "a b"),
        ("a <lyco:Cat Style v2:1:0.5:lbw=1,0,0,0,0,0,0,0,0,0,0,0:start=3>", "a"),
        ("x <lyco:cat-style:0@0,1@1:hr=2> y <lyco:CAT-STYLE:1>", "x y"),
        ("<lyco:cat-style>", ""),
        ("<lora:cat-style:1> <lyco:cat-style-2:1> <lyco:cat-style:1>", "<lora:cat-style:1> <lyco:cat-style-2:1>"),
    ],
)
def test_the_second_click_takes_out_whatever_was_added_to_the_tag(page: Any, before: str, after: str) -> None:
    page.fill(PROMPT, before)
    page.click(CAT)
    assert prompts(page)[0] == after


def test_search_finds_by_what_is_in_the_file_and_in_the_notes(page: Any) -> None:
    for text in ("orange fur", "abababab", "cat style v2", "toy.ckpt", "ink & wash", "inkcat"):
        page.fill(SEARCH, text)
        page.wait_for_timeout(100)
        assert shown(page) == ["cat-style"], text
    page.fill(SEARCH, "sub/")
    page.wait_for_timeout(100)
    assert shown(page) == ["odd & 'name'"]


def test_the_form_writes_the_notes_and_keeps_what_it_does_not_know(page: Any, webui: WebUI) -> None:
    path = webui.lyco_dir / "cat-style.json"
    before = path.read_text()
    form = page.locator("#txt2img_lycoris_edit_user_metadata")
    page.hover(CAT)
    page.click(f"{CAT} .edit-button")
    form.get_by_label("Activation text").wait_for()
    page.wait_for_function("document.querySelector('#txt2img_lycoris_edit_user_metadata').innerText.includes('toy.ckpt')")
    assert form.get_by_label("Activation text").input_value() == "inkcat, wash"
    form.get_by_text("orange fur", exact=True).click()
    page.wait_for_timeout(1500)
    assert form.get_by_label("Activation text").input_value() == "inkcat, wash, orange fur"
    form.get_by_label("Notes").fill("two\nlines")
    form.get_by_role("button", name="Save").click()
    form.wait_for(state="hidden")
    found = json.loads(path.read_text())
    path.write_text(before)
    assert found == {
        "description": "Cats in ink & wash", "activation text": "inkcat, wash, orange fur", "preferred weight": 0.8,
        "negative text": "blurry", "mine": "kept", "sd version": "SD1", "notes": "two\nlines",
    }  # fmt: skip


def test_a_pasted_text_finds_the_file_by_its_hash(page: Any) -> None:
    text = (
        "a <lyco:renamed:0.5:lbw=MIDD> b <lora:renamed:1> <lyco:plain:1>\nSteps: 4, Sampler: Euler, CFG scale: 5, Seed: 1, Size: 64x64, "
        'Lyco hashes: "renamed: abababababab, plain: 000000000000"'
    )
    page.fill(PROMPT, text)
    page.click("#paste")
    page.wait_for_function(f"!document.querySelector({PROMPT!r}).value.includes('Steps')")
    assert prompts(page)[0] == "a <lyco:cat-style:0.5:lbw=MIDD> b <lora:renamed:1> <lyco:plain:1>"


def test_all_networks_are_shown_when_the_settings_ask_for_it(page: Any, webui: WebUI) -> None:
    webui.options(lyco_show_all=True)
    try:
        page.locator("#txt2img_lycoris_extra_refresh").first.click()
        page.wait_for_selector(f'{CARDS}[data-name="large"]')
        assert not page.query_selector("#txt2img_lycoris .lycoris-note")
    finally:
        webui.options(lyco_show_all=False)


def test_the_settings_have_a_section_of_ours(page: Any) -> None:
    page.click("#tabs > .tab-nav >> text=Settings")
    page.click("#settings > .tab-nav >> text=LyCORIS")
    words = page.inner_text("#settings_lycoris")
    assert "How networks are applied" in words and "Always show all networks" in words
