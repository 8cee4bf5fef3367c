"""Other extensions installed together with this one in a real webui, each used as far as none of the models it can fetch is needed."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.webui.files import base_of, linear_layers, write_network
from tests.webui.neighbours import SETTINGS, find
from tests.webui.running import Picture, Running, largest, mean, pixels
from tests.webui.server import WebUI, make_checkpoints

pytestmark = [pytest.mark.webui, pytest.mark.timeout(1800)]
torch.set_num_threads(1)

THEIRS, OURS = "<lora:plain:0.7>", "<lyco:plain:0.7>"


@pytest.fixture(scope="module")
def running(webui_dir: Path, webui_python: str, webui_beside: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    (checkpoint,) = make_checkpoints(webui_dir, Path(webui_python), models, "sd1")
    data, extensions = tmp_path_factory.mktemp("webui"), list(find(webui_beside).values())
    webui = WebUI(webui_dir, Path(webui_python), models=models, data=data, extensions=extensions, options=SETTINGS)
    base = base_of(checkpoint, "sd1")
    write_network(webui.lora_dir / "plain.safetensors", base, "lora", linear_layers(base), seed=6, size=0.5)
    write_network(webui.lyco_dir / "full.safetensors", base, "lora", linear_layers(base), seed=5, size=0.5)
    try:
        yield Running(webui.start(timeout=1200))  # they import large packages
    finally:
        webui.stop()


@pytest.fixture(scope="module")
def plain(running: Running) -> Picture:
    return running.generate()


def switched_on(running: Running, title: str, **wanted: Any) -> dict[str, Any]:
    """Return what a request says to use an extension: its fields as its page begins, but for those named by their labels."""
    scripts = running.webui.call("/sdapi/v1/script-info")
    found = next(one for one in scripts if one["name"].startswith(title.lower()) and one["is_alwayson"] and not one["is_img2img"])
    labels = [str(field["label"]) for field in found["args"]]
    assert set(wanted) <= set(labels), labels
    args = [wanted.get(label, field["value"]) for label, field in zip(labels, found["args"])]
    return {"alwayson_scripts": {found["name"]: {"args": args}}}


def check(running: Running, plain: Picture, **fields: Any) -> None:
    """Hold the tag to the built-in loader's of the same file while an extension is on, and the image without tags to the first one."""
    base = running.generate(**fields)
    theirs, ours = running.generate(THEIRS, **fields), running.generate(OURS, **fields)
    assert running.problems == ""
    assert largest(ours, theirs) <= 1 and mean(ours, base) >= 1
    assert largest(running.generate(**fields), base) == 0
    assert largest(running.generate(), plain) == 0


@pytest.mark.beside("lora-block-weight")
def test_each_loader_weighs_the_blocks_of_its_own_tags(running: Running, plain: Picture) -> None:
    used = switched_on(running, "LoRA Block Weight", **{"LoRA Block Weight": True})
    theirs, ours = "<lora:plain:0.7:lbw=MIDD>", "<lyco:full:0.6:lbw=OUTD>"
    assert largest(running.generate("<lyco:plain:0.7:lbw=MIDD>", **used), running.generate(theirs, **used)) <= 1
    assert mean(running.generate(theirs, **used), running.generate(THEIRS, **used)) >= 1
    both = running.generate(theirs + ours, **used)
    assert largest(running.generate(ours + theirs, **used), both) == 0
    assert mean(both, running.generate(theirs, **used)) >= 1 and mean(both, running.generate(ours, **used)) >= 1
    assert largest(running.generate(), plain) == 0


COLUMNS = {"prompt": "a red house BREAK a blue sky"}


@pytest.mark.beside("Regional Prompter")
def test_regions_by_attention(running: Running, plain: Picture) -> None:
    used = switched_on(running, "Regional Prompter", **{"Regional Prompter": True})
    off = running.generate(COLUMNS["prompt"], prompt="")
    assert mean(running.generate(COLUMNS["prompt"], prompt="", **used), off) >= 0.1
    check(running, plain, **COLUMNS, **used)


