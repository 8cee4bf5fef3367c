"""The user's way through the pages in a real browser, from file to image, and what each page says of wrong input."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lib_lycoris.demo import CHECKPOINT
from tests.ui.test_app import choose, running_app, tab, wait_until_says  # noqa: F401 - `tab` is a fixture

pytestmark = [pytest.mark.browser, pytest.mark.new_set]

MODEL = CHECKPOINT.name
WIDE = 512  # side of the weights whose extraction takes some seconds
HTML_NAME = "<img src=x onerror=window.broken=1>"
EVIL = "<img src=x onerror=window.broken=2>"
NOT_EXECUTED = "window.broken === undefined && document.querySelectorAll('#lyco_page img[src=x]').length === 0"
LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
MORE = 'button:has-text("More options"):visible, .label-wrap:has-text("More options"):visible'
NEWEST = "(document.querySelector('#lyco_gallery img') || {src: ''}).src"
LATE = """() => {
    const fetched = window.fetch;
    window.fetch = async (...asked) => {
        const answer = await fetched(...asked);
        if (String(asked[0]?.url ?? asked[0]).includes("queue/join")) await new Promise((go) => setTimeout(go, 1500));
        return answer;
    };
}"""  # the answers that say which number a work has come late
PROMPT = "a red circle on the left, blue background"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of an app and the folder of its data, with files that are slow, broken or badly named."""
    data = tmp_path_factory.mktemp("data")
    for name in ("networks", "checkpoints"):
        (data / name).mkdir()
    wide_pair(data / "checkpoints")
    (data / "networks" / "damaged.safetensors").write_bytes(b"not a network" * 9)
    (data / "checkpoints" / "damaged-model.safetensors").write_bytes(b"not a checkpoint" * 9)
    strange = {"strange.core.0.proj.lora_up.weight": torch.ones(8, 2), "strange.core.0.proj.lora_down.weight": torch.ones(2, 8)}
    save_file(strange, data / "networks" / "unknown-model.safetensors")
    (data / "networks" / "taken.safetensors").write_bytes(b"")
    badly_named(data / "networks" / f"{HTML_NAME}.safetensors")
    with running_app(data) as found:
        yield found, data


@pytest.fixture(scope="module")
def address(app: tuple[str, Path]) -> str:
    return app[0]


@pytest.fixture
def data(app: tuple[str, Path]) -> Path:
    return app[1]


def wide_pair(folder: Path) -> None:
    """Write an original and a tuned checkpoint of 48 layers."""
    g = torch.Generator().manual_seed(1)
    places = [f"{block}.1.transformer_blocks.0.{side}.{part}" for block in (1, 2, 4, 5, 7, 8) for side in ("attn1", "attn2")
              for part in ("to_q", "to_k", "to_v", "to_out.0")]  # fmt: skip
    weights = {f"model.diffusion_model.input_blocks.{place}.weight": torch.randn(WIDE, WIDE, generator=g) for place in places}
    tuned = {key: value + torch.randn(value.shape, generator=g) for key, value in weights.items()}
    for name, tensors in (("wide", weights), ("wide-tuned", tuned)):
        save_file({key: value.half() for key, value in tensors.items()}, folder / f"{name}.safetensors")


def badly_named(path: Path) -> None:
    """Write a network with HTML in its metadata and in a key that nothing knows."""
    tensors = {f"{LAYER}.lora_up.weight": torch.ones(32, 2), f"{LAYER}.lora_down.weight": torch.ones(2, 32), EVIL: torch.ones(2)}
    texts = {"ss_output_name": EVIL, "ss_training_comment": EVIL, "modelspec.trigger_phrase": EVIL, "modelspec.description": EVIL,
             "ss_base_model_version": "sd_v1"}  # fmt: skip
    save_file(tensors, path, texts)


def open_page(tab: Any, name: str) -> None:  # noqa: F811 - the fixture's value
    tab.locator("#lyco_tabs > .tab-nav button", has_text=name).first.click()


