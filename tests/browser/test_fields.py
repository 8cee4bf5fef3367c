"""What the fields of the pages do by keys and with nothing in them, and whose text stands below the images."""

from __future__ import annotations

from typing import Any

import pytest

from lib_lycoris.ui.parts.tools.fields import devices
from tests.browser.test_pages import app, driver, go_to, page, write  # noqa: F401 - three are fixtures
from tests.ui.test_app import choose, wait_until_says

pytestmark = [pytest.mark.browser, pytest.mark.new_set]


def test_an_empty_number_is_an_error_keys_step_finely_and_ctrl_enter_generates(page: Any) -> None:  # noqa: F811
    page.focus("#lyco_strength input")
    page.keyboard.press("ArrowDown")
    assert page.input_value("#lyco_strength input") == "0.95"
    page.fill("#lyco_strength input", "")
    choose(page, "#lyco_add", "demo-lokr")
    wait_until_says(page, "#lyco_notes", "Strength: a number is missing")
    assert page.input_value("#lyco_prompt textarea") == ""
    page.fill("#lyco_steps input[type=number]", "3")
    page.focus("#lyco_prompt textarea")
    page.fill("#lyco_steps input[type=number]", "")
    page.focus("#lyco_prompt textarea")
    assert page.input_value("#lyco_steps input[type=number]") == "3"  # what it had, not the lowest value
    for seed, place, said in (("", "#lyco_notes", "Seed: a number is missing"), ("1", "#lyco_progress", "Done, seed 1.")):
        write(page, "#lyco_seed", seed)
        page.focus("#lyco_prompt textarea")
        page.keyboard.press("Control+Enter")
        wait_until_says(page, place, said)
    write(page, "#lyco_seed", "2")
    page.keyboard.press("Control+Enter")
    wait_until_says(page, "#lyco_progress", "Done, seed 2.")
    assert "Seed: 2," in page.input_value("#lyco_info textarea")
    page.locator("#lyco_gallery .thumbnails button").nth(1).click()
    page.wait_for_function("document.querySelector('#lyco_info textarea').value.includes('Seed: 1,')")
    page.click("#lyco_info_use")
    page.wait_for_function("document.querySelector('#lyco_seed input').value === '1'")
    go_to(page, "Merge")
    choose(page, "#lyco_merge_add", "demo-lora")
    page.fill("#lyco_merge_row0_strength", "")
    page.wait_for_timeout(700)
    page.click("#lyco_merge_run")
    wait_until_says(page, "#lyco_merge_notes", "demo-lora has no strength")
    page.locator("#lyco_merge_more .label-wrap").click()
    assert page.input_value("#lyco_merge_more_device input") == devices()[0]
