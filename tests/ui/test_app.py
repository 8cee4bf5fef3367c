"""The app: the page's own logic on any Gradio, and the user's way through it in a real browser."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import gradio as gr
import pytest
from PIL import Image

from lib_lycoris.errors import HostError, LycorisError
from lib_lycoris.hosts.embedded.files import open_store
from lib_lycoris.hosts.embedded.host import EmbeddedHost
from lib_lycoris.hosts.infotext import save_png
from lib_lycoris.hosts.protocol import GenerationProgress
from lib_lycoris.tools.jobs.queue import Jobs
from lib_lycoris.ui import events
from lib_lycoris.ui.app import AT_ONCE, build, free_port, queued
from lib_lycoris.ui.context import PageContext
from lib_lycoris.ui.pages.generate import GeneratePage, add_tag
from lib_lycoris.ui.parts.generation.request import read_request
from lib_lycoris.ui.settings import Settings
from lib_lycoris.ui.style import bar, notes, page_css, script

ROOT = Path(__file__).resolve().parents[2]
PYTHON = os.environ.get("LYCORIS_APP_PYTHON", sys.executable)  # runs the apps: that of another set where its pages are tested
START = "import sys; from lib_lycoris.cli import main; sys.exit(main(sys.argv[1:]))"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
# state, gallery, notes, infotext, generate button, cancel button
STATE, GALLERY, NOTES, INFO, START_BUTTON, CANCEL_BUTTON = range(6)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedHost:
    return EmbeddedHost.open(device="cpu", data=tmp_path_factory.mktemp("data"))


@pytest.fixture
def page(host: EmbeddedHost, tmp_path: Path) -> GeneratePage:
    return GeneratePage(PageContext(open_store(host, None, None, tmp_path), Jobs(), host, Settings(None), "Generate"), save_png)


def values(prompt: str, steps: int = 3) -> tuple[Any, ...]:
    return (prompt, "", 3, steps, 64, 64, 7, "DDIM")


def test_a_run_tells_its_progress_and_ends_with_a_picture(page: GeneratePage) -> None:
    shown = list(page.run(*values("a red house <lyco:demo-lora:0.7> <lyco:nope>", steps=40)))  # longer than the page waits between looks
    assert shown[0][START_BUTTON]["interactive"] is False and shown[0][CANCEL_BUTTON]["interactive"] is True
    assert any("step " in update[STATE]["value"] for update in shown[1:-1])
    last = shown[-1]
    assert last[START_BUTTON]["interactive"] is True and last[CANCEL_BUTTON]["interactive"] is False
    assert last[STATE]["value"].count("Done, seed 3.") == 1
    assert "demo-lora at 0.7: changes 216 layers" in last[NOTES]["value"]
    assert "no network called &quot;nope&quot;" in last[NOTES]["value"]
    with Image.open(last[GALLERY]["value"][0]) as image:
        assert image.size == (64, 64) and image.text["parameters"] == last[INFO]["value"]


def test_the_newest_picture_comes_first(page: GeneratePage) -> None:
    for _ in range(2):
        *_, last = page.run(*values("a", steps=1))
    names = [Path(path).name for path in last[GALLERY]["value"]]
    assert names == ["00001-3.png", "00000-3.png"]


def test_cancel_ends_the_run_without_a_picture(page: GeneratePage) -> None:
    run = page.run(*values("a", steps=500))
    seen = next(run)
    while "step 0" not in seen[STATE]["value"] and "left" not in seen[STATE]["value"]:
        seen = next(run)
    page.maker.stop()
    started = time.monotonic()
    *_, last = run
    assert time.monotonic() - started < 5
    assert "Cancelled." in last[STATE]["value"] and "value" not in last[GALLERY]
    assert page.images.newest() == []


def test_an_image_goes_on_when_its_page_is_closed_and_is_followed_when_it_is_opened_again(page: GeneratePage) -> None:
    run = page.run(*values("a", steps=300))
    next(run)
    next(run)
    run.close()
    *found, following = page.found()
    assert found[START_BUTTON]["interactive"] is False and found[CANCEL_BUTTON]["interactive"] is True and following["value"]
    *_, last = page.resume()
    assert "Done, seed 3." in last[STATE]["value"] and len(page.images.newest()) == 1
    *_, late = page.resume()  # it ended between the opening and the following
    assert late == last
    *again, following = page.found()
    assert again[GALLERY]["value"] == [str(page.images.newest()[0])] and "value" not in following
    assert again[INFO]["value"] == last[INFO]["value"]


def test_what_cannot_be_made_is_a_sentence(page: GeneratePage) -> None:
    *_, last = page.run("a", "", 3, None, 64, 64, 7, "DDIM")
    assert "Steps: a number is missing" in last[NOTES]["value"]
    *_, last = page.run("a", "", 3, 2, 64, 64, 7, "nothing")
    assert "there is no sampler" in last[NOTES]["value"] and last[START_BUTTON]["interactive"] is True


def test_an_unexpected_error_is_told_too(page: GeneratePage, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise MemoryError("no memory left")

    monkeypatch.setattr(EmbeddedHost, "generate", broken)
    *_, last = page.run(*values("a"))
    assert "MemoryError: no memory left" in last[NOTES]["value"]


@pytest.mark.parametrize(
    "prompt, name, strength, expected",
    [
        ("a house", "style", 0.7, "a house <lyco:style:0.7>"), ("", "style", 1, "<lyco:style:1>"),
        ("a ", "sub/x", 1, "a <lyco:sub/x:1>"),
        ("a", "x", -0.5, "a <lyco:x:-0.5>"), ("a", None, 1, "a"),
    ],
)  # fmt: skip
def test_a_chosen_network_becomes_a_tag(prompt: str, name: str | None, strength: float | None, expected: str) -> None:
    assert add_tag(prompt, name, strength)[0] == expected


def test_an_empty_strength_is_an_error_and_not_1() -> None:
    prompt, chosen, said = add_tag("a", "style", None)
    assert (prompt, chosen["value"]) == ("a", None) and "Strength: a number is missing" in said["value"]


def test_a_request_is_read_from_the_controls() -> None:
    request = read_request("a", "b", -1, 20.0, 100, 70, 7, "Euler")
    assert (request.seed, request.steps, request.width, request.height, request.sampler) == (-1, 20, 96, 72, "Euler")
    with pytest.raises(LycorisError, match="Seed: a number is missing"):
        read_request("a", "b", None, 20.0, 100, 70, 7, "Euler")
    with pytest.raises(LycorisError, match="Width and Height"):
        read_request("a", "", 1, 20, None, None, 7, "Euler")


def test_texts_of_people_are_escaped_and_the_bar_is_readable() -> None:
    assert "<script>" not in notes(problems=["<script>"]) and "&lt;script&gt;" in notes(problems=["<script>"])
    assert 'aria-valuenow="40"' in bar(0.4, "x") and 'role="progressbar"' in bar(0.4, "x")
    assert GenerationProgress(3, 20, 0.5, 34.2).text() == "step 3 of 20 - 2.0 s/step - 34 s left"
    assert GenerationProgress(3, 20, 4.0, 4.25).text() == "step 3 of 20 - 4.0 steps/s - 4 s left"


def test_work_is_told_at_each_change_and_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([False] * 6 + [True])
    now = iter("aabbbb")
    assert list(events.states(lambda _: next(told), lambda: next(now), 0.0)) == ["a", "b"]
    monkeypatch.setattr(events, "BEAT", 0.0)
    told, now = iter([False, False, True]), iter("aa")
    assert list(events.states(lambda _: next(told), lambda: next(now), 0.0)) == ["a", "a"]  # Gradio sees then that a page was closed


def test_a_taken_port_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < free_port(port) < port + 20
    with pytest.raises(HostError, match="--port"):
        free_port(70000)


def test_the_page_has_every_control(host: EmbeddedHost, tmp_path: Path) -> None:
    context = PageContext(open_store(host, None, None, tmp_path), Jobs(), host, Settings(None), "Generate")
    blocks, _ = build(host, save_png, context)
    ids = {component["props"].get("elem_id") for component in blocks.config["components"]}
    names = "prompt negative add strength seed steps width height cfg sampler generate cancel progress gallery notes info"
    pages = "tab_generate tab_merge tab_extract tab_change tab_blocks tab_inspect"
    assert {f"lyco_{name}" for name in f"{names} {pages}".split()} <= ids
    twice = Counter(filter(None, (component["props"].get("elem_id") for component in blocks.config["components"])))
    assert [name for name, count in twice.items() if count > 1] == []


def test_one_picture_is_made_at_a_time(page: GeneratePage) -> None:
    first = page.run(*values("a", steps=400))
    next(first)
    (second,) = page.run(*values("b"))
    assert "an image is being made already" in second[NOTES]["value"] and second[STATE]["value"].count("No image was made.") == 1
    page.maker.stop()
    list(first)
    *_, third = page.run(*values("b", steps=1))
    assert "Done" in third[STATE]["value"]


def test_events_run_side_by_side_on_any_gradio() -> None:
    blocks = gr.Blocks(analytics_enabled=False)
    with blocks:
        gr.Markdown("x")
    queued(blocks)
    waiting = blocks._queue
    assert getattr(waiting, "default_concurrency_limit", waiting.max_thread_count) == AT_ONCE


def test_what_an_earlier_run_left_is_dimmed_after_a_failure(page: GeneratePage) -> None:
    *_, done = page.run(*values("a", steps=1))
    *_, failed = page.run("a", "", 3, 2, 64, 64, 7, "nothing")
    assert "lyco_failed" in failed[STATE]["value"] and "lyco_failed" not in done[STATE]["value"]
    assert failed[INFO]["value"] == "" and "value" not in failed[GALLERY]
    assert "#lyco_progress:has(.lyco_failed) ~ #lyco_gallery" in page_css()


def test_styles_and_script_stay_inside_our_pages() -> None:
    rules = re.sub(r"/\*.*?\*/", "", page_css(), flags=re.DOTALL)
    blocks = [block for block in re.findall(r"([^{}]+)\{", rules) if not block.strip().startswith("@")]
    selectors = [one.strip() for block in blocks for one in re.split(r",(?![^(]*\))", block)]  # commas in parentheses part none
    ours = ("#lyco_page ", ".dark #lyco_page ", "#txt2img_lycoris", "#img2img_lycoris")
    assert selectors and [one for one in selectors if not one.startswith(ours)] == []
    assert set(re.findall(r"window\.(lycoris\w+) =", script())) == {"lycorisCardClicked", "lycorisShowCheckpoint", "lycorisOpen"}


# --- in a browser


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an app of its own process."""
    with running_app(tmp_path_factory.mktemp("app")) as found:
        yield found