@pytest.mark.beside("Regional Prompter")
def test_regions_by_latents_have_networks_of_ours_all_over_which_a_sentence_says(running: Running, plain: Picture) -> None:
    used = switched_on(running, "Regional Prompter", **{"Regional Prompter": True, "Generation Mode": "Latent"})
    base = running.generate(**COLUMNS, **used)
    assert mean(running.generate(OURS, **COLUMNS, **used), base) >= 1
    assert "Regional Prompter's Latent mode" in running.problems and "act on the whole image" in running.problems
    assert largest(running.generate(**COLUMNS, **used), base) == 0 and running.problems == ""
    assert largest(running.generate(), plain) == 0


@pytest.mark.beside("ControlNet")
def test_controlnet_with_an_image_to_refer_to(running: Running, plain: Picture) -> None:
    shown = io.BytesIO()
    Image.radial_gradient("L").resize((64, 64)).convert("RGB").save(shown, "PNG")
    unit = {"enabled": True, "module": "reference_only", "model": "None", "image": base64.b64encode(shown.getvalue()).decode()}
    used = {"alwayson_scripts": {"ControlNet": {"args": [unit]}}}
    assert mean(running.generate(**used), plain) >= 0.1
    check(running, plain, **used)


@pytest.mark.beside("Tiled Diffusion")
def test_an_image_made_of_tiles(running: Running, plain: Picture) -> None:
    size = {"width": 192, "height": 192}
    tiles = {"Latent tile width": 16, "Latent tile height": 16, "Latent tile overlap": 4}
    used = switched_on(running, "Tiled Diffusion", **{"Enable Tiled Diffusion": True}, **tiles)
    assert mean(running.generate(**size, **used), running.generate(**size)) >= 0.1
    check(running, plain, **size, **used)


@pytest.mark.beside("ADetailer")
def test_adetailer_without_a_model_to_detect_by(running: Running, plain: Picture) -> None:
    used = {"alwayson_scripts": {"ADetailer": {"args": [True, False, {"ad_model": "None"}]}}}
    assert largest(running.generate(OURS, **used), running.generate(OURS)) == 0
    check(running, plain, **used)


@pytest.mark.beside("SuperMerger")
def test_supermergers_tab_is_beside_ours(running: Running, plain: Picture) -> None:
    components = running.webui.call("/config")["components"]
    tabs = {component["props"].get("label") for component in components if component["type"] == "tabitem"}
    assert {"SuperMerger", "LyCORIS"} <= tabs
    check(running, plain)


CHOICE = "{<lyco:full:0.6>|<lyco:plain:0.7>}"


@pytest.mark.beside("dynamic-prompts")
def test_dynamic_prompts_give_each_image_of_a_run_its_own_networks(running: Running, plain: Picture) -> None:
    used = switched_on(running, "Dynamic Prompts")
    images, info = running.webui.txt2img(f"a red house {CHOICE}", n_iter=4, **used)
    made = [pixels(image) for image in images[-4:]]
    assert len(set(info["all_prompts"])) > 1
    for image, prompt, seed, text in zip(made, info["all_prompts"], info["all_seeds"], info["infotexts"][-4:]):
        assert largest(running.generate(prompt=prompt, seed=seed), image) == 0
        hashes = re.search(r'Lyco hashes: "([^"]*)"', text)
        assert hashes is not None and [entry.split(": ")[0] for entry in hashes[1].split(", ")] == [prompt.split(":")[1]]
    assert largest(running.generate(), plain) == 0


@pytest.mark.beside("dynamic-prompts")
def test_of_a_batch_of_dynamic_prompts_the_first_ones_networks_act_and_a_sentence_says_so(running: Running) -> None:
    used = switched_on(running, "Dynamic Prompts")
    images, info = running.webui.txt2img(f"a red house {CHOICE}", batch_size=4, **used)
    assert len(set(info["all_prompts"])) > 1
    first = info["all_prompts"][0]
    assert "for other networks, but a batch is computed at once" in info["extra_generation_params"]["Lyco problems"]
    assert all(f"Lyco tags used: {first[first.index('<') :]}" in text.replace('"', "") for text in info["infotexts"][-4:])
    assert largest(pixels(images[-4]), running.generate(prompt=first, seed=info["all_seeds"][0])) <= 1
