"""A reload in the middle of a job, on every page that starts one: how far it is, and then what came of it, is there again."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lib_lycoris.demo import CHECKPOINT, NETWORKS
from lib_lycoris.tools import TOOLS
from lib_lycoris.ui.pages.change import PLACED
from tests.browser.test_pages import driver, go_to, write  # noqa: F401 - one is a fixture
from tests.ui.test_app import READY, running_app, wait_until_says

pytestmark = [pytest.mark.browser, pytest.mark.new_set]

# the app, whose jobs and images stay where they are after their first steps as long as there is a file
HELD = """
import sys, time
from pathlib import Path
from lib_lycoris.cli import main
from lib_lycoris.tools.jobs.queue import Job
from lib_lycoris.ui.parts.generation.making import Work

hold = Path(sys.argv[sys.argv.index("--data-dir") + 1], "hold")

def held(tell):
    def wait(self, *state):
        tell(self, *state)
        while hold.exists() and state and getattr(state[0], "step", state[0]) and not (getattr(self, "stopping", False)):
            time.sleep(0.02)
    return wait

Job._tell, Work.tell, Work.say = held(Job._tell), held(Work.tell), held(Work.say)
sys.exit(main(sys.argv[1:]))
"""
MERGED = "merged.safetensors"
LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1"
KEPT = {  # what the last visit has left in the fields
    "merge": {"checkpoint": CHECKPOINT.name, "networks": [["demo-lora", 1.0, None, None, ""]]},
    "extract": {"org": CHECKPOINT.name, "tuned": MERGED, "algorithm": "lora"},
    "inspect": {"several": ["demo-lora", "demo-lokr"]}, "blocks": {"network": "demo-lora"},
    **{name: {"model": "demo-lora"} for name in ("convert", "bake")},
    "resize": {"model": "demo-lora", "rank": 2}, "slim": {"model": "demo-lora", "new_rank": "2"}, "prune": {"model": "half-dead"},
    "split": {"model": "demo-dylora", "unit": "2"}, "metadata": {"models": ["demo-lora"], "title": "A title"},
    "interrogate": {"model": "demo-lora", "base_model": CHECKPOINT.name},
    "find": {"library": ["demo-lora", "demo-lokr"], "model": "demo-lora"},
    "verify": {"merged": MERGED, "sd_model": CHECKPOINT.name, "models": ["demo-lora"]}, "undo": {"merged": MERGED},
    "generate": {"prompt": "a blue square", "steps": 4, "seed": 3}, "grid": {"networks": ["demo-lokr"]},
}  # fmt: skip


@dataclass(frozen=True)
class Form:
    """Where a tool is started: its page, the part to open there, its button, what it is called in ids, a field that shows what was kept."""

    page: str
    name: str
    run: str
    field: str
    part: str = ""

    def open(self, page: Any) -> None:
        """Go there and wait for what was kept."""
        go_to(page, self.page)
        if self.part.startswith("#"):
            page.click(f"{self.part} .label-wrap")
        elif self.part:
            page.locator("#lyco_page .tabitem .tab-nav button:visible", has_text=self.part).first.click()
        shown = f"Array.from(document.querySelectorAll('{self.field}'), (one) => one.value || one.innerText).join('').trim()"
        page.wait_for_function(shown)

    def start(self, page: Any) -> None:
        """Start it."""
        self.open(page)
        press(page, self.run, f"#lyco_{self.name}_progress")


def press(page: Any, run: str, progress: str) -> None:
    """Press a button until its work has begun: a press may be dropped while an event before it ends, so again, but only after a while."""
    page.wait_for_selector(f"{run}:not([disabled])")
    for look in range(80):
        if look % 10 == 0 and page.locator(f"{run}:not([disabled])").count():
            page.evaluate("(run) => document.querySelector(run).click()", run)
        page.wait_for_timeout(500)
        if page.locator(f"{progress} [role=progressbar]").count():
            return
    raise AssertionError(f"{run} has begun nothing; {progress} says {page.inner_text(progress)!r}")


# notifications are kept in a list, nobody looks at the page, and what runs began half a minute ago
LONG_AGO = """() => {
    const now = Date.now;
    window.told = [];
    window.Notification = function(title, options) { window.told.push(options.body); };
    window.Notification.permission = "granted";
    document.hasFocus = () => false;
    Date.now = () => now() + 30000;
}"""
# parts that take room and show nothing
BLANK = """() => Array.from(document.querySelectorAll('#lyco_page [id^=lyco_]')).filter((one) => one.clientHeight > 40
    && !one.innerText.trim() && !one.querySelector('img, input, textarea, button, svg')).map((one) => one.id)"""
CHANGED = ("Resize", "Convert", "Bake", "Prune", "Split a DyLoRA", "Verify a merge", "Undo a merge", "Slim", "Interrogate", "Find")
NAMES = ("resize", "convert", "bake", "prune", "split", "verify", "undo", "slim", "interrogate", "find")
FIRST = {"verify": "merged", "undo": "merged", "find": "library"}  # the option whose field shows what was kept
FORMS = (
    Form("Merge", "merge", "#lyco_merge_run", "#lyco_merge_row0 th"),
    Form("Extract", "extract", "#lyco_extract_run", "#lyco_extract_tuned input"),
    *(Form("Resize", name, f"#lyco_{name}_run", f"#lyco_{name}_{FIRST.get(name, 'model')} :is(input, .token)", label)
      for label, name in zip(CHANGED, NAMES)),
    Form("Block weight", "blocks_bake", "#lyco_blocks_bake", "#lyco_blocks_network input", "#lyco_blocks_bake_part"),
    Form("Inspect", "metadata", "#lyco_metadata_run", "#lyco_metadata_models .token", "#lyco_inspect_metadata"),
    Form("Inspect", "compare", "#lyco_inspect_run", "#lyco_inspect_several .token", "#lyco_inspect_compare"),
)  # fmt: skip


def half_dead(folder: Path) -> None:
    """Write a network with a module that changes nothing."""
    folder.mkdir()
    parts = {"to_q": 1.0, "to_k": 0.0}
    tensors = {f"{LAYER}_{part}.lora_up.weight": torch.full((32, 2), value) for part, value in parts.items()}
    tensors |= {f"{LAYER}_{part}.lora_down.weight": torch.ones(2, 32) for part in parts}
    save_file(tensors, folder / "half-dead.safetensors")


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of an app with what every tool needs, and the file that holds its jobs."""
    data = tmp_path_factory.mktemp("held")
    (data / "checkpoints").mkdir()
    shutil.copyfile(CHECKPOINT, data / "checkpoints" / CHECKPOINT.name)
    half_dead(data / "networks")
    merged = data / "checkpoints" / MERGED
    undo = {"undo_file": merged.with_suffix(".undo")}
    TOOLS["merge"].run(sd_model=CHECKPOINT, models=[NETWORKS / "demo-lora.safetensors"], save_to=merged, **undo)
    (data / "pages.json").write_text(json.dumps(KEPT), encoding="utf-8")
    with running_app(data, HELD) as address:
        yield address, data / "hold"


