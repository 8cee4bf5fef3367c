"""Every page of the app in a real browser: read by axe, worked by keys alone, with 5,000 files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lib_lycoris.demo import CHECKPOINT
from tests.browser.test_pages import PALE, app, driver, go_to, page, write  # noqa: F401 - three are fixtures
from tests.ui.test_app import READY, running_app, wait_until_says

pytestmark = [pytest.mark.browser, pytest.mark.new_set]

MANY = 5000
LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
OF_GRADIO = {  # docs/app.md names them
    ("aria-prohibited-attr", '<div class="empty'),  # an empty gallery is a div with a label
    ("meta-viewport", '<meta name="viewport"'),  # Gradio 3 keeps a phone from enlarging the page
}
OPEN_ALL = """() => document.querySelectorAll('#lyco_page .label-wrap:not(.open)').forEach((one) => {
    if (one.getClientRects().length) one.click(); })"""


def violations(page: Any, options: dict[str, Any]) -> list[tuple[str, str]]:  # noqa: F811 - the fixture's value
    """Return what axe finds on a page whose hidden parts are opened, but for what Gradio itself does."""
    page.evaluate(OPEN_ALL)
    for _ in range(20):  # what is being worked on is pale for a moment
        page.wait_for_timeout(300)
        found = page.evaluate("(options) => axe.run(document, options)", options)["violations"]
        pairs = [(one["id"], node["html"]) for one in found for node in one["nodes"]]
        ours = [(name, html) for name, html in pairs if not any(name == known and html.startswith(start) for known, start in OF_GRADIO)]
        if not ours:
            break
    return ours


FEW, ALL = 3, 99  # forms of a page that are read: those made of a declaration alone have the same parts


@pytest.mark.parametrize(
    "theme, forms", [("light", FEW), ("dark", FEW), *(pytest.param(theme, ALL, marks=pytest.mark.long) for theme in ("light", "dark"))]
)
def test_axe_finds_nothing_on_any_page(page: Any, app: str, theme: str, forms: int) -> None:  # noqa: F811
    if theme == "dark":
        page.goto(f"{app}/?__theme=dark", wait_until="domcontentloaded")
        page.wait_for_selector(READY, state="attached")
    from axe_playwright_python.sync_playwright import Axe

    page.evaluate(Axe().axe_script)
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if theme == "dark":  # the other rules look at no colour
        options["runOnly"] = ["color-contrast"]
    tabs = page.locator("#lyco_tabs > .tab-nav button")
    for number in range(tabs.count()):
        tabs.nth(number).click()
        page.wait_for_timeout(300)
        inner = page.locator("#lyco_page .tabitem .tab-nav button:visible")
        for place in range(max(1, min(forms, inner.count()))):
            if inner.count():
                inner.nth(place).click()
            assert violations(page, options) == [], (tabs.nth(number).inner_text(), place)
            assert page.evaluate(PALE) == [], tabs.nth(number).inner_text()  # axe passes over colours that run into each other


def test_the_keyboard_alone_merges_and_sets_a_block(page: Any) -> None:  # noqa: F811
    page.focus("#lyco_tabs > .tab-nav button >> text=Merge")
    page.keyboard.press("Enter")
    page.wait_for_function(f"document.querySelector('#lyco_merge_checkpoint input').value === '{CHECKPOINT.name}'")
    for _ in range(10):  # the list may come while the name is typed
        page.focus("#lyco_merge_add input")
        page.wait_for_timeout(300)
        page.keyboard.type("demo-lokr")
        page.keyboard.press("Enter")
        page.wait_for_timeout(500)
        if page.locator("#lyco_merge_row0_strength").count():
            break
        page.evaluate("document.activeElement.blur()")
    page.focus("#lyco_merge_row0_strength")
    page.keyboard.press("ArrowDown")
    assert page.input_value("#lyco_merge_row0_strength") == "0.95"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "lyco_merge_row0_te"
    page.wait_for_function("JSON.parse(document.querySelector('#lyco_merge_rows :is(textarea, input)').value)[0][1] === '0.95'")
    page.keyboard.press("Control+Enter")
    wait_until_says(page, "#lyco_merge_progress", "Done in")
    assert page.evaluate("document.activeElement !== document.body")
    wait_until_says(page, "#lyco_live", "Done in")
    page.focus("#lyco_tabs > .tab-nav button >> text=Block weight")
    page.keyboard.press("Enter")
    page.focus("#lyco_blocks_picture input[type=range] >> nth=0")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Home")
    page.wait_for_function("document.querySelector('#lyco_blocks_values textarea').value.startsWith('1,-1,')")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.type") == "range"  # one stop a block


def with_many(data: Path) -> Path:
    """Put 5,000 networks into a data folder: one small file with other numbers each time."""
    (data / "networks").mkdir()
    first = data / "networks" / "style0000.safetensors"
    tensors = {f"{LAYER}.lora_up.weight": torch.zeros(320, 1), f"{LAYER}.lora_down.weight": torch.ones(1, 320)}
    save_file(tensors, first, {"ss_base_model_version": "sd_v1"})
    whole = first.read_bytes()
    for number in range(1, MANY):
        (data / "networks" / f"style{number:04}.safetensors").write_bytes(whole[:-4] + number.to_bytes(4, "little"))
    return data


def test_a_stack_comes_back_on_a_second_data_folder_with_5000_networks(page: Any, driver: Any, tmp_path: Path) -> None:  # noqa: F811
    write(page, "#lyco_prompt", "a red circle <lyco:demo-lokr:0.7:0.4>")
    page.click("#lyco_stacks .label-wrap")
    page.click("#lyco_stack_save")
    wait_until_says(page, "#lyco_stack_told", "The text above can be shared.")
    text = page.input_value("#lyco_stack_text textarea")
    assert json.loads(text)["networks"][0]["tag"] == "<lyco:demo-lokr:0.7:0.4>"
    with running_app(with_many(tmp_path)) as other:
        context = driver.new_context(viewport={"width": 1366, "height": 900})
        second = context.new_page()
        second.set_default_timeout(60_000)
        second.goto(other, wait_until="domcontentloaded")
        second.wait_for_selector(READY, state="attached")
        second.click("#lyco_stacks .label-wrap")
        write(second, "#lyco_stack_text", text)
        second.click("#lyco_stack_use")
        wait_until_says(second, "#lyco_stack_told", "In the prompt: 1 of 1 network.")
        assert second.input_value("#lyco_prompt textarea") == "<lyco:demo-lokr:0.7:0.4>"
        many_are_searched(second)
        context.close()


def many_are_searched(page: Any) -> None:  # noqa: F811
    """Search 5,000 networks, write a note to the one that is found, send its words to the prompt and it to Merge."""
    go_to(page, "Networks")
    page.wait_for_function("document.querySelectorAll('.lyco_card').length === 24", timeout=120_000)
    write(page, "#lyco_networks_search", "style4999")
    page.wait_for_function("document.querySelectorAll('.lyco_card').length === 1")
    page.click("[data-lyco-pick]")
    page.wait_for_selector("#lyco_networks_text", state="visible")
    write(page, "#lyco_networks_triggers", "red hat")
    write(page, "#lyco_networks_text", "good")
    page.click("#lyco_networks_save")
    wait_until_says(page, "#lyco_networks_told", "Saved in style4999.json")
    page.click('[data-lyco-send="red hat"]')
    page.wait_for_function("document.querySelector('#lyco_prompt textarea').value.endsWith('red hat')")
    go_to(page, "Networks")
    page.click("#lyco_networks_merge")
    page.wait_for_selector("#lyco_merge_row0", state="visible")
    assert page.inner_text("#lyco_merge_row0 th") == "style4999"
