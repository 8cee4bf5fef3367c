"""The button that chooses a checkpoint which fits, on every page where a network can be for another one than the chosen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from safetensors.torch import save_file

from lib_lycoris.demo import CHECKPOINT
from tests.browser.test_pages import driver, go_to, page  # noqa: F401 - two are fixtures
from tests.tools.test_extract import random_weights
from tests.ui.test_app import choose, running_app, wait_until_says

pytestmark = [pytest.mark.browser, pytest.mark.new_set]

OTHER = "another.safetensors"
CHANGE = "Resize, convert, bake"
PLACES = [  # page, what opens the form, the field of networks, that of the base model, the plan
    ("Merge", "", "merge_add", "merge_checkpoint", "merge"),
    (CHANGE, "text=Resize", "resize_model", "resize_base_model", "resize"),
    (CHANGE, "text=Convert", "convert_model", "convert_base_model", "convert"),
    (CHANGE, "text=Bake", "bake_model", "bake_sd_model", "bake"),
    (CHANGE, "text=Interrogate", "interrogate_model", "interrogate_base_model", "interrogate"),
    ("Block weight", "#lyco_blocks_bake_part .label-wrap", "blocks_network", "blocks_bake_base", "blocks_bake"),
    ("Inspect", "text=Compare", "inspect_several", "inspect_base", "compare"),
]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data = tmp_path_factory.mktemp("data")
    (data / "checkpoints").mkdir()
    save_file(random_weights(1), data / "checkpoints" / OTHER)
    with running_app(data) as found:
        yield found


def test_a_checkpoint_that_fits_is_one_click_away(page: Any) -> None:  # noqa: F811
    for tab, opens, networks, base, plan in PLACES:
        go_to(page, tab)
        if opens:
            page.locator(f"#lyco_page .tabitem:visible >> {opens} >> visible=true").first.click()
        for name in ("demo-lora", "demo-lokr") if networks == "inspect_several" else ("demo-lora",):
            choose(page, f"#lyco_{networks}", name)
        choose(page, f"#lyco_{base}", OTHER)
        wait_until_says(page, f"#lyco_{plan}_plan", f"It fits {CHECKPOINT.name}.")
        button = page.locator(f"#lyco_{plan}_use_base")
        assert button.inner_text() == f"Use {CHECKPOINT.name}", plan
        button.click()
        page.wait_for_function(f"document.querySelector('#lyco_{base} input').value === '{CHECKPOINT.name}'")
        button.wait_for(state="hidden")
        assert "fits no layer" not in page.inner_text(f"#lyco_{plan}_plan"), plan
