"""The tab LyCORIS in a real webui: merging in a browser, the tools over its API, images for the pages under its queue."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest

from lib_lycoris.ui.pages import PAGES
from tests.ui.test_app import READY, choose
from tests.webui.running import PROBE, PROMPT, Running, largest, pixels
from tests.webui.sample_networks import write_network
from tests.webui.server import WebUI, WebUIError, decode, make_checkpoints
from tests.webui.test_webui_browser import FLAGS, show

pytestmark = [pytest.mark.webui, pytest.mark.browser, pytest.mark.new_set]

JOBS = "/lycoris/v1/jobs"
CHECKPOINT, NAME = "sd1-1.safetensors", "style"
TRANSLATED = "Object.assign(localization, {txt2img: '文生图', Txt2img: '文生图'}); localizeWholePage()"  # as the webui's own setting does
CHECKPOINT_FIELD = ":is(#setting_sd_model_checkpoint, .model_selection) input"  # Forge's has a class only


@pytest.fixture(scope="module")
def webui(webui_dir: Path, webui_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    folder = tmp_path_factory.mktemp("tab")
    make_checkpoints(webui_dir, Path(webui_python), folder / "models", "sd1")
    server = WebUI(
        webui_dir, Path(webui_python), models=folder / "models", data=folder / "data", extensions=[PROBE],
        flags=["--gradio-allowed-path", str(webui_dir)],
    )  # fmt: skip
    write_network(server.lyco_dir / f"{NAME}.safetensors")
    with server:
        yield server


@pytest.fixture
def page(webui: WebUI, browser_path: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, headless=True, args=list(FLAGS))
        opened = browser.new_page(viewport={"width": 1280, "height": 1000})
        opened.set_default_timeout(240_000)  # a busy machine takes a while to draw the whole webui
        errors: list[str] = []
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.goto(webui.url, wait_until="domcontentloaded")
        show(opened, '#tabs > .tab-nav button:has-text("LyCORIS")', "#lyco_tabs")
        opened.wait_for_selector(READY, state="attached")
        yield opened
        browser.close()
        assert not errors


def wait_until_says(page: Any, place: str, text: str) -> None:
    page.wait_for_function(f"document.querySelector({json.dumps(place)}).innerText.includes({json.dumps(text)})")


def wait(webui: WebUI, job_id: str) -> dict[str, Any]:
    for _ in range(600):
        state: dict[str, Any] = webui.call(f"{JOBS}/{job_id}")
        if state["status"] not in ("waiting", "running"):
            return state
        time.sleep(0.1)
    raise AssertionError(state)


def merge(page: Any, checkpoint: str, network: str, name: str) -> None:
    """Merge a network at 0.8 into a checkpoint on the page Merge, which is open."""
    choose(page, "#lyco_merge_checkpoint", checkpoint)
    choose(page, "#lyco_merge_add", network)
    page.wait_for_selector("#lyco_merge_row0")
    page.fill("#lyco_merge_row0_strength", "0.8")
    page.fill("#lyco_merge_name textarea, #lyco_merge_name input", name)
    wait_until_says(page, "#lyco_merge_plan", "layers changed")
    page.click("#lyco_merge_run")
    wait_until_says(page, "#lyco_merge_progress", "Done")


def test_a_merge_in_the_tab_becomes_the_checkpoint_and_paints_as_the_tag_did(webui: WebUI, page: Any) -> None:
    running = Running(webui)
    plain, tagged = running.generate(), running.generate(f"<lyco:{NAME}:0.8>")
    open_page(page, "Merge")
    merge(page, CHECKPOINT, NAME, "merged-here")
    assert (webui.models / "checkpoints" / "merged-here.safetensors").is_file()
    page.click("#lyco_merge_use")
    wait_until_says(page, "#lyco_merge_used", "merged-here.safetensors is selected")
    page.wait_for_function(f"document.querySelector({CHECKPOINT_FIELD!r}).value.startsWith('merged-here')")
    merged = running.generate()
    assert running.info["sd_model_name"] == "merged-here"
    assert largest(merged, tagged) <= 1 < largest(merged, plain)
    page.goto("about:blank")  # its field tells the webui once more what it shows, on a busy machine after the next line
    webui.options(sd_model_checkpoint=CHECKPOINT)
    assert np.array_equal(running.generate(), plain)


def test_the_checkpoint_in_use_is_chosen_already(page: Any) -> None:
    """Also in the Forges, which load it with the first image."""
    for tab, place in (("Merge", "#lyco_merge_checkpoint"), ("Extract", "#lyco_extract_org")):
        open_page(page, tab)
        page.wait_for_function(f"document.querySelector('{place} input').value.startsWith('{CHECKPOINT.split('.')[0]}')")


def test_the_tag_of_a_new_network_goes_to_the_prompt(webui: WebUI, page: Any) -> None:
    open_page(page, "Merge")
    page.click('#lyco_merge_mode label:has-text("into one network")')
    choose(page, "#lyco_merge_checkpoint", CHECKPOINT)
    if not page.is_visible("#lyco_merge_row0"):  # it is there again from the last visit
        choose(page, "#lyco_merge_add", NAME)
    page.fill("#lyco_merge_name textarea, #lyco_merge_name input", "one-of-them")
    page.click("#lyco_merge_run")
    page.wait_for_selector('#lyco_merge_tag [data-lyco-send="<lyco:one-of-them:1>"]')
    page.click("#lyco_merge_tag [data-lyco-copy]")
    wait_until_says(page, "#lyco_merge_tag [data-lyco-copy]", "Copied")
    page.evaluate(TRANSLATED)
    assert page.locator("#tabs > .tab-nav button", has_text="文生图").count() == 1
    page.click("#lyco_merge_tag [data-lyco-send]")
    page.wait_for_selector("#txt2img_prompt textarea", state="visible")
    assert page.input_value("#txt2img_prompt textarea") == "<lyco:one-of-them:1>"
    assert (webui.lyco_dir / "one-of-them.safetensors").is_file()


def open_page(page: Any, name: str) -> None:
    page.locator("#lyco_tabs > .tab-nav button", has_text=name).first.click()


def write(page: Any, place: str, text: str) -> None:
    page.fill(f"{place} :is(textarea, input)", text)


@pytest.fixture(scope="module")
def tuned(webui: WebUI) -> str:
    """A checkpoint with the network in it."""
    job = webui.call(f"{JOBS}/merge", {"sd_model": CHECKPOINT, "models": [NAME], "ratios": [0.8], "save_to": "tuned"})
    assert wait(webui, job["id"])["status"] == "done"
    return "tuned.safetensors"


def test_a_difference_of_checkpoints_is_extracted_and_paints_as_the_tag_did(webui: WebUI, page: Any, tuned: str) -> None:
    running = Running(webui)
    plain, tagged = running.generate(), running.generate(f"<lyco:{NAME}:0.8>")
    open_page(page, "Extract")
    page.click("#lyco_extract_org_refresh")
    page.click("#lyco_extract_tuned_refresh")
    choose(page, "#lyco_extract_org", CHECKPOINT)
    choose(page, "#lyco_extract_tuned", tuned)
    page.fill("#lyco_extract_rank input[type=number]", "16")
    page.click("#lyco_extract_measure")
    page.wait_for_selector("#lyco_extract_curve img")
    write(page, "#lyco_extract_name", "drawn out")
    page.click("#lyco_extract_run")
    wait_until_says(page, "#lyco_extract_tag", "<lyco:drawn out:1>")
    extracted = running.generate("<lyco:drawn out:1>")
    assert np.abs(extracted.astype(int) - tagged).mean() < np.abs(plain.astype(int) - tagged).mean() / 4


def test_a_strength_is_baked_into_a_network(webui: WebUI, page: Any) -> None:
    running = Running(webui)
    open_page(page, "Resize")
    page.click('#lyco_page button:text-is("Bake"):visible')
    choose(page, "#lyco_bake_model", NAME)
    choose(page, "#lyco_bake_sd_model", CHECKPOINT)
    write(page, "#lyco_bake_ratio", "0.5")
    write(page, "#lyco_bake_name", "half of it")
    page.click("#lyco_bake_run")
    wait_until_says(page, "#lyco_bake_tag", "<lyco:half of it:1>")
    assert largest(running.generate("<lyco:half of it:1>"), running.generate(f"<lyco:{NAME}:0.5>")) <= 1


def test_a_slider_of_a_block_goes_to_the_prompt_and_changes_the_picture(webui: WebUI, page: Any) -> None:
    running = Running(webui)
    plain, whole = running.generate(), running.generate(f"<lyco:{NAME}:1>")
    open_page(page, "Block weight")
    choose(page, "#lyco_blocks_network", NAME)
    wait_until_says(page, "#lyco_blocks_legend", "Grey bars")
    page.focus("#lyco_blocks_picture [data-block]:not(.lyco_untouched) input[type=range]")
    page.keyboard.press("Home")
    wait_until_says(page, "#lyco_blocks_tag", f"<lyco:{NAME}:1:lbw=")
    page.click("#lyco_blocks_tag [data-lyco-send]")
    page.wait_for_function("document.querySelector('#txt2img_prompt textarea').value.includes(':lbw=')")
    tag = page.input_value("#txt2img_prompt textarea").rsplit("<", 1)[1]
    shown = running.generate(f"<{tag}")
    assert not np.array_equal(shown, whole) and not np.array_equal(shown, plain)


def test_a_network_is_looked_into_and_compared(webui: WebUI, page: Any) -> None:
    open_page(page, "Inspect")
    choose(page, "#lyco_inspect_model", NAME)
    wait_until_says(page, "#lyco_inspect_found", NAME)


def test_every_page_of_the_tab_opens(page: Any) -> None:
    wait_until_says(page, "#lyco_networks_cards", NAME)  # the first one, without a click
    tabs = page.locator("#lyco_tabs > .tab-nav button")
    assert tabs.all_inner_texts() == [label for label, _, _ in PAGES]
    for label, name, _ in PAGES:
        open_page(page, label)
        page.wait_for_function(f"document.querySelector('#lyco_tab_{name}').innerText.trim().length > 50")
    assert "could not be made" not in page.inner_text("#tab_lycoris")


def test_nothing_of_ours_is_in_the_webuis_own_settings_file(webui: WebUI) -> None:
    kept = json.loads((webui.data / "ui-config.json").read_text())
    assert kept and [key for key in kept if key.lower().startswith("lycoris")] == []
    assert (webui.data / "lycoris" / "pages.json").is_file()


def test_the_tools_over_http(webui: WebUI) -> None:
    job = webui.call(f"{JOBS}/networks_merge", {"models": [NAME], "base_model": CHECKPOINT, "ratios": [0.5], "save_to": "over-http"})
    assert wait(webui, job["id"])["status"] == "done"
    assert webui.call(f"{JOBS}/{job['id']}/result")["outputs"] == [str(webui.lyco_dir / "over-http.safetensors")]
    assert f"{JOBS}/merge" in webui.call("/openapi.json")["paths"]
    for options in (
        {"models": ["../../config"], "save_to": "x"}, {"models": [str(webui.data / "config.json")], "save_to": "x"},
        {"models": [NAME], "save_to": "../x"},
    ):  # fmt: skip
        with pytest.raises(WebUIError, match="answered 422"):
            webui.call(f"{JOBS}/networks_merge", options)
    with pytest.raises(WebUIError, match="answered 409"):
        webui.call(f"{JOBS}/networks_merge", {"models": [NAME], "base_model": CHECKPOINT, "save_to": "over-http"})
    foreign = urllib.request.Request(f"{webui.url}{JOBS}/{job['id']}", headers={"Origin": "http://evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(foreign)


def generate(webui: WebUI, **fields: Any) -> dict[str, Any]:
    made: dict[str, Any] = webui.call(f"/tests/generate?{urlencode(fields)}", {})
    return made


def test_pictures_for_the_pages_are_those_of_the_webui(webui: WebUI) -> None:
    running = Running(webui)
    expected = running.generate(f"<lyco:{NAME}:0.8>")
    made = generate(webui, prompt=f"{PROMPT} <lyco:{NAME}:0.8> <lyco:no-such-thing>")
    assert np.array_equal(pixels(decode(made["image"])), expected)
    assert made["applied"] == [NAME] and "no-such-thing" in made["problems"][0] and made["size"] == 512
    assert "Steps: 4" in made["infotext"] and made["told"] == sorted(made["told"])
    stopped = generate(webui, prompt=PROMPT, steps=400, stop_at=2)
    assert stopped["cancelled"] is True and max(stopped["told"]) < 100
    assert np.array_equal(running.generate(f"<lyco:{NAME}:0.8>"), expected)
