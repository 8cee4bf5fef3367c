"""Files that are chosen: a checkpoint that fits is one click away wherever another one can be chosen, and new files change no choice."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from lib_lycoris.demo import CHECKPOINT, NETWORKS
from lib_lycoris.tools import TOOLS
from tests.browser.test_pages import driver, go_to, page  # noqa: F401 - two are fixtures
from tests.tools.test_extract import random_weights
from tests.ui.test_app import choose, running_app, wait_until_says

pytestmark = [pytest.mark.browser, pytest.mark.new_set]

OTHER, MERGED = "another.safetensors", "merged.safetensors"
CHANGE = "Resize, convert, bake"
PLACES = [  # page, what opens the form, the field of networks, that of the base model, the plan
    ("Merge", "", "merge_add", "merge_checkpoint", "merge"),
    (CHANGE, "text=Resize", "resize_model", "resize_base_model", "resize"),
    (CHANGE, "text=Convert", "convert_model", "convert_base_model", "convert"),
    (CHANGE, "text=Bake", "bake_model", "bake_sd_model", "bake"),
    (CHANGE, "text=Slim", "slim_model", "slim_base_model", "slim"),
    (CHANGE, "text=Interrogate", "interrogate_model", "interrogate_base_model", "interrogate"),
    (CHANGE, "text=Find", "find_library", "find_base_model", "find"),
    ("Block weight", "#lyco_blocks_bake_part .label-wrap", "blocks_network", "blocks_bake_base", "blocks_bake"),
    ("Inspect", "text=Compare", "inspect_several", "inspect_base", "compare"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def app(data: Path) -> Iterator[str]:
    (data / "checkpoints").mkdir()
    save_file(random_weights(1), data / "checkpoints" / OTHER)
    TOOLS["merge"].run(sd_model=CHECKPOINT, models=[NETWORKS / "demo-lora.safetensors"], save_to=data / "checkpoints" / MERGED)
    with running_app(data) as found:
        yield found


def test_a_checkpoint_that_fits_is_one_click_away(page: Any) -> None:  # noqa: F811
    for tab, opens, networks, base, plan in PLACES:
        go_to(page, tab)
        if opens:
            page.locator(f"#lyco_page .tabitem:visible >> {opens} >> visible=true").first.click()
        for name in ("demo-lora", "demo-lokr") if networks == "inspect_several" else ("demo-lora",):
            choose(page, f"#lyco_{networks}", name)
        page.keyboard.press("Escape")  # a list of several stays open, over the fields below it
        if plan in ("slim", "resize"):  # which would change nothing
            page.fill({"slim": "#lyco_slim_new_rank :is(textarea, input)", "resize": "#lyco_resize_rank input[type=number]"}[plan], "2")
        if plan == "find":  # only what a checkpoint is made of asks for a base model that fits it
            choose(page, "#lyco_find_checkpoint", MERGED)
        choose(page, f"#lyco_{base}", OTHER)
        wait_until_says(page, f"#lyco_{plan}_plan", f"It fits {CHECKPOINT.name}.")
        button = page.locator(f"#lyco_{plan}_use_base")
        assert button.inner_text() == f"Use {CHECKPOINT.name}", plan
        button.click()
        page.wait_for_function(f"document.querySelector('#lyco_{base} input').value === '{CHECKPOINT.name}'")
        button.wait_for(state="hidden")
        wait_until_says(page, f"#lyco_{plan}_plan", "time")
        assert page.locator(f"#lyco_{plan}_plan .lyco_note.bad").count() == 0, page.inner_text(f"#lyco_{plan}_plan")


def test_verify_takes_the_checkpoint_of_the_recipe_whatever_is_chosen(page: Any) -> None:  # noqa: F811
    go_to(page, CHANGE)
    page.locator("#lyco_page .tabitem .tab-nav button:visible", has_text="Verify").click()
    choose(page, "#lyco_verify_merged", MERGED)
    choose(page, "#lyco_verify_sd_model", OTHER)
    again = f"would compute {MERGED} again from {CHECKPOINT.name}, demo-lora.safetensors"
    wait_until_says(page, "#lyco_verify_plan", again)
    assert not page.locator("#lyco_verify_use_base").is_visible()  # there is nothing to choose
    page.click("#lyco_verify_run")
    wait_until_says(page, "#lyco_verify_notes", f"{MERGED}: all 1004 tensors are, bit by bit, what the recipe gives")


def test_what_is_chosen_stays_when_there_are_new_files(page: Any, data: Path) -> None:  # noqa: F811
    def chosen() -> list[str]:
        return [token.strip() for token in page.locator("#lyco_inspect_several .token").all_inner_texts()]

    go_to(page, "Inspect")
    page.locator("#lyco_inspect_compare .label-wrap").click()
    page.wait_for_timeout(1000)  # what an earlier visit has left
    for name in sorted({"demo-lora", "demo-lokr"} - set(chosen())):
        choose(page, "#lyco_inspect_several", name)
    before = chosen()
    assert set(before) == {"demo-lora", "demo-lokr"}
    shutil.copyfile(NETWORKS / "demo-full.safetensors", data / "networks" / "another first one.safetensors")
    page.click("#lyco_inspect_several_refresh")
    page.locator("#lyco_inspect_several input").click()
    page.wait_for_selector('#lyco_inspect_several ul li:has-text("another first one")')
    page.keyboard.press("Escape")
    assert chosen() == before
    choose(page, "#lyco_inspect_several", "demo-oft")
    page.keyboard.press("Escape")
    page.wait_for_timeout(1000)
    page.click("#lyco_inspect_run")
    wait_until_says(page, "#lyco_inspect_compared", "demo-oft")
    assert all(name in page.inner_text("#lyco_inspect_compared") for name in before)
    assert "another first one" not in page.inner_text("#lyco_inspect_compared")
