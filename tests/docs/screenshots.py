"""Takes the images of the app's pages for docs/images anew, as a visitor of the demo sees them: python -m tests.docs.screenshots [NAME ...]

All of them are taken, for each builds on what the one before has left; with names only those are written.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from lib_lycoris.demo import CHECKPOINT
from tests.browser import chromium
from tests.ui.test_app import FLAGS, READY, choose, running_app, wait_until_says

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
SHOWN = "/home/artist/LyCORIS"  # instead of the folder that the app of this run has
WIDTH, HEIGHT = 1280, 800
COLOURS = 200  # of an image that is written: pages have few
PROMPT = "a red circle on the left and a blue square on the right, yellow background"
RENAME = """([from, to]) => {
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) walk.currentNode.data = walk.currentNode.data.replaceAll(from, to);
    for (const area of document.querySelectorAll('textarea')) area.value = area.value.replaceAll(from, to);
}"""
Shot = Callable[[Any], str]  # brings a page to what is to be seen, and returns the part of it that is: empty for the page
SHOTS: dict[str, Shot] = {}


def shot(take: Shot) -> Shot:
    """Have an image taken, of the function's name."""
    SHOTS[take.__name__.replace("_", "-")] = take
    return take


def go_to(page: Any, name: str, part: str = "") -> None:
    page.locator("#lyco_tabs > .tab-nav button", has_text=name).first.click()
    if part.startswith("#"):
        page.locator(f"{part} .label-wrap:not(.open)").first.click()
    elif part:
        page.locator("#lyco_page .tabitem .tab-nav button:visible", has_text=part).first.click()


def write(page: Any, place: str, text: str) -> None:
    page.fill(f"{place} :is(textarea, input)", text)


def done(page: Any, name: str) -> None:
    """Press a tool's button and wait for its end."""
    page.wait_for_timeout(1500)  # the plan
    page.click(f"#lyco_{name}_run")
    wait_until_says(page, f"#lyco_{name}_progress", "Done in")


@shot
def generate(page: Any) -> str:
    for strength in ("0.5", "1"):
        write(page, "#lyco_prompt", f"{PROMPT} <lyco:demo-lokr:{strength}>")
        write(page, "#lyco_seed", "1")
        page.click("#lyco_generate")
        page.wait_for_selector("#lyco_progress [role=progressbar]")
        wait_until_says(page, "#lyco_progress", "Done, seed 1.")
    page.wait_for_timeout(1000)
    return ""


@shot
def generate_problem(page: Any) -> str:
    write(page, "#lyco_prompt", f"{PROMPT} <lyco:demo-lorka:0.7> <lyco:demo-loha:1:colour=2>")
    page.click("#lyco_generate")
    wait_until_says(page, "#lyco_notes", "demo-lorka")
    return "viewport"


@shot
def generate_dark(page: Any) -> str:
    write(page, "#lyco_prompt", f"{PROMPT} <lyco:demo-lokr:1>")
    page.emulate_media(color_scheme="dark")
    page.evaluate("document.body.classList.add('dark')")
    page.fill("#lyco_steps input[type=number]", "100")
    page.click("#lyco_generate")
    page.wait_for_selector("#lyco_progress .lyco_preview")
    return ""


@shot
def phone(page: Any) -> str:
    page.click("#lyco_cancel")
    page.evaluate("document.body.classList.remove('dark')")
    wait_until_says(page, "#lyco_progress", "Cancelled.")
    page.fill("#lyco_steps input[type=number]", "20")
    page.set_viewport_size({"width": 390, "height": HEIGHT})
    page.click("#lyco_generate")
    wait_until_says(page, "#lyco_progress", "Done, seed 1.")
    page.wait_for_timeout(1000)
    return "viewport"


@shot
def grid(page: Any) -> str:
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    write(page, "#lyco_prompt", PROMPT)
    go_to(page, "Generate", "#lyco_grid")
    for name in ("demo-lokr", "demo-loha", "demo-oft"):
        choose(page, "#lyco_grid_networks", name)
    page.keyboard.press("Escape")
    page.click("#lyco_grid_run")
    wait_until_says(page, "#lyco_grid_progress", "Done: saved as")
    return "#lyco_grid"