def write(tab: Any, place: str, text: str) -> None:  # noqa: F811
    """Type into a text field, which is one line or several."""
    tab.fill(f"{place} :is(textarea, input)", text)


def generate(tab: Any, prompt: str) -> np.ndarray:  # noqa: F811
    """Generate, and return the pixels of the image that the gallery then shows; its file holds the prompt too."""
    tab.wait_for_selector("#lyco_prompt textarea", state="visible")
    write(tab, "#lyco_prompt", prompt)
    write(tab, "#lyco_seed", "5")
    tab.fill("#lyco_steps input[type=number]", "6")
    before = newest(tab)
    tab.click("#lyco_generate")
    tab.wait_for_function(f"before => {NEWEST} && {NEWEST} !== before", arg=before)
    wait_until_says(tab, "#lyco_progress", "Done, seed 5.")
    with urlopen(newest(tab), timeout=30) as answer, Image.open(BytesIO(answer.read())) as image:
        return np.asarray(image.convert("RGB"))


def newest(tab: Any) -> str:  # noqa: F811
    """Return the address of the image that is shown first."""
    return str(tab.evaluate(NEWEST))


def files_in(data: Path) -> list[str]:
    """Return every file that a tool could have written."""
    return sorted(path.name for name in ("networks", "checkpoints") for path in (data / name).rglob("*"))


def says_once(tab: Any, place: str, text: str) -> None:  # noqa: F811
    """Wait for a sentence; it is the only one there."""
    wait_until_says(tab, place, text)
    assert tab.locator(f"{place} .lyco_note").count() == 1


def refused(tab: Any, tool: str, text: str) -> None:  # noqa: F811
    """Start a tool and be told one sentence below its button instead.

    Gradio drops a click that comes while it still ends the event before: then it is clicked once more, as a person would.
    """
    tab.click(f"#lyco_{tool}_run")
    tab.wait_for_timeout(1500)
    if text not in tab.inner_text(f"#lyco_{tool}_notes"):
        tab.click(f"#lyco_{tool}_run")
    says_once(tab, f"#lyco_{tool}_notes", text)
    tab.wait_for_selector(f"#lyco_{tool}_run:not([disabled])")


def shown_as_text(tab: Any, *places: str) -> None:  # noqa: F811
    """A file's name is there to be read in these places, and nowhere was it taken for HTML."""
    for place in places:
        wait_until_says(tab, place, HTML_NAME)
    assert tab.evaluate(NOT_EXECUTED)


def test_a_merged_checkpoint_is_used_and_extracted_again(tab: Any, data: Path) -> None:  # noqa: F811
    plain = generate(tab, PROMPT)
    tagged = generate(tab, f"{PROMPT} <lyco:demo-lora:1>")
    assert not np.array_equal(plain, tagged)
    open_page(tab, "Merge")
    choose(tab, "#lyco_merge_checkpoint", MODEL)
    choose(tab, "#lyco_merge_add", "demo-lora")
    write(tab, "#lyco_merge_name", "merged")
    wait_until_says(tab, "#lyco_merge_plan", "layers changed")
    tab.click("#lyco_merge_run")
    wait_until_says(tab, "#lyco_merge_progress", "Done")
    assert (data / "checkpoints" / "merged.safetensors").stat().st_size > 1e6
    tab.click("#lyco_merge_use")
    wait_until_says(tab, "#lyco_merge_used", "Images are made with merged")
    open_page(tab, "Extract")
    choose(tab, "#lyco_extract_org", MODEL)
    choose(tab, "#lyco_extract_tuned", "merged.safetensors")
    tab.fill("#lyco_extract_rank input[type=number]", "16")
    tab.click("#lyco_extract_measure")
    tab.wait_for_selector("#lyco_extract_curve img")
    wait_until_says(tab, "#lyco_extract_curve_text", "rank")
    write(tab, "#lyco_extract_name", "from merged")
    tab.click("#lyco_extract_run")
    wait_until_says(tab, "#lyco_extract_tag", "<lyco:from merged:1>")
    assert (data / "networks" / "from merged.safetensors").stat().st_size > 1e4
    open_page(tab, "Generate")
    merged = generate(tab, PROMPT)
    assert not np.array_equal(merged, plain)
    assert np.abs(merged.astype(int) - tagged).mean() < np.abs(plain.astype(int) - tagged).mean() / 2