@contextmanager
def running_app(data: Path, start: str = START) -> Iterator[str]:
    """Start an app with this folder for its data, and give its address; ``start``: the program."""
    log = data / "log"
    words = ["--no-browser", "--port", str(free_port(7950)), "--device", "cpu", "--data-dir", str(data)]
    with log.open("w") as output:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen([PYTHON, "-c", start, *words], cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        yield wait_for(log, process)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):  # as from a terminal and from run.py at once
            process.send_signal(number)
        assert process.wait(30) == 0, log.read_text()
        assert "Stopped" not in log.read_text() and "Traceback" not in log.read_text()


def wait_for(log: Path, process: subprocess.Popen[bytes]) -> str:
    for _ in range(2400):
        assert process.poll() is None, log.read_text()
        found = re.search(r"http://(127\.0\.0\.1):(\d+)", log.read_text())
        if found:
            with socket.socket() as probe:
                assert probe.connect_ex((found[1], int(found[2]))) == 0, "its address is printed before it answers"
            return found[0]
        time.sleep(0.05)
    raise AssertionError(log.read_text())


READY = "#lyco_page[data-ready]"  # what was kept is back: it would write over what is put in before


@pytest.fixture
def tab(address: str, browser_path: str) -> Iterator[Any]:
    """A page in a headless browser, open at the app."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, headless=True, args=FLAGS)
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.set_default_timeout(60_000)
        tab.goto(address, wait_until="domcontentloaded")
        tab.wait_for_selector("#lyco_prompt textarea")
        tab.wait_for_selector(READY, state="attached")
        yield tab
        browser.close()


def wait_until_says(tab: Any, place: str, text: str) -> None:
    from playwright.sync_api import TimeoutError as TimedOut

    try:
        tab.wait_for_function(f"document.querySelector({json.dumps(place)})?.innerText.includes({json.dumps(text)})")
    except TimedOut:
        raise AssertionError(f"{place} says {tab.inner_text(place)!r}, not {text!r}") from None


@pytest.mark.new_set
def test_the_running_app_lets_in_its_own_pages_only(address: str) -> None:
    def status(path: str = "/", **headers: str) -> int:
        request = Request(address + path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        try:
            with urlopen(request, timeout=60) as answer:
                return int(answer.status)
        except HTTPError as error:
            return error.code

    for path in ("/", "/config", "/docs", "/openapi.json"):
        assert status(path) == status(path, Origin=address) == 200
        assert status(path, Origin="null") == status(path, Host="evil.example") == status(path, Origin="http://127.0.0.1:1") == 403
    assert status("/file=https://evil.example/x") == status("/proxy=https://evil.hf.space/x") == 404
    assert status("/upload", Content_Type="multipart/form-data; boundary=x", Origin="http://evil.example") == 403
    assert status(Content_Length=str(600 << 20)) == 413
    with urlopen(f"{address}/docs", timeout=60) as answer:
        page = answer.read().decode()
    assert "POST /lycoris/v1/jobs/merge" in page and "http" not in page.replace("over HTTP", "")


@pytest.mark.browser
@pytest.mark.new_set
def test_nothing_is_asked_of_another_host(address: str, browser_path: str) -> None:
    from playwright.sync_api import sync_playwright

    asked: list[str] = []
    refused: list[str] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, headless=True, args=FLAGS)
        tab = browser.new_page()
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: refused.append(message.text) if "Content Security Policy" in message.text else None)
        tab.goto(address, wait_until="domcontentloaded")
        tab.wait_for_selector("#lyco_prompt textarea")
        for name in ("Merge", "Extract", "Inspect", "Generate"):
            tab.click(f'#lyco_tabs .tab-nav button:has-text("{name}")')
        tab.click("#lyco_generate")
        wait_until_says(tab, "#lyco_progress", "Done")
        assert tab.locator("link[rel=preconnect]").count() == 0
        tab.goto(f"{address}/docs")
        browser.close()
    own = (address, address.replace("http:", "ws:"), "data:", "blob:")
    assert asked and [url for url in asked if not url.startswith(own)] == []
    assert refused == []


@pytest.mark.browser
@pytest.mark.new_set
def test_a_person_generates_with_a_network_and_sees_what_was_done(tab: Any) -> None:
    tab.fill("#lyco_prompt textarea", "a red house")
    tab.click("#lyco_add input")
    tab.keyboard.type("demo-boft")
    tab.keyboard.press("Enter")
    tab.wait_for_function("document.querySelector('#lyco_prompt textarea').value.includes('lyco')")
    assert tab.input_value("#lyco_prompt textarea") == "a red house <lyco:demo-boft:1>"
    tab.fill("#lyco_seed input", "7")
    tab.click("#lyco_generate")
    tab.wait_for_selector("#lyco_progress [role=progressbar]")
    wait_until_says(tab, "#lyco_progress", "steps/s")
    wait_until_says(tab, "#lyco_progress", "Done, seed 7.")
    wait_until_says(tab, "#lyco_notes", "changes 160 layers")
    assert "Seed: 7, Size: 64x64" in tab.input_value("#lyco_info textarea")
    tab.wait_for_function("[...document.querySelectorAll('#lyco_gallery img')].some(image => image.naturalWidth === 64)")


@pytest.mark.browser
@pytest.mark.new_set
def test_a_person_is_told_what_is_wrong_and_can_cancel(tab: Any) -> None:
    tab.fill("#lyco_prompt textarea", "a <lyco:sytle> <lyco:demo-lora:1:colour=2>")
    tab.click("#lyco_generate")
    wait_until_says(tab, "#lyco_progress", "Done")
    wait_until_says(tab, "#lyco_notes", 'no network called "sytle"')
    wait_until_says(tab, "#lyco_notes", '"colour" is not a key')
    tab.fill("#lyco_steps input[type=number]", "100")
    tab.click("#lyco_generate")
    wait_until_says(tab, "#lyco_progress", "of 100")
    tab.click("#lyco_cancel")
    started = time.monotonic()
    wait_until_says(tab, "#lyco_progress", "Cancelled.")
    assert time.monotonic() - started < 3
    assert tab.is_enabled("#lyco_generate") and not tab.is_enabled("#lyco_cancel")


@pytest.mark.browser
@pytest.mark.new_set
def test_a_person_merges_networks_and_uses_the_result(tab: Any) -> None:
    tab.click('#lyco_tabs .tab-nav button:has-text("Merge")')
    tab.click('#lyco_merge_mode label:has-text("into one network")')
    choose(tab, "#lyco_merge_checkpoint", "demo-scenes")
    choose(tab, "#lyco_merge_add", "demo-lora")
    tab.wait_for_selector("#lyco_merge_row0")
    choose(tab, "#lyco_merge_add", "demo-lokr")
    tab.wait_for_selector("#lyco_merge_row1")
    choose(tab, "#lyco_merge_add", "demo-loha")
    tab.wait_for_selector("#lyco_merge_row2")
    tab.fill("#lyco_merge_row0_strength", "0.5")
    tab.click("#lyco_merge_row1_remove")  # those around it stay, with their strengths
    tab.wait_for_selector("#lyco_merge_row1", state="detached")
    wait_until_says(tab, "#lyco_merge_row0", "demo-lora")
    wait_until_says(tab, "#lyco_merge_row2", "demo-loha")
    assert tab.input_value("#lyco_merge_row0_strength") == "0.5"
    tab.fill("#lyco_merge_name textarea, #lyco_merge_name input", "both of them")
    wait_until_says(tab, "#lyco_merge_plan", "2 networks in one, 216 layers")
    tab.click("#lyco_merge_run")
    wait_until_says(tab, "#lyco_merge_progress", "Done")
    wait_until_says(tab, "#lyco_merge_notes", "exactly their sum")
    tab.wait_for_selector("#lyco_merge_plot img")
    tab.click("#lyco_merge_tag [data-lyco-copy]")
    wait_until_says(tab, "#lyco_merge_tag [data-lyco-copy]", "Copied")
    tab.click("#lyco_merge_run")  # the name is taken now
    wait_until_says(tab, "#lyco_merge_notes", "both of them.safetensors is there already")
    tab.reload(wait_until="domcontentloaded")  # what was asked for, and what came of it, is there again
    tab.wait_for_selector(READY, state="attached")
    tab.click('#lyco_tabs .tab-nav button:has-text("Generate")')
    tab.fill("#lyco_prompt textarea", "")  # the prompt that was kept
    tab.click('#lyco_tabs .tab-nav button:has-text("Merge")')
    wait_until_says(tab, "#lyco_merge_row1", "demo-loha")
    tab.wait_for_function("document.querySelector('#lyco_merge_row0_strength').value === '0.5'")
    tab.click("#lyco_merge_tag [data-lyco-send]")
    tab.wait_for_selector("#lyco_prompt textarea", state="visible")
    assert tab.input_value("#lyco_prompt textarea") == "<lyco:both of them:1>"
    tab.click("#lyco_generate")
    wait_until_says(tab, "#lyco_notes", "both of them at 1: changes 216 layers")


def choose(tab: Any, place: str, name: str) -> None:
    """Choose a name in a dropdown as the user does, who clicks again where the list closed because new choices came."""
    wanted = f"{place} ul li:has-text({json.dumps(name, ensure_ascii=False)})"
    for _ in range(10):
        tab.click(f"{place} input")
        tab.wait_for_timeout(300)
        if tab.locator(wanted).count():
            break
        tab.evaluate("document.activeElement.blur()")
    tab.click(wanted)
