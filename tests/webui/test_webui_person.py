"""What people met in AUTOMATIC1111's webui, as they meet it: typed prompts, pressed buttons, saved images and the words below them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.ui.test_app import READY, choose
from tests.webui.files import SD1_LAYERS, base_of, linear_layers, write_network
from tests.webui.running import Picture, largest, mean, pixels
from tests.webui.sample_networks import SD1, SDXL
from tests.webui.sample_networks import write_network as write_sample
from tests.webui.server import WebUI, make_checkpoints
from tests.webui.test_webui_browser import FLAGS, PROMPT, show
from tests.webui.test_webui_prompts import listed
from tests.webui.test_webui_tab import merge, open_page, wait_until_says

pytestmark = [pytest.mark.webui, pytest.mark.browser, pytest.mark.new_set, pytest.mark.only_in("a1111"), pytest.mark.timeout(1800)]
torch.set_num_threads(1)

NUMBERS = {"#txt2img_steps": 4, "#txt2img_width": 64, "#txt2img_height": 64}
CHECKPOINT = "#setting_sd_model_checkpoint"
SHOWN = "Array.from(document.querySelectorAll('#txt2img_gallery img'), image => image.src)"
RAISED_WITHOUT_US = "Cannot read properties of undefined (reading 'props')"  # by the webui's own scripts, now and then


@pytest.fixture(scope="module")
def webui(webui_dir: Path, webui_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    folder = tmp_path_factory.mktemp("person")
    one, _, two = make_checkpoints(webui_dir, Path(webui_python), folder / "models", "sd1", "sd1:2", "sd2")
    server = WebUI(
        webui_dir, Path(webui_python), models=folder / "models", data=folder / "data", options={"samples_save": True},
        flags=["--gradio-allowed-path", str(webui_dir)],
    )  # fmt: skip
    base, other = base_of(one, "sd1"), base_of(two, "sd2")
    write_network(server.lyco_dir / "full.safetensors", base, "lora", linear_layers(base), seed=5, size=0.5)
    write_network(server.lyco_dir / "turned.safetensors", base, "dora_out", SD1_LAYERS, seed=7)
    write_network(server.lyco_dir / "for-sd2.safetensors", other, "lora", linear_layers(other), seed=5, size=0.3)
    write_sample(server.lyco_dir / "attention.safetensors", SD1)
    write_sample(server.lyco_dir / "large.safetensors", SDXL)
    with server:
        yield server


@pytest.fixture(scope="module")
def browser(browser_path: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=browser_path, headless=True, args=list(FLAGS))
        yield opened
        opened.close()


@dataclass(frozen=True)
class Made:
    """What a person has of a run: the saved images with their texts, and the words below them."""

    images: list[Picture]
    texts: list[str]
    below: str


class Person:
    """Somebody with the webui's page before them."""

    def __init__(self, webui: WebUI, page: Any) -> None:
        self.webui, self.page = webui, page

    def open(self) -> None:
        """Open the page, and set what is the same for every image."""
        self.page.goto(self.webui.url, wait_until="domcontentloaded")
        show(self.page, '#tabs > .tab-nav button:has-text("LyCORIS")', "#lyco_tabs")
        self.page.wait_for_selector(READY, state="attached")
        show(self.page, '#tabs > .tab-nav button:has-text("txt2img")', PROMPT)
        for place, number in NUMBERS.items():
            self.write(place, number)
        self.page.fill("#txt2img_seed input", "1")

    def write(self, place: str, number: int) -> None:
        """Write a number beside a slider."""
        self.page.fill(f"{place} input[type=number]", str(number))
        self.page.keyboard.press("Tab")

    def make(self, prompt: str, batch_size: int = 1) -> Made:
        """Press Generate and wait for the images; they and the words below them come at once."""
        show(self.page, '#tabs > .tab-nav button:has-text("txt2img")', PROMPT)
        before, shown = set(self.saved()), json.dumps(self.page.evaluate(SHOWN))
        self.write("#txt2img_batch_size", batch_size)
        self.page.fill(PROMPT, prompt)
        self.page.click("#txt2img_generate")
        self.page.wait_for_function(f"{SHOWN}.some(source => !{shown}.includes(source))")
        files = sorted(set(self.saved()) - before)
        images = [Image.open(file) for file in files]
        texts = [image.text["parameters"] for image in images]  # type: ignore[attr-defined]
        return Made([pixels(image) for image in images], texts, self.page.inner_text("#html_log_txt2img"))

    def saved(self) -> list[Path]:
        """Return the files of all images made so far."""
        return list((self.webui.data / "outputs").rglob("*.png"))

    def choose_script(self, name: str) -> None:
        """Choose one of the scripts at the end of the page."""
        choose(self.page, "#tab_txt2img #script_list", name)

    def choose_checkpoint(self, name: str) -> None:
        """Choose a checkpoint at the top of the page."""
        choose(self.page, CHECKPOINT, name)
        self.page.wait_for_function(f"document.querySelector('{CHECKPOINT} input').value.startsWith('{name}')")
        for _ in range(600):
            if self.webui.options()["sd_model_checkpoint"].startswith(name):
                return
            self.page.wait_for_timeout(100)
        raise AssertionError(name)

    def open_tab(self, name: str) -> None:
        """Open one of the pages of the tab LyCORIS."""
        show(self.page, '#tabs > .tab-nav button:has-text("LyCORIS")', "#lyco_tabs")
        open_page(self.page, name)