def test_a_slider_of_a_block_changes_the_picture(tab: Any) -> None:  # noqa: F811
    plain = generate(tab, PROMPT)
    whole = generate(tab, f"{PROMPT} <lyco:demo-locon:1>")
    open_page(tab, "Block weight")
    choose(tab, "#lyco_blocks_network", "demo-locon")
    wait_until_says(tab, "#lyco_blocks_legend", "Grey bars")
    tab.focus("#lyco_blocks_picture [data-block]:not(.lyco_untouched) input[type=range]")
    tab.keyboard.press("Home")
    wait_until_says(tab, "#lyco_blocks_tag", "<lyco:demo-locon:1:lbw=")
    tab.click("#lyco_blocks_tag [data-lyco-send]")
    tab.wait_for_function("document.querySelector('#lyco_prompt textarea').value.includes(':lbw=')")
    tag = tab.input_value("#lyco_prompt textarea").rsplit("<", 1)[1]
    shown = generate(tab, f"{PROMPT} <{tag}")
    assert not np.array_equal(shown, whole) and not np.array_equal(shown, plain)


def test_a_cancelled_job_stops_within_a_second_and_leaves_nothing(tab: Any, data: Path) -> None:  # noqa: F811
    before = files_in(data)
    open_page(tab, "Extract")
    choose(tab, "#lyco_extract_org", "wide.safetensors")
    choose(tab, "#lyco_extract_tuned", "wide-tuned.safetensors")
    tab.fill("#lyco_extract_rank input[type=number]", "256")
    write(tab, "#lyco_extract_name", "never")
    taken = []
    for _ in range(3):  # the best of three: what else the machine does is not to be measured
        tab.click("#lyco_extract_run")
        wait_until_says(tab, "#lyco_extract_progress", "left")
        tab.click("#lyco_extract_cancel")
        started = time.monotonic()
        wait_until_says(tab, "#lyco_extract_progress", "Cancelled. Nothing was written.")
        taken.append(time.monotonic() - started)
        assert files_in(data) == before
        tab.wait_for_selector("#lyco_extract_run:not([disabled])")
    assert min(taken) < 1, taken


def test_generate_tells_what_is_wrong(tab: Any) -> None:  # noqa: F811
    generate(tab, "a <lyco:damaged:1>")
    says_once(tab, "#lyco_notes", "damaged.safetensors is a text, not a network")
    generate(tab, f"a <lyco:{EVIL}:1>")
    wait_until_says(tab, "#lyco_notes", "img src=x")
    assert tab.evaluate(NOT_EXECUTED)


def test_merge_tells_what_is_wrong(tab: Any, data: Path) -> None:  # noqa: F811
    before = files_in(data)
    open_page(tab, "Merge")
    kept = data / "pages.json"
    for _ in json.loads(kept.read_text()).get("merge", {}).get("networks", []) if kept.exists() else ():  # of the last visit
        tab.click("#lyco_merge_row0_remove")
    tab.wait_for_selector("#lyco_merge_row0", state="detached")
    refused(tab, "merge", "no network is chosen")
    choose(tab, "#lyco_merge_add", HTML_NAME)
    shown_as_text(tab, "#lyco_merge_row0")
    write(tab, "#lyco_merge_name", "never")
    choose(tab, "#lyco_merge_checkpoint", "damaged-model")
    refused(tab, "merge", "damaged-model.safetensors is a text, not a checkpoint")
    choose(tab, "#lyco_merge_checkpoint", MODEL)
    write(tab, "#lyco_merge_name", MODEL.split(".")[0])
    refused(tab, "merge", f"{MODEL} is there already")
    write(tab, "#lyco_merge_name", "../elsewhere")
    refused(tab, "merge", "elsewhere")
    write(tab, "#lyco_merge_name", "never")
    choose(tab, "#lyco_merge_add", "damaged")
    tab.wait_for_selector("#lyco_merge_row1")
    refused(tab, "merge", "damaged.safetensors is a text, not a network")
    assert tab.evaluate(NOT_EXECUTED) and files_in(data) == before