@pytest.fixture
def page(held: tuple[str, Path], driver: Any) -> Iterator[Any]:  # noqa: F811
    context = driver.new_context(viewport={"width": 1366, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    held[1].touch()
    page.goto(held[0], wait_until="domcontentloaded")
    page.wait_for_selector(READY, state="attached")
    yield page
    held[1].unlink(missing_ok=True)
    context.close()


def reload(page: Any) -> None:
    page.reload(wait_until="domcontentloaded")
    page.wait_for_selector(READY, state="attached")


def test_every_tool_has_a_form_here() -> None:
    assert {form.name for form in FORMS} >= {name for name in TOOLS if name not in PLACED}


def test_every_tool_is_found_again(page: Any, held: tuple[str, Path]) -> None:
    for form in FORMS:
        form.start(page)
    reload(page)
    wait_until_says(page, "#lyco_merge_progress", "%")
    for ahead, form in enumerate(FORMS[1:], 1):
        wait_until_says(page, f"#lyco_{form.name}_progress", f"waiting for {ahead} other job")
    second = page.context.new_page()
    second.goto(held[0], wait_until="domcontentloaded")
    wait_until_says(second, "#lyco_merge_progress", "%")  # another window knows of it
    second.close()
    assert re.fullmatch(r"\d+ % - LyCORIS", page.title())
    page.evaluate(LONG_AGO)
    held[1].unlink()
    page.wait_for_function("window.told[0]?.startsWith('Done in')")
    for form in FORMS:
        page.wait_for_function(f"!document.querySelector('#lyco_{form.name}_progress [role=progressbar]')")
        assert page.locator(f"#lyco_{form.name}_notes .worse").count() == 0, page.inner_text(f"#lyco_{form.name}_notes")
    reload(page)
    for form in FORMS:
        wait_until_says(page, f"#lyco_{form.name}_progress", "Done in")
        assert page.locator(f"#lyco_{form.name}_notes .lyco_report").count(), form.name
    go_to(page, "Results")
    wait_until_says(page, "#lyco_results_list", "Run again")


def test_images_are_found_again_with_the_page_and_its_fields(page: Any, held: tuple[str, Path]) -> None:
    parts = (
        ("Generate", "", "#lyco_generate", "#lyco_progress", "#lyco_gallery img"),
        ("Generate", "#lyco_grid", "#lyco_grid_run", "#lyco_grid_progress", "#lyco_grid_shown td:nth-child(4) img"),
        ("Generate", "#lyco_pair", "#lyco_pair_both", "#lyco_pair_progress", "#lyco_pair_shown img"),
        ("Block weight", "#lyco_blocks_analyzer", "#lyco_blocks_analyze", "#lyco_blocks_analyze_progress", "#lyco_blocks_ranking td"),
    )
    for name, part, run, progress, result in parts:
        held[1].touch()
        go_to(page, name)
        if part:
            page.locator(f"{part} .label-wrap:not(.open)").click()
        if name == "Block weight":
            page.wait_for_selector("#lyco_blocks_picture:not([inert])")
            write(page, "#lyco_blocks_which", "M00")
        press(page, run, progress)
        wait_until_says(page, progress, "%")
        assert page.evaluate(BLANK) == [], name
        reload(page)
        wait_until_says(page, progress, "%")
        assert page.evaluate("document.querySelector('#lyco_tabs > .tab-nav .selected')?.innerText.trim()") == name
        assert page.input_value("#lyco_prompt textarea") == "a blue square"
        assert page.locator(f"{progress} [role=progressbar]").count() == 1
        held[1].unlink()
        page.wait_for_selector(result, state="attached")
        page.wait_for_function(f"!document.querySelector('{progress} [role=progressbar]')")
