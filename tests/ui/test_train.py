"""The page Train: what its fields mean, and a run that is started, stopped, found again and gone on with."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from lib_lycoris.errors import HostError, ToolError
from lib_lycoris.tools.jobs.queue import Jobs
from lib_lycoris.tools.training import runs
from lib_lycoris.tools.training.command import checked, given
from lib_lycoris.tools.training.options import BY_NAME
from lib_lycoris.ui.context import PageContext
from lib_lycoris.ui.pages.train import OWN, TrainPage
from tests.training import pictures
from tests.ui.test_extract import Folders

REQUIRES = ("lycoris",)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[TrainPage]:
    context = PageContext(Folders(tmp_path), Jobs(), trains_here=True, any_path=True, send="Generate")
    with gr.Blocks():
        made = TrainPage(context)
        made.build()
    yield made
    if made.shown is not None and runs.running(made.shown):
        runs.stop(made.shown)


def values(page: TrainPage, **changes: Any) -> list[Any]:
    """Return what the fields hold when the page is opened, with changes, and the tick at the installation."""
    found = {name: part.value for name, part in page.fields.items()}
    return [*{**found, **changes}.values(), True]


def test_the_fields_are_options_of_the_command_line(page: TrainPage, tmp_path: Path) -> None:
    words = page.words(values(page, folder=str(tmp_path), name="cat", algorithm="lokr", dim=4, alpha=2, more="--min_snr_gamma 5"))
    options = checked(given(words))
    assert options["train_data_dir"] == tmp_path and options["output_name"] == "cat" and options["min_snr_gamma"] == 5
    assert options["network_args"] == ["algo=lokr", "preset=attn-mlp"] and options["network_dim"] == 4
    assert options["output_dir"] == page.context.store.network_folder()
    words = page.words(values(page, folder=str(tmp_path), name="cat", use="style"))
    assert "--preset_for" in words and "--network_dim" not in words and "--network_args" not in words


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"name": ""}, "needs a name"),
        ({"name": "../out"}, "no name of a network"),
        ({"more": "--output_dir /elsewhere"}, "names a file or a folder"),
        ({"more": "--network_args preset=/etc/x.toml"}, "on the command line only"),
        ({"more": "--fused_backward_pass"}, "not offered here"),
        ({"more": "--no_such_option 3"}, "unrecognized arguments"),
        ({"more": '"'}, "cannot be read"),
        ({"rate": "fast"}, "no number"),
        ({"dim": None}, "Rank: a number is missing"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(page: TrainPage, tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ToolError, match=reason):
        page.words(values(page, **{"folder": str(tmp_path), "name": "cat", **changes}))
    assert not list(page.context.store.network_folder().iterdir())


def test_where_others_can_open_the_page_only_kept_images_are_trained_on(page: TrainPage, tmp_path: Path) -> None:
    page.context.any_path = False
    with pytest.raises(ToolError, match="none of the folders"):
        page.words(values(page, folder=str(tmp_path), name="cat"))
    words = page.words(values(page, folder="cats", name="cat"))
    assert str(page.context.store.kept_folder() / "datasets" / "cats") in words


def test_the_webuis_model_is_unloaded_first_where_there_is_one(page: TrainPage) -> None:
    assert not page.unload.visible  # the app's own page has no webui beside it
    said = iter(["The model is out of the GPU's memory.", HostError("an image is being made")])

    def unload() -> str:
        found = next(said)
        if isinstance(found, Exception):
            raise found
        return found

    page.context.unload = unload
    with gr.Blocks():
        other = TrainPage(page.context)
        other.build()
    assert other.unload.visible and other.unload.value == "Unload the model first"
    assert "out of the GPU" in other.give_back()["value"] and "an image is being made" in other.give_back()["value"]


def test_every_option_has_a_section_or_a_sentence() -> None:
    for option in BY_NAME.values():
        assert option.section and option.help and option.source if option.takes_part else option.ignored or option.refused


@pytest.mark.slow
def test_a_run_is_started_stopped_found_again_and_gone_on_with(page: TrainPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("lib_lycoris.ui.pages.train.POLL", 0.1)
    images, steps = pictures.folder(tmp_path / "images", 6), 60  # more than are done while the first curves are drawn
    given = values(page, folder=str(images), name="cat", use=OWN, dim=2, alpha=1, steps=steps, rate=1e-2, more="--device cpu --seed 1")
    seen = []
    for update in page.train(*given):
        seen.append(update[0]["value"])
        if "step " in seen[-1] and not page.shown.joinpath(runs.STOP).exists():
            page.stop(*given)
    assert "starting" in seen[0] and "Stopped after step" in seen[-1]
    folder = page.context.store.network_folder() / "cat.training"
    done = runs.facts_of(folder).step
    assert 0 < done < steps and not folder.with_name("cat.safetensors").exists()
    assert "there already" in next(page.train(*given))[1]["value"]
    other = TrainPage(page.context)  # somebody opens the page again
    with gr.Blocks():
        other.build()
    assert "Stopped after step" in other.found()[0]["value"]
    *_, last = other.go_on(*values(other))
    assert "cat is trained" in last[0]["value"] and "&lt;lyco:cat:1&gt;" in last[2]["value"]
    assert [step for step, _ in runs.facts_of(folder).losses] == list(range(1, steps + 1))
    box, blocks, curve, dim, _ = last[5:]
    assert box["visible"] and "<img" in blocks["value"] and "<img" in curve["value"] and 1 <= dim["value"] <= 2
    *_, said = other.smaller(1)
    assert "cat-dim1.safetensors" in said["value"] and folder.with_name("cat-dim1.safetensors").is_file()
    *_, said = other.smaller(1)
    assert "there already" in said["value"]


@pytest.mark.slow
def test_an_early_failure_is_told(page: TrainPage, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    started = time.monotonic()
    *_, last = page.train(*values(page, folder=str(tmp_path / "empty"), name="cat", more="--device cpu"))
    assert "holds no images" in last[1]["value"] and time.monotonic() - started < 120
