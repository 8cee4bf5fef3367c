"""Pages whose words were translated by the browser or by a webui's localization: what goes from page to page finds its way all the same."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.test_pages import app, driver, go_to, page  # noqa: F401 - three are fixtures
from tests.ui.test_app import READY, choose, wait_until_says

pytestmark = [pytest.mark.browser, pytest.mark.new_set]

TRANSLATE = """() => {
    const words = () => document.querySelectorAll('#lyco_page button').forEach((button) => {
        for (const text of button.childNodes) {
            if (text.nodeType === Node.TEXT_NODE && text.data.trim() && !text.data.startsWith('≡')) text.data = '≡ ' + text.data;
        }
    });
    new MutationObserver(words).observe(document.body, {subtree: true, childList: true, characterData: true});
    words();
}"""


def test_translated_pages_lead_to_each_other(page: Any) -> None:  # noqa: F811
    page.evaluate(TRANSLATE)
    go_to(page, "Networks")
    for number, name in enumerate(("demo-lora", "demo-lokr")):
        page.click(f'.lyco_card[data-name="{name}"] [data-lyco-pick]')
        wait_until_says(page, "#lyco_networks_told", name)
        if number == 0:
            page.click("#lyco_networks_resize")
            page.wait_for_selector("#lyco_resize_run", state="visible")
            go_to(page, "Networks")
            page.click("#lyco_networks_convert")
            page.wait_for_selector("#lyco_convert_run", state="visible")
            go_to(page, "Networks")
    page.click("#lyco_networks_merge")
    page.wait_for_selector("#lyco_merge_row1", state="visible")
    go_to(page, "Networks")
    page.click("#lyco_networks_compare")
    page.wait_for_selector("#lyco_inspect_run", state="visible")
    choose(page, "#lyco_inspect_model", "demo-lora")
    page.click("#lyco_inspect_tag [data-lyco-send]")
    page.wait_for_selector("#lyco_prompt textarea", state="visible")
    assert page.input_value("#lyco_prompt textarea").endswith("<lyco:demo-lora:1>")
    go_to(page, "Block weight")
    page.reload(wait_until="domcontentloaded")
    page.wait_for_selector(READY, state="attached")
    page.wait_for_selector("#lyco_blocks_network", state="visible")
