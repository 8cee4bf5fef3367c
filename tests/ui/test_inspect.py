"""The page Inspect and the dropdowns of files, on any Gradio."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
import torch

from lib_lycoris.demo import CHECKPOINT, NETWORKS
from lib_lycoris.errors import ToolError
from lib_lycoris.hosts.embedded.files import open_store
from lib_lycoris.hosts.embedded.host import EmbeddedHost
from lib_lycoris.hosts.library.library import Library
from lib_lycoris.networks.writer import save
from lib_lycoris.prompt import Presets
from lib_lycoris.tools.examine.inspect import Module, inspect
from lib_lycoris.tools.examine.module_sizes import measure_modules, singular_values
from lib_lycoris.tools.files.store import ModelFile
from lib_lycoris.tools.jobs.queue import Jobs
from lib_lycoris.ui.context import PageContext
from lib_lycoris.ui.pages.inspect import LARGEST, InspectPage
from lib_lycoris.ui.parts.file_choice import Picker, base_picker, checkpoint_picker, network_picker
from lib_lycoris.ui.parts.inspection import ROWS, module_table, verdict
from lib_lycoris.ui.parts.tools.live_plan import as_html
from lib_lycoris.ui.settings import Settings

K = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
OUT = "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_attn2_to_k"
EVIL = "<script>alert(1)</script>"
OUTPUTS = (
    "state", "found", "head", "tag", "advice", "words", "facts", "blocks", "layers", "values", "table", "details",
)  # fmt: skip


class FakeShelf:
    """Networks of one folder, and thousands of names where a test wants them."""

    def __init__(self, folder: Path, names: list[str] | None = None) -> None:
        self.library = Library([folder])
        self.names = names
        self.looks = 0

    def networks(self) -> list[ModelFile]:
        if self.names is not None:
            return [ModelFile(name, Path("/nowhere", f"{name}.safetensors")) for name in self.names]
        return [ModelFile(name, file.path) for name, file in self.library.named.items()]

    def checkpoints(self) -> list[ModelFile]:
        return []

    def network_folder(self) -> Path:
        return self.library.folders[0]

    def checkpoint_folder(self) -> Path:
        return self.library.folders[0]

    def data_folder(self) -> Path:
        return self.library.folders[0]

    def kept_folder(self) -> Path:
        return self.library.folders[0]

    def loaded(self) -> ModelFile | None:
        return None

    def presets(self) -> Presets:
        return Presets.default()

    def refresh(self) -> None:
        self.looks += 1
        self.library.refresh()


def lora(seed: int, size: float = 1.0, **more: Any) -> dict[str, torch.Tensor]:
    """Return a network on two layers, the second changed twice as much."""
    made = torch.Generator().manual_seed(seed)
    found: dict[str, torch.Tensor] = {}
    for index, name in enumerate((K, OUT)):
        found[f"{name}.lora_down.weight"] = torch.randn(4, 768, generator=made) * size * (index + 1)
        found[f"{name}.lora_up.weight"] = torch.randn(320, 4, generator=made)
        found[f"{name}.alpha"] = torch.tensor(2.0)
    return {**found, **more}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tags = {"ss_tag_frequency": json.dumps({"a": {"hat": 9, EVIL: 4}}), "modelspec.trigger_phrase": "hero style", "ss_network_dim": "4"}
    save(tmp_path / "hero.safetensors", lora(0), {**tags, "modelspec.description": EVIL * 60, EVIL: "a key"})
    save(tmp_path / "twin.safetensors", lora(0, 0.5), {})
    save(tmp_path / "other.safetensors", lora(1), {})
    (tmp_path / "broken.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0[[[[[[[[")
    return tmp_path


@pytest.fixture
def page(folder: Path) -> InspectPage:
    context = PageContext(store=FakeShelf(folder), jobs=Jobs(), send="Generate")
    made = InspectPage(context)
    with gr.Blocks() as blocks:
        made.build()
        context.finish(blocks)
    return made


def test_the_metadata_is_edited_on_the_page_that_shows_it(page: InspectPage) -> None:
    name = "hero"
    assert page.metadata.choose(name)["value"] == [name] and page.metadata.choose(None)["value"] == []
    values = dict.fromkeys((part for part in page.metadata.inputs), None)
    values |= {page.metadata.pickers["models"].component: [name], page.metadata.name: "described"}
    title = page.metadata.inputs[2]
    assert title.label == "Title"
    tool, options = page.metadata.make(*({**values, title: "Ink"}[part] for part in page.metadata.inputs))
    assert (tool, options["title"], options["save_to"].name) == ("metadata", "Ink", "described.safetensors")
    plan = page.context.jobs.tool(tool).plan(**options)
    assert "<dt>files</dt><dd>1</dd>" in as_html(plan, page.context.jobs.tool(tool), page.context.store)
    result = page.context.jobs.tool(tool).run(**options)
    assert inspect(result.outputs[0]).metadata["modelspec.title"] == "Ink"


def shown(page: InspectPage, name: str, *family: str) -> dict[str, Any]:
    """Return what each component shows at the end."""
    found: dict[str, Any] = {}
    for updates in page.show(name, *family):
        assert len(updates) == len(OUTPUTS) == len(page.outputs)
        for part, update in zip(OUTPUTS, updates, strict=True):
            found.setdefault(part, {}).update(update)
    return found


def test_choosing_a_file_shows_all_of_it(page: InspectPage) -> None:
    found = shown(page, "hero")
    assert found["found"]["visible"] is True and found["state"]["value"] == ""
    for text in ("hero", "Stable Diffusion 1.x", "<dd>lora</dd>", "<dd>4</dd>", "<dd>2</dd>", "6 of 6"):
        assert text in found["head"]["value"]
    assert "&lt;lyco:hero:1&gt;" in found["tag"]["value"] and "Send to Generate" in found["tag"]["value"]
    assert "LoRA: good for" in found["advice"]["value"]
    assert 'data-lyco-copy="hero style"' in found["words"]["value"] and "hat <small>9</small>" in found["words"]["value"]
    assert "SHA-256" in found["facts"]["value"] and inspect(page.picker.path("hero")).hashes["sha256"] in found["facts"]["value"]
    assert found["table"]["value"].count("<tr>") == 3
    assert found["layers"]["value"][0].startswith("diffusion_model.output_blocks.11")  # the one that changes most
    assert found["blocks"]["visible"] and found["values"]["visible"]


def test_a_file_is_read_for_the_family_that_is_chosen(page: InspectPage) -> None:
    assert "0 of 6" in shown(page, "hero", "Stable Diffusion 2.x")["head"]["value"]
    assert "6 of 6" in shown(page, "hero")["head"]["value"]


def test_nothing_of_a_file_becomes_html(page: InspectPage) -> None:
    found = shown(page, "hero")
    every = "".join(str(found[part].get("value")) for part in ("head", "tag", "advice", "words", "facts", "table", "details", "state"))
    assert "<script" not in every and every.count("&lt;script&gt;") > 5


def test_the_table_is_searched_and_sorted(page: InspectPage) -> None:
    list(page.show("hero"))
    only = page.filtered("hero", "unet OUT11 TO_K", None)["value"]
    assert "1 of 2 layers." in only and "output_blocks.11" in only and "input_blocks" not in only
    assert "0 of 2 layers." in page.filtered("hero", EVIL, None)["value"]
    rows = page.filtered("hero", "", LARGEST)["value"].split("<tr>")
    assert "output_blocks.11" in rows[2] and "input_blocks.1" in rows[3]
    assert "value" not in page.filtered("other", "x", None)  # not looked at yet


def test_the_loaded_model_tells_what_a_file_does_not(tmp_path: Path) -> None:
    host = EmbeddedHost.open(device="cpu", data=tmp_path)
    context = PageContext(open_store(host, None, None, tmp_path), Jobs(), host)
    page = InspectPage(context)
    with gr.Blocks() as blocks:
        page.build()
        context.finish(blocks)
    found = shown(page, "demo-lora")
    said = f"fits the loaded model ({CHECKPOINT.name})"
    assert f"<dd>{said}</dd>" in found["head"]["value"] and "<td>IN04</td>" in found["table"]["value"]
    assert "by the file alone unknown: its metadata names Stable Diffusion 1.x" in found["facts"]["value"]
    dropped = page.dropped.dropped([SimpleNamespace(name=str(NETWORKS / "demo-full.safetensors"))])
    assert said in dropped[0]["value"]
    assert context.loaded.described(NETWORKS / "demo-lora.safetensors", None)["fits"] == f"the loaded model ({CHECKPOINT.name})"
    save(tmp_path / "networks" / "full-size.safetensors", lora(0), {"ss_base_model_version": "sd_v1"})
    page.picker.refreshed()
    assert "<dd>Stable Diffusion 1.x</dd>" in shown(page, "full-size")["head"]["value"]


def test_a_table_of_a_thousand_modules_stays_small(page: InspectPage) -> None:
    found = inspect(page.picker.path("hero"))
    many = [Module(f"m{n}", f"diffusion_model.x{n}.weight", "unet", "lora", 4, 4.0, n == 999) for n in range(1000)]
    big = type(found)(**{**vars(found), "modules": tuple(many)})
    text = module_table(big, None)
    assert text.count("<tr>") == ROWS + 1 and f"The first {ROWS} are shown" in text and len(text) < 60_000
    assert module_table(big, None, "dead").count("<tr>") == 2


def test_sizes_are_those_of_the_change_itself(folder: Path) -> None:
    *_, (done, sizes) = measure_modules(folder / "hero.safetensors")
    tensors = lora(0)
    wanted = 0.5 * torch.linalg.matrix_norm(tensors[f"{K}.lora_up.weight"] @ tensors[f"{K}.lora_down.weight"])
    name = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    assert done == sizes.modules == 2 and sizes.norm(name) == pytest.approx(float(wanted), rel=1e-4) and sizes.norm(None) is None
    values = singular_values(folder / "hero.safetensors", [name, "no such layer"])
    assert list(values) == [name] and sum(v * v for v in values[name][:4]) == pytest.approx(float(wanted) ** 2, rel=1e-4)


def test_changes_that_need_the_base_weights_are_told(page: InspectPage, folder: Path) -> None:
    save(folder / "dora.safetensors", lora(0, **{f"{K}.dora_scale": torch.ones(320, 1)}), {})
    page.picker.refreshed()
    found = shown(page, "dora")
    assert (
        "Not measured: 1 of 2 layers, whose change depends on the base model" in found["state"]["value"]
        and "dora over lora" in found["table"]["value"]
    )


@pytest.mark.parametrize(
    "name, words", [("broken", "broken.safetensors"), ("../x", "no network called"), ("heroo", "nearest in the list: hero")]
)
def test_what_cannot_be_read_is_a_sentence(page: InspectPage, name: str, words: str) -> None:
    found = shown(page, name)
    assert words in found["state"]["value"] and found["found"]["visible"] is False


def test_networks_are_compared(page: InspectPage) -> None:
    start = page.panel.make_and_run(page.make, (["hero", "twin", "other"], None))
    *_, last = start
    html, plot = last[-2], last[-1]
    assert html["value"].count("they push the same way") == 1 and html["value"].count("nearly independent") == 2
    assert "+1.000" in html["value"] and plot["visible"] is True
    *_, last = page.panel.make_and_run(page.make, ([], None))
    assert "no network is chosen" in last[2]["value"]


def test_a_verdict_names_blocks_that_differ_from_the_whole() -> None:
    pair = {"shared": 3, "cosine": -0.5, "blocks": {"IN01": -0.9, "M00": 0.1}}
    assert verdict(pair) == "they push against each other, and weaken each other; most alike or opposed in IN01"
    assert verdict({"shared": 0, "cosine": 0.0, "blocks": {}}) == "they change no layer in common"


NAMES = [f"a network of some name, number {index:04}" for index in range(2000)]


def test_a_page_of_pickers_is_sent_without_names(tmp_path: Path) -> None:
    store = FakeShelf(tmp_path, NAMES)
    with gr.Blocks() as blocks:
        pickers = [network_picker(store, f"Network {index}", f"lyco_{index}", multiselect=index % 2 == 1) for index in range(10)]
    config = json.dumps(blocks.get_config_file(), default=str)
    assert NAMES[7] not in config and len(config) < 60_000
    update, stamp = pickers[0].opened(None)
    assert update["choices"] == NAMES
    assert "choices" not in pickers[0].opened(stamp)[0]  # the browser has them
    assert pickers[1].listed(None, [NAMES[7], "gone"])[0]["value"] == [NAMES[7]] and "value" not in pickers[0].listed(None, NAMES[7])[0]
    store.names = [*NAMES, "new"]
    assert pickers[0].opened(stamp)[0]["choices"][-1] == "new" and pickers[0].shown("new")["value"] == "new"
    assert pickers[0].component.do_not_save_to_config is True


def test_a_picker_knows_names_and_no_paths(tmp_path: Path) -> None:
    store = FakeShelf(tmp_path, NAMES)
    with gr.Blocks():
        picker, empty = network_picker(store, "Network", "lyco_a", True), checkpoint_picker(store, "Checkpoint", "lyco_b")
    assert picker.paths(NAMES[1:3]) == [Path("/nowhere", f"{name}.safetensors") for name in NAMES[1:3]] and picker.paths(None) == []
    with pytest.raises(ToolError, match=r"no network called .*a NETWORK of some name, number 0003.*nearest in the list: a network"):
        picker.path("a NETWORK of some name, number 0003x")
    for bad in ("/etc/passwd", str(picker.path(NAMES[0]))):
        with pytest.raises(ToolError, match="no network called"):
            picker.path(bad)
    with pytest.raises(ToolError, match="no checkpoint is chosen"):
        empty.path(None)


@pytest.mark.parametrize("kept, back", [(NAMES[3], True), ([NAMES[3], NAMES[4]], True), ("gone", False), (None, False), (["gone"], False)])
def test_a_kept_choice_is_back_with_the_list(tmp_path: Path, kept: Any, back: bool) -> None:
    context = PageContext(store=FakeShelf(tmp_path, NAMES), jobs=Jobs(), settings=Settings(None))
    context.settings.keep("page", "field", kept)
    with gr.Blocks() as blocks:
        picker: Picker = network_picker(context.store, "Network", "lyco_a", isinstance(kept, list))
        context.keep("page", {"field": picker.component})
        context.finish(blocks)
    update, stamp = picker.opened(None, None)
    assert update.get("value") == (kept if back else None)
    assert "value" not in picker.opened(None, NAMES[5])[0] and "value" not in picker.opened(stamp, None)[0]


def test_no_base_model_can_be_chosen_and_stays_chosen(tmp_path: Path) -> None:
    store = FakeShelf(tmp_path, NAMES)
    store.checkpoints = store.networks
    store.loaded = lambda: store.checkpoints()[0]
    context = PageContext(store=store, jobs=Jobs(), settings=Settings(None))
    with gr.Blocks() as blocks:
        base, checkpoint = base_picker(store, "Base model", "lyco_a"), checkpoint_picker(store, "Checkpoint", "lyco_b")
        for name, picker in (("base", base), ("checkpoint", checkpoint)):
            context.keep("page", {name: picker.component})
        context.finish(blocks)
    loaded = store.loaded().name
    update, stamp = base.opened(None)
    assert update["choices"][:2] == ["No base model", base.names()[0]] and update["value"] == loaded
    assert checkpoint.opened(None)[0]["choices"] == checkpoint.names()
    context.settings.keep("page", "base", "No base model")
    assert base.opened(None)[0]["value"] == "No base model" and "value" not in base.opened(stamp)[0]
    assert base.chosen("No base model") == base.chosen(None) == "" and base.chosen(loaded) == loaded


def test_refresh_looks_at_the_folders(folder: Path) -> None:
    store = FakeShelf(folder)
    with gr.Blocks():
        picker = network_picker(store, "Network", "lyco_a")
    save(folder / "new.safetensors", lora(3), {})
    assert "new" not in picker.opened(None)[0]["choices"] and "new" in picker.refreshed()[0]["choices"] and store.looks == 1
