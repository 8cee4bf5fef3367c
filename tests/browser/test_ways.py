"""Ways through the pages with files of one's own: from an image to its settings, from a prompt to a merge and back, results."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lib_lycoris.demo import CHECKPOINT, NETWORKS
from tests.browser.test_fitting import MERGED, app, data  # noqa: F401 - two are fixtures
from tests.browser.test_pages import driver, go_to, page, write  # noqa: F401 - two are fixtures
from tests.ui.test_app import choose, wait_until_says

pytestmark = [pytest.mark.browser, pytest.mark.new_set]

LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
DOES = "#lyco_results_list li:has-text({name!r}) [data-lyco-do={does}]"


def give(page: Any, button: str, *files: Path) -> None:  # noqa: F811 - the fixture's value
    """Press a button that asks for files, and give them."""
    with page.expect_file_chooser() as asked:
        page.click(button)
    asked.value.set_files(list(files))


def test_an_image_gives_its_settings_back_and_a_checkpoint_is_chosen_and_left(page: Any, data: Path) -> None:  # noqa: F811
    page.fill("#lyco_steps input[type=number]", "3")
    write(page, "#lyco_seed", "5")
    write(page, "#lyco_negative", "green")
    write(page, "#lyco_prompt", "a red circle <lyco:demo-lokr:0.7>")
    page.click("#lyco_generate")
    wait_until_says(page, "#lyco_progress", "Done, seed 5.")
    (image,) = (data / "images").glob("*-5.png")
    for place in ("#lyco_prompt", "#lyco_negative"):
        write(page, place, "")
    write(page, "#lyco_seed", "6")
    give(page, "#lyco_info_read", image)
    page.wait_for_function("document.querySelector('#lyco_prompt textarea').value === 'a red circle <lyco:demo-lokr:0.7>'")
    assert (page.input_value("#lyco_seed input"), page.input_value("#lyco_negative textarea")) == ("5", "green")
    choose(page, "#lyco_checkpoint", MERGED)
    wait_until_says(page, "#lyco_checkpoint_told", "Images are made with merged now")
    page.click("#lyco_checkpoint_back")
    page.wait_for_function(f"document.querySelector('#lyco_checkpoint input').value === '{CHECKPOINT.name}'")
    wait_until_says(page, "#lyco_about", CHECKPOINT.stem)
    go_to(page, "Inspect")
    go_to(page, "Generate")
    wait_until_says(page, "#lyco_about", " GB")


def test_a_prompt_becomes_a_merge_and_a_merge_tags(page: Any) -> None:  # noqa: F811
    write(page, "#lyco_prompt", "a red circle <lyco:demo-lokr:0.7> <lyco:demo-loha:0.4>")
    page.click("#lyco_stacks .label-wrap")
    page.click("#lyco_stack_merge")
    page.wait_for_selector("#lyco_merge_row1", state="visible")
    assert page.input_value("#lyco_merge_row1_strength") == "0.4"
    page.click("#lyco_merge_row0_remove")
    page.wait_for_selector("#lyco_merge_row0", state="detached")
    page.fill("#lyco_merge_row1_strength", "0.6")
    page.wait_for_timeout(700)
    page.click("#lyco_merge_as_tags")
    wait_until_says(page, "#lyco_merge_tags", "<lyco:demo-loha:0.6>")
    page.click("#lyco_merge_tags [data-lyco-send]")
    page.wait_for_selector("#lyco_prompt textarea", state="visible")
    assert page.input_value("#lyco_prompt textarea") == "a red circle <lyco:demo-lokr:0.7> <lyco:demo-loha:0.6>"


def test_what_is_not_chosen_is_said_and_no_page_opens(page: Any) -> None:  # noqa: F811
    write(page, "#lyco_prompt", "no tag")
    page.click("#lyco_stacks .label-wrap")
    page.click("#lyco_stack_merge")
    wait_until_says(page, "#lyco_stack_told", "the prompt has no tag")
    page.click("#lyco_pair .label-wrap")
    page.click("#lyco_pair_run")
    wait_until_says(page, "#lyco_pair_progress", "choose an image on the left and one on the right")
    go_to(page, "Networks")
    page.wait_for_selector(".lyco_card")
    page.click("#lyco_networks_resize")
    wait_until_says(page, "#lyco_networks_told", "No card is chosen")
    page.wait_for_timeout(500)
    assert page.locator("#lyco_networks_resize").is_visible()


def test_a_result_is_run_again_used_undone_and_deleted(page: Any, data: Path) -> None:  # noqa: F811
    def press(name: str, does: str) -> None:
        page.click(DOES.format(name=name, does=does))

    go_to(page, "Merge")
    if not page.locator("#lyco_merge_row0").is_visible():
        choose(page, "#lyco_merge_add", "demo-lokr")
    page.check("#lyco_merge_undo input")
    write(page, "#lyco_merge_name", "kept")
    wait_until_says(page, "#lyco_merge_plan", "layers changed")
    page.click("#lyco_merge_run")
    wait_until_says(page, "#lyco_merge_progress", "Done in")
    go_to(page, "Results")
    wait_until_says(page, "#lyco_results_list", "kept.safetensors (")
    with page.expect_download() as loaded:
        page.click('#lyco_results_list a[download="kept.safetensors"]')
    assert Path(loaded.value.path()).read_bytes() == (data / "checkpoints" / "kept.safetensors").read_bytes()
    press("kept.safetensors", "again")
    wait_until_says(page, "#lyco_results_told", "runs again, as kept-2.safetensors")
    press("kept.safetensors", "undo")
    wait_until_says(page, "#lyco_results_told", f"The original is written again, as {CHECKPOINT.stem}-restored.safetensors")
    for name in ("kept-2.safetensors", f"{CHECKPOINT.stem}-restored.safetensors"):
        for _ in range(60):
            page.click("#lyco_results_look")
            page.wait_for_timeout(500)
            if f"{name} (" in page.inner_text("#lyco_results_list"):
                break
        wait_until_says(page, "#lyco_results_list", f"{name} (")
    assert (data / "checkpoints" / f"{CHECKPOINT.stem}-restored.safetensors").read_bytes() == CHECKPOINT.read_bytes()
    press("kept-2.safetensors", "use")
    wait_until_says(page, "#lyco_results_told", "Images are made with kept-2 now")
    go_to(page, "Generate")
    page.wait_for_function("document.querySelector('#lyco_checkpoint input').value === 'kept-2.safetensors'")
    wait_until_says(page, "#lyco_about", "kept-2 (")
    go_to(page, "Results")
    press("kept-2.safetensors", "delete")
    wait_until_says(page, "#lyco_results_told", "Moved to")
    assert not (data / "checkpoints" / "kept-2.safetensors").exists()
    page.click("#lyco_results_empty")
    wait_until_says(page, "#lyco_results_told", "is empty")
    assert not list((data / "deleted").glob("*"))
    go_to(page, "Generate")
    page.wait_for_function("document.querySelector('#lyco_checkpoint input').value === ''")  # it is no file of the folder any more
    page.click("#lyco_checkpoint_back")
    page.wait_for_function(f"document.querySelector('#lyco_checkpoint input').value === '{CHECKPOINT.name}'")


def test_files_are_dropped_and_presets_renamed_and_shared(page: Any, data: Path, tmp_path: Path) -> None:  # noqa: F811
    files = [tmp_path / "one of mine.safetensors", tmp_path / "another of mine.safetensors"]
    shutil.copyfile(NETWORKS / "demo-lora.safetensors", files[0])
    large = {f"{LAYER}.lora_up.weight": torch.ones(320, 4000), f"{LAYER}.lora_down.weight": torch.ones(4000, 320)}
    save_file(large, files[1])  # 10 MB: more than any other request may have
    go_to(page, "Inspect")
    page.click("#lyco_drop .label-wrap")
    page.set_input_files("#lyco_drop_files input[type=file]", files)
    for file in files:
        wait_until_says(page, "#lyco_drop_shown", file.name)
    page.click("#lyco_drop_copy")
    wait_until_says(page, "#lyco_drop_told", "now.")
    assert (data / "networks" / "one of mine.safetensors").read_bytes() == files[0].read_bytes()
    choose(page, "#lyco_inspect_model", "one of mine")
    wait_until_says(page, "#lyco_inspect_head", "648 of 648")
    go_to(page, "Block weight")
    page.wait_for_selector("#lyco_blocks_picture:not([inert])")
    write(page, "#lyco_blocks_values", ",".join(["0.3"] * 26))
    page.wait_for_function("document.querySelector('[data-block=IN05] input[type=number]').value === '0.3'")
    page.wait_for_timeout(1000)
    write(page, "#lyco_blocks_name", "WEAK")
    page.click("#lyco_blocks_save")
    wait_until_says(page, "#lyco_blocks_notes", "Saved: lbw=WEAK")
    page.wait_for_function("document.querySelector('#lyco_blocks_preset input').value === 'WEAK'")
    page.click("#lyco_presets .label-wrap")
    write(page, "#lyco_presets_name", "WEAKER")
    page.click("#lyco_presets_rename")
    wait_until_says(page, "#lyco_presets_told", "WEAK is called WEAKER now.")
    page.click("#lyco_presets_export")
    page.wait_for_function("document.querySelector('#lyco_presets_text textarea').value.startsWith('WEAKER:0.3,0.3,')")
    write(page, "#lyco_presets_text", "SHARED:" + ",".join(["0.5"] * 17))
    page.click("#lyco_presets_import")
    wait_until_says(page, "#lyco_presets_told", "1 preset was added: SHARED.")
