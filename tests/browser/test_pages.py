"""All pages of the app in a real browser: the first visit, names and contrast, from a grid to the prompt, every width."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lib_lycoris.demo import CHECKPOINT
from tests.ui.test_app import FLAGS, READY, choose, running_app, wait_until_says

pytestmark = [pytest.mark.browser, pytest.mark.new_set]

PAGES = ("Generate", "Networks", "Merge", "Extract", "Resize, convert, bake", "Block weight", "Inspect", "Train", "Results")
UNNAMED = """() => Array.from(document.querySelectorAll('#lyco_page :is(input, textarea, select, button, a[href])'))
    .filter((one) => one.getClientRects().length && one.type !== 'hidden' && one.type !== 'file')
    .filter((one) => !(one.getAttribute('aria-label') || one.title || one.innerText.trim() || one.closest('label')?.innerText.trim()
        || one.labels?.length || one.getAttribute('aria-labelledby') || one.querySelector('img[alt], svg')
        || one.closest('.block, .form')?.querySelector('label, [data-testid=block-info]')))
    .map((one) => one.outerHTML.slice(0, 160))"""
NO_ALT = "() => Array.from(document.querySelectorAll('#lyco_page img:not([alt])')).map((one) => one.outerHTML.slice(0, 120))"
CUT = """() => Array.from(document.querySelectorAll('#lyco_page :is(h1, h2, p, li)'))
    .filter((one) => one.clientWidth > 1 && one.scrollWidth > one.clientWidth + 1 && !one.closest('.lyco_scroll, .lyco_plot'))
    .map((one) => one.outerHTML.slice(0, 160))"""
PALE = """() => {
    const light = (text) => { const [r, g, b] = text.match(/[0-9.]+/g).slice(0, 3).map((v) => v / 255)
        .map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
    const solid = (one) => { for (; one; one = one.parentElement) { const style = getComputedStyle(one), c = style.backgroundColor;
        if (style.backgroundImage.includes('gradient')) return style.backgroundImage.match(/rgba?\\([^)]*\\)/g)[0];
        if (!/, 0\\)$|transparent/.test(c)) return c; } return 'rgb(255, 255, 255)'; };
    return Array.from(document.querySelectorAll('#lyco_tabs .tab-nav > button, #lyco_page button.primary, .lyco_button, .lyco_mark'))
        .filter((one) => one.getClientRects().length && !one.disabled)
        .map((one) => { const [a, b] = [light(getComputedStyle(one).color), light(solid(one))].sort((x, y) => y - x);
            return [one.innerText.slice(0, 30), (a + .05) / (b + .05)]; })
        .filter(([, contrast]) => contrast < 4.5); }"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_app(tmp_path_factory.mktemp("data")) as found:
        yield found


@pytest.fixture(scope="module")
def driver(browser_path: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(app: str, driver: Any) -> Iterator[Any]:
    context = driver.new_context(viewport={"width": 1366, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.on("dialog", lambda dialog: dialog.accept())
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(app, wait_until="domcontentloaded")
    page.wait_for_selector("#lyco_prompt textarea")
    page.wait_for_function(f"document.querySelector('#lyco_checkpoint input').value === '{CHECKPOINT.name}'")
    page.wait_for_selector(READY, state="attached")
    yield page
    context.close()
    assert errors == []


def go_to(page: Any, name: str) -> None:
    page.locator("#lyco_tabs > .tab-nav button", has_text=name).first.click()


def write(page: Any, place: str, text: str) -> None:
    page.fill(f"{place} :is(textarea, input)", text)


def test_the_first_visit_has_no_error_and_everything_has_a_name(page: Any, app: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_function(f"document.querySelector('#lyco_checkpoint input').value === '{CHECKPOINT.name}'")
    for name in PAGES:
        go_to(page, name)
        page.wait_for_timeout(400)
        assert page.locator(".lyco_note.worse:visible").count() == 0, (name, page.locator(".lyco_note.worse:visible").inner_text())
        for found in (page.evaluate(UNNAMED), page.evaluate(NO_ALT), page.evaluate(PALE)):
            assert found == [], name
    page.wait_for_timeout(3000)
    before = len(asked)
    page.wait_for_timeout(2000)
    assert [url for url in asked[before:] if "heartbeat" not in url] == []  # idle without requests
    go_to(page, "Resize")
    choose(page, "#lyco_resize_model", "demo-lokr")
    wait_until_says(page, "#lyco_resize_plan", "MB")
    assert page.locator("#lyco_resize_plan .lyco_note.bad").count() == 0
    assert [url for url in asked if not url.startswith((app, app.replace("http:", "ws:"), "data:", "blob:"))] == []


def test_a_cell_of_a_grid_writes_its_tag_into_the_prompt(page: Any) -> None:
    write(page, "#lyco_prompt", "a red circle")
    write(page, "#lyco_seed", "3")
    page.fill("#lyco_steps input[type=number]", "4")
    page.click("#lyco_grid .label-wrap")
    choose(page, "#lyco_grid_networks", "demo-lokr")
    page.keyboard.press("Escape")
    page.click("#lyco_grid_run")
    wait_until_says(page, "#lyco_grid_progress", "Done: saved as")
    page.locator("#lyco_grid_shown td button").nth(1).click()
    page.wait_for_function("document.querySelector('#lyco_prompt textarea').value === 'a red circle <lyco:demo-lokr:0.5>'")


@pytest.mark.parametrize("width", [390, *(pytest.param(width, marks=pytest.mark.long) for width in (768, 1366, 1920))])
def test_nothing_is_cut_at_any_width(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    for name in PAGES:
        go_to(page, name)
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        assert page.evaluate(CUT) == [], name
    if width == 390:
        go_to(page, "Generate")
        page.fill("#lyco_steps input[type=number]", "4")
        page.click("#lyco_generate")
        wait_until_says(page, "#lyco_progress", "Done")
        inside = (
            "(one) => { const box = document.querySelector(one).getBoundingClientRect(); return box.top < innerHeight && box.bottom > 0; }"
        )
        assert page.evaluate(inside, "#lyco_generate") and page.evaluate(inside, "#lyco_gallery img")
        go_to(page, "Results")
        wait_until_says(page, "#lyco_results_list", "Images in")
        assert page.evaluate(CUT) == []