@shot
def before_after(page: Any) -> str:
    write(page, "#lyco_prompt", f"{PROMPT} <lyco:demo-loha:1>")
    go_to(page, "Generate", "#lyco_pair")
    page.click("#lyco_pair_both")
    page.wait_for_selector("#lyco_pair_shown img")
    page.wait_for_timeout(500)
    return "#lyco_pair"


@shot
def stacks(page: Any) -> str:
    go_to(page, "Generate", "#lyco_stacks")
    page.click("#lyco_stack_save")
    wait_until_says(page, "#lyco_stack_told", "The text above can be shared.")
    return "#lyco_stacks"


@shot
def merge_plan(page: Any) -> str:
    go_to(page, "Merge")
    page.wait_for_function(f"document.querySelector('#lyco_merge_checkpoint input').value === '{CHECKPOINT.name}'")
    for number, (name, strength) in enumerate((("demo-lokr", "0.5"), ("demo-loha", "0.8"))):
        choose(page, "#lyco_merge_add", name)
        page.wait_for_selector(f"#lyco_merge_row{number}")
        page.fill(f"#lyco_merge_row{number}_strength", strength)
    page.check("#lyco_merge_undo input")
    write(page, "#lyco_merge_name", "stars and hearts")
    wait_until_says(page, "#lyco_merge_plan", "layers changed")
    page.wait_for_timeout(1500)
    return ""


@shot
def merge(page: Any) -> str:
    done(page, "merge")
    page.click("#lyco_merge_as_tags")
    page.wait_for_selector("#lyco_merge_plot img")
    return ""


@shot
def extract(page: Any) -> str:
    go_to(page, "Extract")
    choose(page, "#lyco_extract_tuned", "stars and hearts")
    page.fill("#lyco_extract_rank input[type=number]", "8")
    page.click("#lyco_extract_measure")
    page.wait_for_selector("#lyco_extract_curve img")
    page.wait_for_selector("#lyco_extract_run:not([disabled])")
    write(page, "#lyco_extract_name", "both styles")
    done(page, "extract")
    page.wait_for_selector("#lyco_extract_blocks img")
    return ""


@shot
def change(page: Any) -> str:
    go_to(page, "Resize")
    choose(page, "#lyco_resize_model", "both styles")
    page.fill("#lyco_resize_rank input[type=number]", "4")
    page.wait_for_selector("#lyco_resize_curve img")
    done(page, "resize")
    return ""


@shot
def convert(page: Any) -> str:
    go_to(page, "Resize", "Convert")
    choose(page, "#lyco_convert_model", "demo-lokr")
    choose(page, "#lyco_convert_algorithm", "lora")
    done(page, "convert")
    return ""


@shot
def bake(page: Any) -> str:
    go_to(page, "Resize", "Bake")
    choose(page, "#lyco_bake_model", "demo-lora")
    choose(page, "#lyco_bake_preset", "MIDD")
    done(page, "bake")
    return ""


@shot
def verify(page: Any) -> str:
    go_to(page, "Resize", "Verify")
    choose(page, "#lyco_verify_merged", "stars and hearts")
    done(page, "verify")
    return ""


@shot
def slim(page: Any) -> str:
    go_to(page, "Resize", "Slim")
    choose(page, "#lyco_slim_model", "both styles")
    write(page, "#lyco_slim_error", "0.3")
    done(page, "slim")
    return ""


@shot
def interrogate(page: Any) -> str:
    go_to(page, "Resize", "Interrogate")
    choose(page, "#lyco_interrogate_model", "demo-lora")
    done(page, "interrogate")
    return ""


@shot
def find(page: Any) -> str:
    go_to(page, "Resize", "Find")
    for name in ("both styles", "demo-loha", "demo-lokr"):
        choose(page, "#lyco_find_library", name)
    page.keyboard.press("Escape")
    choose(page, "#lyco_find_checkpoint", "stars and hearts")
    done(page, "find")
    return ""


@shot
def networks(page: Any) -> str:
    go_to(page, "Networks")
    page.wait_for_selector(".lyco_card")
    page.click('[data-name="both styles"] [data-lyco-pick]')
    page.wait_for_selector("#lyco_networks_text", state="visible")
    page.check("#lyco_networks_favourite input")
    write(page, "#lyco_networks_preferred", "0.7")
    write(page, "#lyco_networks_triggers", "star, heart")
    write(page, "#lyco_networks_text", "Stars at 0.5, hearts from 0.8 on.")
    page.click("#lyco_networks_save")
    wait_until_says(page, "#lyco_networks_told", "Saved in")
    return ""