@pytest.fixture
def person(webui: WebUI, browser: Any) -> Iterator[Person]:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(240_000)  # a busy machine takes a while to draw the whole webui
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    somebody = Person(webui, page)
    somebody.open()
    yield somebody
    page.close()
    assert [error for error in errors if RAISED_WITHOUT_US not in error] == []


def test_hashes_of_earlier_images_are_not_in_the_next_ones_text(person: Person) -> None:
    """Prompt matrix makes a run of several batches, each with a prompt of its own."""
    person.choose_script("Prompt matrix")
    made = person.make("a house|<lyco:full:0.6>|<lyco:turned:0.6>")
    assert [listed(text) for text in made.texts] == [set(), {"full"}, {"turned"}, {"full", "turned"}]
    plain, one, other, both = made.images
    assert min(mean(plain, one), mean(one, other), mean(other, both)) >= 1


def test_tags_that_differ_within_a_batch_are_told_below_it_and_in_each_text(person: Person) -> None:
    person.choose_script("Prompt matrix")
    made = person.make("a house|<lyco:full:0.6>", batch_size=2)
    assert len(made.texts) == 2 and "image 2 asks for other networks" in made.below
    assert all("Lyco tags used: none" in text and not listed(text) for text in made.texts)


@pytest.mark.parametrize("text", ["<lycoris:full:1>", "<Lyco:full:1>", "<lyco:>"])
def test_what_only_looks_like_a_tag_gets_a_sentence_below_the_image(person: Person, text: str) -> None:
    assert text in person.make(f"a house {text}").below
    assert text not in person.make("a house").below


def test_a_decimal_comma_is_read_and_noted_below_the_image(person: Person) -> None:
    good = person.make("a house <lyco:full:0.7>")
    comma = person.make("a house <lyco:full:0,7>")
    assert largest(comma.images[0], good.images[0]) == 0
    assert "0,7 was read as 0.7" in comma.below and "was read as" not in good.below


def test_problems_are_below_the_image_and_in_its_text_only_after_a_tick_in_the_settings(person: Person) -> None:
    made = person.make("a house <lyco:nothere>")
    assert "nothere" in made.below and "Lyco problems" not in made.texts[0]
    person.page.click("#tabs > .tab-nav >> text=Settings")
    person.page.click("#settings > .tab-nav >> text=LyCORIS")
    person.page.click("#setting_lyco_problems_in_infotext input")
    person.page.click("#settings_submit")
    wait_until_says(person.page, "#settings_result", "lyco_problems_in_infotext")
    try:
        assert "Lyco problems" in person.make("a house <lyco:nothere>").texts[0]
    finally:
        person.webui.options(lyco_problems_in_infotext=False)


def test_the_checkpoint_in_use_is_the_first_choice_of_the_tools(person: Person) -> None:
    person.choose_checkpoint("sd1-2")
    try:
        person.open()
        for tab, place in (("Merge", "#lyco_merge_checkpoint"), ("Extract", "#lyco_extract_org"), ("Inspect", "#lyco_inspect_base")):
            person.open_tab(tab)
            person.page.wait_for_function(f"document.querySelector('{place} input').value.startsWith('sd1-2')")
    finally:
        person.choose_checkpoint("sd1-1")


def test_a_merge_takes_the_checkpoints_yaml_along_and_can_be_used_at_once(person: Person) -> None:
    """The webui tells SD2 by its real sizes: without the file beside it this checkpoint cannot be loaded."""
    page, folder = person.page, person.webui.models / "checkpoints"
    person.choose_checkpoint("sd2-1")
    plain, tagged = person.make("a house").images[0], person.make("a house <lyco:for-sd2:0.8>").images[0]
    person.open_tab("Merge")
    merge(page, "sd2-1", "for-sd2", "with its yaml")
    assert (folder / "with its yaml.yaml").read_bytes() == (folder / "sd2-1.yaml").read_bytes()
    page.click("#lyco_merge_use")
    wait_until_says(page, "#lyco_merge_used", "with its yaml.safetensors is selected")
    page.wait_for_function(f"document.querySelector('{CHECKPOINT} input').value.startsWith('with its yaml')")
    made = person.make("a house")
    assert "Model: with its yaml" in made.texts[0]
    assert largest(made.images[0], tagged) <= 1 < largest(made.images[0], plain)
    person.choose_checkpoint("sd1-1")


LAYOUTS = [
    ("attention", None, "SD 1/2: attention (17)", "MIDD"), ("attention", "SD 1/2: full set (26)", "SD 1/2: full set (26)", "MIDD"),
    ("large", None, "SDXL: attention (12)", "SDXL-STYLE"), ("large", "SDXL: full set (20)", "SDXL: full set (20)", "SDXL-STYLE"),
]  # fmt: skip


@pytest.mark.parametrize("network, layout, shown, preset", LAYOUTS)
def test_the_layout_follows_the_network_and_each_has_presets(
    person: Person, network: str, layout: str | None, shown: str, preset: str
) -> None:
    page = person.page
    person.open_tab("Block weight")
    choose(page, "#lyco_blocks_network", network)
    wait_until_says(page, "#lyco_blocks_tag", f"<lyco:{network}:1")
    if layout:
        choose(page, "#lyco_blocks_layout", layout)
    page.wait_for_function(f"document.querySelector('#lyco_blocks_layout input').value === '{shown}'")
    choose(page, "#lyco_blocks_preset", preset)
    wait_until_says(page, "#lyco_blocks_tag", f"<lyco:{network}:1:lbw={preset}>")
