"""The page Train in a real browser: a run is started, followed, left, found again, cancelled, resumed, and its network used at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lib_lycoris.tools.training import runs
from tests.browser.test_pages import driver, go_to, write  # noqa: F401
from tests.training import pictures
from tests.ui.test_app import READY, running_app, wait_until_says

pytestmark = [pytest.mark.browser, pytest.mark.new_set, pytest.mark.long]

STEPS = 40
PROGRESS = "#lyco_train_progress"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def app(data: Path) -> Iterator[str]:
    with running_app(data) as found:
        yield found


def opened(driver: Any, app: str) -> Any:  # noqa: F811
    """Return the page Train, opened anew."""
    page = driver.new_context(viewport={"width": 1366, "height": 900}).new_page()
    page.set_default_timeout(120_000)
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(app, wait_until="domcontentloaded")
    page.wait_for_selector(READY, state="attached")
    go_to(page, "Train")
    return page


def at_step(page: Any, least: int) -> None:
    """Wait until the page shows so many steps."""
    page.wait_for_function(f"+(document.querySelector('{PROGRESS}').innerText.match(/step (\\d+) of/) ?? [0, 0])[1] >= {least}")


def clicked(page: Any, button: str, text: str) -> None:
    """Click until the page says so: Gradio drops a click that comes while it ends the event before."""
    for _ in range(3):
        page.click(button)
        page.wait_for_timeout(1500)
        if text in page.inner_text(PROGRESS):
            break
    wait_until_says(page, PROGRESS, text)


def test_a_run_outlives_the_page_and_its_network_is_used_at_once(
    app: str,
    driver: Any,  # noqa: F811
    data: Path,
    tmp_path: Path,
) -> None:
    images = pictures.folder(tmp_path / "images", 6)
    page = opened(driver, app)
    write(page, "#lyco_train_folder", str(images))
    write(page, "#lyco_train_name", "cat")
    for name, value in (("dim", "4"), ("alpha", "4"), ("rate", "0.01"), ("steps", str(STEPS))):
        page.fill(f"#lyco_train_{name} input", value)
    page.locator("#lyco_page .label-wrap:visible", has_text="More options").first.click()
    write(page, "#lyco_train_more", "--device cpu --seed 1 --network_train_unet_only")
    page.click("#lyco_train_run")
    at_step(page, 2)
    page.context.close()

    page = opened(driver, app)  # somebody comes back
    at_step(page, 4)
    page.click("#lyco_train_cancel")
    wait_until_says(page, PROGRESS, "Stopped after step")
    done = runs.facts_of(data / "networks" / "cat.training")
    assert 4 <= done.step < STEPS and not done.network.exists()

    clicked(page, "#lyco_train_resume", "cat")
    wait_until_says(page, PROGRESS, "cat is trained.")
    assert [step for step, _ in runs.facts_of(done.folder).losses] == list(range(1, STEPS + 1))
    page.locator("#lyco_train_spectra .label-wrap").click()
    page.wait_for_selector("#lyco_train_curve img:visible")
    page.fill("#lyco_train_new_dim input", "2")
    page.click("#lyco_train_resize")
    wait_until_says(page, "#lyco_train_resized", "made cat-dim2.safetensors")
    assert done.network.with_name("cat-dim2.safetensors").is_file()

    page.click("#lyco_train_tag [data-lyco-send]")
    page.wait_for_function("document.querySelector('#lyco_prompt textarea').value.includes('<lyco:cat:1>')")
    go_to(page, "Generate")
    page.fill("#lyco_steps input[type=number]", "4")
    page.click("#lyco_generate")
    wait_until_says(page, "#lyco_notes", "cat")
    assert page.locator("#lyco_notes .lyco_note.good").count() >= 1 and page.locator("#lyco_notes .lyco_note.worse").count() == 0
    page.context.close()