def test_extract_tells_what_is_wrong(tab: Any, data: Path) -> None:  # noqa: F811
    before = files_in(data)
    open_page(tab, "Extract")
    choose(tab, "#lyco_extract_org", MODEL)
    choose(tab, "#lyco_extract_tuned", MODEL)
    refused(tab, "extract", "the same file")
    choose(tab, "#lyco_extract_tuned", "damaged-model")
    refused(tab, "extract", "damaged-model.safetensors is a text, not a checkpoint")
    choose(tab, "#lyco_extract_org", "wide.safetensors")
    choose(tab, "#lyco_extract_tuned", "wide-tuned")
    tab.click(MORE)
    write(tab, "#lyco_extract_conv_dim", "-3")
    refused(tab, "extract", "a rank is 1 or more, but got -3")
    write(tab, "#lyco_extract_conv_dim", "many")
    refused(tab, "extract", "many")
    write(tab, "#lyco_extract_conv_dim", "")
    write(tab, "#lyco_extract_name", "taken")
    refused(tab, "extract", "taken.safetensors is there already")
    assert files_in(data) == before


def test_resize_and_bake_tell_what_is_wrong(tab: Any, data: Path) -> None:  # noqa: F811
    before = files_in(data)
    open_page(tab, "Resize")
    refused(tab, "resize", "no network is chosen")
    choose(tab, "#lyco_resize_model", "damaged")
    refused(tab, "resize", "damaged.safetensors is a text, not a network")
    choose(tab, "#lyco_resize_model", "demo-lora")
    choose(tab, "#lyco_resize_base_model", MODEL)
    tab.click(MORE)
    write(tab, "#lyco_resize_new_conv_rank", "-3")
    refused(tab, "resize", "at least rank 1")
    write(tab, "#lyco_resize_new_conv_rank", "")
    write(tab, "#lyco_resize_name", "taken")
    refused(tab, "resize", "taken.safetensors is there already")
    tab.click('#lyco_page button:text-is("Bake"):visible')
    choose(tab, "#lyco_bake_model", "damaged")
    write(tab, "#lyco_bake_weights", ",".join(["0.5"] * 17))
    refused(tab, "bake", "damaged.safetensors is a text, not a network")
    choose(tab, "#lyco_bake_model", "unknown-model")
    choose(tab, "#lyco_bake_sd_model", "No base model")
    refused(tab, "bake", "block weights need a base model whose blocks are known")
    choose(tab, "#lyco_bake_model", "demo-lora")
    choose(tab, "#lyco_bake_sd_model", MODEL)
    write(tab, "#lyco_bake_weights", "1,2,3")
    refused(tab, "bake", "3 values came")
    assert files_in(data) == before