@shot
def blocks(page: Any) -> str:
    go_to(page, "Block weight")
    choose(page, "#lyco_blocks_network", "demo-locon")
    wait_until_says(page, "#lyco_blocks_legend", "Grey bars")
    for block, value in (("IN04", "0.5"), ("M00", "0"), ("OUT03", "-0.5")):
        page.fill(f'[data-block="{block}"] input[type=number]', value)
    wait_until_says(page, "#lyco_blocks_tag", "-0.5")
    return ""


@shot
def analyzer_running(page: Any) -> str:
    page.click("#lyco_blocks_one")
    page.locator("#lyco_blocks_analyzer .label-wrap:not(.open)").click()
    write(page, "#lyco_blocks_prompt", PROMPT)
    write(page, "#lyco_blocks_which", "BASE IN04 IN07 M00 OUT05 OUT09")
    page.click("#lyco_blocks_analyze")
    page.wait_for_selector("#lyco_blocks_ranking td")
    return "#lyco_blocks_analyzer"


@shot
def analyzer(page: Any) -> str:
    wait_until_says(page, "#lyco_blocks_analyze_progress", "Done, seed")
    page.wait_for_selector("#lyco_blocks_gallery img")
    return "#lyco_blocks_analyzer"


@shot
def inspect(page: Any) -> str:
    go_to(page, "Inspect")
    choose(page, "#lyco_inspect_model", "demo-lokr")
    page.wait_for_selector("#lyco_inspect_spectra img")
    return ""


@shot
def compare(page: Any) -> str:
    go_to(page, "Inspect", "#lyco_inspect_compare")
    for name in ("demo-lora", "demo-lokr"):
        choose(page, "#lyco_inspect_several", name)
    page.keyboard.press("Escape")
    page.wait_for_timeout(1500)
    page.click("#lyco_inspect_run")
    wait_until_says(page, "#lyco_compare_progress", "Done in")
    page.wait_for_selector("#lyco_inspect_sides img")
    return "#lyco_inspect_compare"


@shot
def metadata(page: Any) -> str:
    go_to(page, "Inspect", "#lyco_inspect_metadata")
    write(page, "#lyco_metadata_title", "Blue stars")
    write(page, "#lyco_metadata_triggers", "star")
    done(page, "metadata")
    return "#lyco_inspect_metadata"


@shot
def train(page: Any) -> str:
    go_to(page, "Train")
    write(page, "#lyco_train_folder", "/home/artist/images/my-cat")
    write(page, "#lyco_train_name", "my-cat")
    write(page, "#lyco_train_trigger", "mycat")
    return ""


@shot
def results(page: Any) -> str:
    go_to(page, "Results")
    page.wait_for_selector("#lyco_results_list .lyco_images img")
    return ""


def take_all(page: Any, data: Path, names: list[str]) -> None:
    """Take all images and write those of these names."""
    for name, bring in SHOTS.items():
        part = bring(page)
        page.wait_for_timeout(500)
        page.evaluate(RENAME, [str(data), SHOWN])
        page.mouse.move(0, 0)
        if part.startswith("#"):
            kept = page.locator(part).first.screenshot()
        else:
            if not part:
                page.evaluate("window.scrollTo(0, 0)")
            kept = page.screenshot(full_page=not part)
        if not names or name in names:
            image = Image.open(BytesIO(kept)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
            image.save(IMAGES / f"{name}.png", optimize=True)
            print(f"{name}.png", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="of the images to write, without .png (default: all)")
    names = parser.parse_args().names
    from playwright.sync_api import sync_playwright

    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="lycoris-screenshots-"))
        address = stack.enter_context(running_app(Path(folder)))
        browser = stack.enter_context(sync_playwright()).chromium.launch(executable_path=chromium.get(), headless=True, args=FLAGS)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(60_000)
        page.goto(address, wait_until="domcontentloaded")
        page.wait_for_selector(READY, state="attached")
        take_all(page, Path(folder), names)
        browser.close()


if __name__ == "__main__":
    main()
