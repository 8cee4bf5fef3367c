"""Images that are kept, their texts read back into the fields, and the checkpoint that they are made with."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lib_lycoris.demo import CHECKPOINT
from lib_lycoris.errors import LycorisError, ToolError
from lib_lycoris.hosts.embedded.files import open_store, use_checkpoint
from lib_lycoris.hosts.embedded.host import EmbeddedHost
from lib_lycoris.hosts.infotext import infotext, save_png
from lib_lycoris.hosts.library.cards import LibraryCards
from lib_lycoris.hosts.protocol import GeneratedImage, GenerationRequest
from lib_lycoris.tools.jobs.queue import Jobs
from lib_lycoris.ui.context import PageContext
from lib_lycoris.ui.pages.generate import FIELDS, GeneratePage
from lib_lycoris.ui.parts.generation import images
from lib_lycoris.ui.parts.generation.images import ImageFolder, text_of, thumbnail
from lib_lycoris.ui.parts.generation.request import read_generation_text, read_request
from lib_lycoris.ui.settings import Settings

REQUEST = GenerationRequest('a "red", hat\nwith <lyco:x:1>', "no, blue", 7, 12, 512, 768, 3.5, "Euler a")


@pytest.fixture
def page(tmp_path: Path) -> GeneratePage:
    host = EmbeddedHost.open(device="cpu", data=tmp_path)
    context = PageContext(open_store(host, None, None, tmp_path), Jobs(), host, Settings(None), "Generate")
    context.use_checkpoint = lambda path: use_checkpoint(host, path)
    context.networks = LibraryCards(lambda: host.library)
    return GeneratePage(context, save_png)


def image(text: str, seed: int = 7) -> GeneratedImage:
    return GeneratedImage(Image.new("RGB", (64, 64), "red"), text, seed, (), ())


def test_what_is_written_into_an_image_is_read_back() -> None:
    found = read_generation_text(infotext(REQUEST, 7, "a, model", {"x": "abc"}, "123"))
    assert found == {"prompt": REQUEST.prompt, "negative": "no, blue", "seed": 7, "steps": 12, "width": 512, "height": 768, "cfg": 3.5,
                     "sampler": "Euler a", "model": "a, model"}  # fmt: skip
    short = read_generation_text("a house\nSteps: 20, Sampler: DDIM, CFG scale: 7, Seed: 1, Size: 64x64, Model hash: 0a, Model: m")
    assert (short["prompt"], short["negative"], short["cfg"]) == ("a house", "", 7.0)
    for text in ("", "a house", "Steps: 20"):
        with pytest.raises(ToolError, match="no generation text"):
            read_generation_text(text)
    with pytest.raises(ToolError, match="steps in the generation text is many"):
        read_generation_text("a\nSteps: many, Seed: 1")


def test_images_are_kept_up_to_a_limit_and_numbered_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LIMIT", 3)
    folder = ImageFolder(tmp_path / "images", save_png)
    for seed in range(5):
        folder.add(image("text", seed))
    assert [path.name for path in folder.newest()] == ["00004-4.png", "00003-3.png", "00002-2.png"]
    again = ImageFolder(tmp_path / "images", save_png).add(image("text"))
    assert again.name == "00005-7.png" and text_of(again) == "text"
    assert thumbnail(again, 32).startswith("data:image/jpeg;base64,") and thumbnail(tmp_path / "none.png", 32) == ""
    with pytest.raises(ToolError, match="not in the folder"):
        folder.path("../secret.png")


def test_a_damaged_image_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nbad")
    with pytest.raises(ToolError, match=r"bad\.png cannot be read as an image"):
        text_of(tmp_path / "bad.png")


def test_the_text_belongs_to_the_selected_image(page: GeneratePage) -> None:
    for seed in (1, 2):
        page.images.add(image(infotext(REQUEST, seed, "demo-scenes", {}), seed))
    shown = [str(path) for path in page.images.newest()]
    event: Any = SimpleNamespace(index=1)
    assert "Seed: 1," in page.selected(shown, event)["value"]
    assert "Seed: 2," in page.found()[3]["value"]
    assert "cannot be read" in page.read_png(SimpleNamespace(name="/nowhere/x.png"))["value"]
    fields = page.read_back(page.read_png(SimpleNamespace(name=shown[1]))["value"])
    assert {name: update["value"] for name, update in zip(FIELDS, fields)} == {
        "prompt": REQUEST.prompt, "negative": "no, blue", "seed": 1, "steps": 12, "width": 512, "height": 768, "cfg": 3.5,
        "sampler": "Euler a",
    }  # fmt: skip
    assert page.context.settings.get("generate", "seed") == 1
    *unchanged, told = page.read_back("nothing")
    assert all("value" not in update for update in unchanged) and "no generation text" in told["value"]


def test_a_checkpoint_is_chosen_and_the_one_before_comes_back(page: GeneratePage, tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "other.safetensors").write_bytes(CHECKPOINT.read_bytes())
    (tmp_path / "checkpoints" / "bad.safetensors").write_bytes(b"bad")
    page.context.store.refresh()
    import gradio as gr

    with gr.Blocks(analytics_enabled=False), gr.Tab("Generate"):
        page.build()

    def loaded() -> tuple[str, str]:
        checkpoint, sampler, about = page.model.shown("Euler a")
        assert sampler["value"] == "Euler a" and "DDIM" in sampler["choices"]
        return checkpoint["value"], about.split()[0]

    assert page.model.picker.opened(None)[0]["value"] == CHECKPOINT.name
    assert "made with other" in page.model.use("other.safetensors")["value"]
    assert loaded() == ("other.safetensors", "other")
    assert "lyco_note worse" in page.model.use("bad.safetensors")["value"]
    assert loaded() == ("other.safetensors", "other")
    assert "demo-scenes" in page.model.use_the_one_before()["value"]
    assert loaded() == (CHECKPOINT.name, "demo-scenes")
    assert "no other checkpoint" in page.model.use_the_one_before()["value"]
    page.context.use(tmp_path / "checkpoints" / "other.safetensors")  # as another page does, or another window
    assert loaded() == ("other.safetensors", "other")
    page.context.use_the_one_before()


def test_a_model_without_the_chosen_sampler_gets_one_of_its_own_and_the_next_the_kept_one(
    page: GeneratePage, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    import gradio as gr

    with gr.Blocks(analytics_enabled=False), gr.Tab("Generate"):
        page.build()
    page.context.settings.keep("generate", "sampler", "Euler a")
    with monkeypatch.context() as patched:
        patched.setattr(type(page.host), "samplers", lambda _: ["FlowMatchEuler"])
        assert page.model.shown("DDIM")[1]["value"] == "FlowMatchEuler"
    assert page.model.shown("FlowMatchEuler")[1]["value"] == "Euler a"
    assert page.model.shown("DDIM")[1]["value"] == "DDIM"


def test_a_network_for_another_model_is_not_held_to_the_loaded_one(page: GeneratePage, tmp_path: Path) -> None:
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    full_size = {f"{layer}.lora_up.weight": torch.ones(320, 2), f"{layer}.lora_down.weight": torch.ones(2, 320)}
    save_file(full_size, tmp_path / "networks" / "full-size.safetensors", {"ss_base_model_version": "sd_v1"})
    (tmp_path / "networks" / "broken.safetensors").write_bytes(b"broken")
    page.context.store.refresh()
    assert page.context.fits_loaded(["demo-lora", "demo-ia3", "gone"])
    assert page.context.fits_loaded(["broken"])  # what is wrong with it is said by what reads it
    assert not page.context.fits_loaded(["demo-lora", "full-size"])


def test_a_strangers_generation_text_takes_no_time() -> None:
    began = time.process_time()
    for line in ("a" * 100_000, " " * 100_000, 'a:"' * 50_000, "a b " * 30_000, "," * 100_000, "Steps: 1, Seed: " + "9" * 4000):
        with suppress(ToolError):  # Python 3.10 reads a number of any length
            read_generation_text(f"a cat\n{line}")
    assert time.process_time() - began < 3


@pytest.mark.parametrize("place", range(2, 7))
@pytest.mark.parametrize("value", ["x", [], {}, float("nan"), float("inf")])
def test_settings_that_are_no_numbers_are_one_sentence(value: Any, place: int) -> None:
    values: list[Any] = ["a cat", "", 1, 20, 64, 64, 7.0, "DDIM"]
    values[place] = value
    if place == 6 and isinstance(value, float):  # the host refuses it
        assert read_request(*values).cfg is not None
        return
    with pytest.raises(LycorisError, match="no usable number"):
        read_request(*values)