def test_block_weight_tells_what_is_wrong(tab: Any, data: Path) -> None:  # noqa: F811
    before = files_in(data)
    open_page(tab, "Block weight")
    tab.click("#lyco_blocks_bake_part button, #lyco_blocks_bake_part .label-wrap")
    tab.wait_for_selector("#lyco_blocks_picture:not([inert])")  # the network of the last visit is there
    if not tab.input_value("#lyco_blocks_network input"):  # at the first visit
        tab.click("#lyco_blocks_bake")
        says_once(tab, "#lyco_blocks_bake_notes", "no network is chosen")
    choose(tab, "#lyco_blocks_network", "damaged")
    says_once(tab, "#lyco_blocks_notes", "damaged.safetensors is a text, not a network")
    tab.click("#lyco_blocks_bake")
    says_once(tab, "#lyco_blocks_bake_notes", "damaged.safetensors is a text, not a network")
    choose(tab, "#lyco_blocks_network", HTML_NAME)
    wait_until_says(tab, "#lyco_blocks_tag", "img src=x")
    assert tab.evaluate(NOT_EXECUTED)
    choose(tab, "#lyco_blocks_network", "demo-lora")
    write(tab, "#lyco_blocks_bake_name", "taken")
    tab.click("#lyco_blocks_bake")
    says_once(tab, "#lyco_blocks_bake_notes", "taken.safetensors is there already")
    write(tab, "#lyco_blocks_name", EVIL)
    tab.click("#lyco_blocks_save")
    says_once(tab, "#lyco_blocks_notes", "A name cannot be a number or contain")
    assert tab.input_value("#lyco_blocks_name :is(textarea, input)") == EVIL  # still there to be mended, as a text
    assert tab.evaluate(NOT_EXECUTED) and files_in(data) == before
    presets = list(data.rglob("lbwpresets.txt"))
    assert all("img" not in path.read_text(encoding="utf-8") for path in presets)
    tab.click("#lyco_blocks_preset input")
    tab.wait_for_selector("#lyco_blocks_preset ul li")
    assert "img" not in tab.inner_text("#lyco_blocks_preset ul") and tab.evaluate(NOT_EXECUTED)


def test_inspect_tells_what_is_wrong(tab: Any) -> None:  # noqa: F811
    open_page(tab, "Inspect")
    choose(tab, "#lyco_inspect_model", "damaged")
    says_once(tab, "#lyco_inspect_progress", "damaged.safetensors is a text, not a network")
    choose(tab, "#lyco_inspect_model", HTML_NAME)
    shown_as_text(tab, "#lyco_inspect_found")
    wait_until_says(tab, "#lyco_inspect_found", EVIL)  # the metadata's own HTML
    tab.click("#lyco_inspect_compare button, #lyco_inspect_compare .label-wrap")
    tab.click("#lyco_inspect_run")
    says_once(tab, "#lyco_compare_notes", "no network is chosen")
    assert tab.evaluate(NOT_EXECUTED)


def test_what_a_busy_page_gets_at_once_it_shows_whole(tab: Any) -> None:  # noqa: F811
    """A page that learns late which of its works a message is about looks at several at once."""
    open_page(tab, "Inspect")
    choose(tab, "#lyco_inspect_model", "demo-lora")
    wait_until_says(tab, "#lyco_inspect_head", "demo-lora")
    wait_until_says(tab, "#lyco_inspect_modules", "layers.")
    write(tab, "#lyco_inspect_search", "what no layer has")
    wait_until_says(tab, "#lyco_inspect_modules", "0 of")
    choose(tab, "#lyco_inspect_family", "Stable Diffusion 2.x")
    wait_until_says(tab, "#lyco_inspect_facts", "Stable Diffusion 2.x")
    open_page(tab, "Generate")
    write(tab, "#lyco_prompt", PROMPT)
    tab.fill("#lyco_steps input[type=number]", "150")
    tab.click("#lyco_generate")  # while it lasts, messages about all works come in
    tab.wait_for_timeout(300)
    open_page(tab, "Inspect")
    tab.evaluate(LATE)
    choose(tab, "#lyco_inspect_model", HTML_NAME)
    wait_until_says(tab, "#lyco_inspect_modules", "\t64")  # the size, which is told last
    for place, text in (("head", HTML_NAME), ("tag", "img src=x"), ("words", EVIL)):
        wait_until_says(tab, f"#lyco_inspect_{place}", text)
    assert tab.is_visible("#lyco_inspect_head") and tab.input_value("#lyco_inspect_search :is(textarea, input)") == ""
    assert tab.input_value("#lyco_inspect_family input") == "what the file tells"
    open_page(tab, "Generate")
    wait_until_says(tab, "#lyco_progress", "Done")
