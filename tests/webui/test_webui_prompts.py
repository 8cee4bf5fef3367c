"""What a real webui tells of tags: each image's own networks and hashes, what only looks like a tag, and where problems are written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.webui.files import SD1_LAYERS, base_of, linear_layers, write_network
from tests.webui.running import PROMPT, Picture, Running, largest, mean, pixels
from tests.webui.server import WebUI, make_checkpoints

pytestmark = [pytest.mark.webui, pytest.mark.timeout(1800)]
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def running(webui_dir: Path, webui_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    (checkpoint,) = make_checkpoints(webui_dir, Path(webui_python), models, "sd1")
    webui = WebUI(webui_dir, Path(webui_python), models=models, data=tmp_path_factory.mktemp("webui"))
    base = base_of(checkpoint, "sd1")
    write_network(webui.lyco_dir / "full.safetensors", base, "lora", linear_layers(base), seed=5, size=0.5)
    write_network(webui.lyco_dir / "turned.safetensors", base, "dora_out", SD1_LAYERS, seed=7)
    with webui:
        yield Running(webui)


@pytest.fixture(scope="module")
def plain(running: Running) -> Picture:
    return running.generate()


def matrix(running: Running, prompt: str, batch_size: int) -> tuple[list[Picture], list[str]]:
    """Return the images that the script "Prompt matrix" makes of a prompt with bars, each with a prompt of its own, and their texts."""
    options: dict[str, Any] = {"script_name": "prompt matrix", "script_args": [False, False, "positive", "comma", 0]}
    images, running.info = running.webui.txt2img(prompt, batch_size=batch_size, **options)
    return [pixels(image) for image in images[1:]], running.info["infotexts"][1:]


def listed(text: str) -> set[str]:
    """Return the names in an image's list of hashes."""
    _, found, rest = text.partition("Lyco hashes: ")
    names = rest.strip('"').split(", ") if found else []
    return {entry.partition(": ")[0] for entry in names if entry.partition(":")[0] in ("full", "turned")}


def test_each_image_of_a_run_has_its_own_networks_and_hashes(running: Running) -> None:
    found, texts = matrix(running, f"{PROMPT}|<lyco:full:0.6>|<lyco:turned:0.6>", 1)
    tags = ["", "<lyco:full:0.6>", "<lyco:turned:0.6>", "<lyco:full:0.6>, <lyco:turned:0.6>"]
    alone = [running.generate(prompt=f"{PROMPT}, {tag}" if tag else PROMPT) for tag in tags]
    assert [largest(one, other) for one, other in zip(found, alone)] == [0, 0, 0, 0]
    assert mean(found[1], found[0]) >= 1 and mean(found[2], found[1]) >= 1
    assert [listed(text) for text in texts] == [set(), {"full"}, {"turned"}, {"full", "turned"}]


def test_of_a_batch_the_first_images_tags_act_and_each_text_says_so(running: Running) -> None:
    found, texts = matrix(running, f"{PROMPT}|<lyco:full:0.6>", 2)
    assert len(found) == 2 and "image 2 asks for other networks" in running.problems
    assert all("Lyco tags used: none" in text and not listed(text) for text in texts)
    assert largest(found[0], matrix(running, f"{PROMPT}|a dog", 2)[0][0]) == 0


def test_problems_are_in_the_images_text_only_where_the_settings_ask(running: Running) -> None:
    running.generate("<lyco:nothere>")
    assert "nothere" in running.problems and "Lyco problems" not in running.info["infotexts"][0]
    running.webui.options(lyco_problems_in_infotext=True)
    try:
        running.generate("<lyco:nothere>")
        assert "Lyco problems" in running.info["infotexts"][0]
    finally:
        running.webui.options(lyco_problems_in_infotext=False)


@pytest.mark.parametrize("text", ["<lycoris:full:1>", "<Lyco:full:1>", "<lyco:>"])
def test_what_only_looks_like_a_tag_gets_a_sentence(running: Running, plain: Picture, text: str) -> None:
    running.generate(text)
    assert text in running.problems
    assert largest(running.generate(), plain) == 0 and running.problems == ""


def test_a_decimal_comma_is_read_with_a_note(running: Running) -> None:
    good = running.generate("<lyco:full:0.7>")
    assert running.problems == ""
    assert largest(running.generate("<lyco:full:0,7>"), good) == 0 and "0,7 was read as 0.7" in running.problems


def test_te_0_says_that_the_unet_is_off_too(running: Running, plain: Picture) -> None:
    assert largest(running.generate("<lyco:full:te=0>"), plain) == 0
    assert "te=0 also turns the UNet off" in running.problems and "te=0:unet=1" in running.problems
    assert mean(running.generate("<lyco:full:te=0:unet=1>"), plain) >= 1 and running.problems == ""
