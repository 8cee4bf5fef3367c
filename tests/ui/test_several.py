"""Grids, stacks, results, presets as texts and dropped files, without a browser."""

from __future__ import annotations

import json
from dataclasses import replace
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from lib_lycoris.demo import CHECKPOINT, NETWORKS
from lib_lycoris.errors import LycorisError, ToolError
from lib_lycoris.hosts.embedded.files import open_store
from lib_lycoris.hosts.embedded.host import EmbeddedHost
from lib_lycoris.hosts.infotext import infotext, save_png
from lib_lycoris.hosts.library.cards import LibraryCards
from lib_lycoris.hosts.protocol import GeneratedImage, GenerationRequest
from lib_lycoris.networks.hashes import model_hash
from lib_lycoris.prompt import OwnPresets
from lib_lycoris.tools.jobs.queue import Jobs
from lib_lycoris.ui.blocks.preset_files import PresetFilesPart
from lib_lycoris.ui.context import PageContext
from lib_lycoris.ui.pages.results import ResultsPage
from lib_lycoris.ui.parts.dropped import DroppedFiles
from lib_lycoris.ui.parts.generation.grid import ALGORITHMS, PRESETS, SEEDS, GridWork, plan_grid
from lib_lycoris.ui.parts.generation.grid import NETWORKS as BY_NETWORK
from lib_lycoris.ui.parts.generation.grid_part import slider
from lib_lycoris.ui.parts.generation.images import ImageFolder, text_of
from lib_lycoris.ui.parts.generation.making import Work
from lib_lycoris.ui.parts.generation.request import read_generation_text
from lib_lycoris.ui.parts.generation.stack import read_stack, stack_of, tags_here
from lib_lycoris.ui.parts.generation.stack_part import StackPart
from lib_lycoris.ui.settings import Settings

REQUEST = GenerationRequest("a red circle <lyco:demo-lora:0.3>", seed=3, steps=2, width=64, height=64)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedHost:
    return EmbeddedHost.open(device="cpu", data=tmp_path_factory.mktemp("data"))


@pytest.fixture
def context(host: EmbeddedHost, tmp_path: Path) -> Any:
    made = PageContext(open_store(host, None, None, tmp_path), Jobs(), host, Settings(None), "Generate")
    made.networks, made.any_path = LibraryCards(lambda: host.library), True
    yield made
    made.jobs.close()


def prompts(grid: Any) -> list[list[str]]:
    return [[cell.request.prompt for cell in row] for row in grid.cells]


def test_a_grid_asks_for_each_strength_of_each_row() -> None:
    grid = plan_grid(REQUEST, "0, 0.5;1", BY_NETWORK, ["demo-lora", "demo-loha"], "")
    assert (grid.columns, grid.rows) == (("0", "0.5", "1"), ("demo-lora", "demo-loha"))
    assert prompts(grid)[0] == [f"a red circle <lyco:demo-lora:{s}>" for s in ("0", "0.5", "1")]  # not added to the prompt's own tag
    assert prompts(grid)[1][1] == "a red circle <lyco:demo-lora:0.3> <lyco:demo-loha:0.5>"
    seeds = plan_grid(REQUEST, "1", SEEDS, ["demo-lora"], "7, 8")
    assert [row[0].request.seed for row in seeds.cells] == [7, 8] and seeds.rows == ("seed 7", "seed 8")
    assert plan_grid(REQUEST, "1", PRESETS, ["a"], "MIDD").cells[0][0].tag == "<lyco:a:1:lbw=MIDD>"
    assert plan_grid(REQUEST, "1", ALGORITHMS, ["b", "a"], "", ["LoKr", "LoHa"]).rows == ("LoHa (a)", "LoKr (b)")
    for wrong, said in (
        (("", BY_NETWORK, ["a"], ""), "Strengths"), (("1", BY_NETWORK, [], ""), "Networks"), (("1", SEEDS, ["a"], "x"), "whole number"),
        (("1", SEEDS, ["a"], ""), "give some seeds"), (("1", SEEDS, ["a", "b"], "1"), "rows of seeds are made with one network"),
        (("1", BY_NETWORK, ["a"] * 101, ""), "more than a grid takes"),
    ):  # fmt: skip
        with pytest.raises(ToolError, match=said):
            plan_grid(REQUEST, *wrong)


def test_a_grid_is_the_images_that_its_tags_make_and_is_saved_with_its_text(host: EmbeddedHost, tmp_path: Path) -> None:
    images = ImageFolder(tmp_path / "images", save_png)
    made = GridWork(plan_grid(REQUEST, "0, 1", BY_NETWORK, ["demo-lokr"], ""), host, images)
    work = Work("grid", made)
    name = made(work)
    alone = host.generate(made.grid.cells[0][1].request)
    assert made.made[0, 1].image.tobytes() == alone.image.tobytes() != made.made[0, 0].image.tobytes()
    with Image.open(images.path(name)) as sheet:
        assert sheet.size == (120 + 2 * 64, 24 + 64)
        assert sheet.crop((120 + 64, 24, 120 + 128, 24 + 64)).tobytes() == alone.image.convert("RGB").tobytes()
    text = text_of(images.path(name))
    assert 'Grid strengths: "0, 1", Grid rows: "demo-lokr"' in text and read_generation_text(text)["seed"] == 3
    assert not made.problems  # a grid begins at strength 0 on purpose
    assert made.html().count('data-lyco-send="&lt;lyco:demo-lokr:1&gt;"') == 1 and made.html().count("<img") == 2
    work.cancel.set()
    with pytest.raises(Exception, match=""):
        made(work)
    assert "<b>" not in slider([("<b>", ""), ("x", "")])


def test_a_stack_is_found_by_hash_on_another_machine(context: PageContext, tmp_path: Path) -> None:
    assert context.networks is not None
    prompt = "x <lyco:demo-lora:0.7:0.4:lbw=MIDD> <lyco:demo-lokr:1:start=3>"
    stack = stack_of(prompt, 5, context.networks.cards())
    text = stack.as_json()
    assert str(NETWORKS) not in text and read_stack(text) == stack and len(stack.layers[0].hash) == 64
    other = tmp_path / "other"
    other.mkdir()
    (other / "renamed.safetensors").write_bytes((NETWORKS / "demo-lora.safetensors").read_bytes())
    (other / "demo-lokr.safetensors").write_bytes(b"\0" * (NETWORKS / "demo-lokr.safetensors").stat().st_size)
    from lib_lycoris.hosts.library.library import Library

    elsewhere = Library([other])
    tags, said = tags_here(read_stack(text), LibraryCards(lambda: elsewhere).cards())
    assert tags == ["<lyco:renamed:0.7:0.4:lbw=MIDD>"]
    assert said[0] == "demo-lora is called renamed here"
    assert said[1].startswith("demo-lokr was left out: the file of that name holds something else")


@pytest.mark.parametrize(
    "text, said",
    [("x", "cannot be read as JSON"), ("{}", 'no "lycoris stack"'), ('{"lycoris stack": 9}', "of version 9"),
     ('{"lycoris stack": 1, "networks": []}', "no list of networks"), ('{"lycoris stack": 1, "networks": [3]}', "has no tag"),
     ('{"lycoris stack": 1, "networks": [{"tag": "<lyco:a:1>"}]}', "no hash and size"),
     ('{"lycoris stack": 1, "seed": true, "networks": [{}]}', "whole number")],
)  # fmt: skip
def test_what_is_no_stack_is_refused(text: str, said: str) -> None:
    with pytest.raises(ToolError, match=said):
        read_stack(text)


def test_stacks_are_saved_and_loaded_by_name(context: PageContext) -> None:
    part = StackPart(context)
    text, saved, told = part.save("mine", "x <lyco:demo-lora:0.5>", 4)
    assert saved["choices"] == ["mine"] and "Saved as mine." in told["value"]
    loaded, _ = part.load("mine")
    assert loaded["value"] == text["value"]
    prompt, seed, told = part.use(loaded["value"], "a house <lyco:demo-oft:1>", -1)
    assert (prompt["value"], seed["value"]) == ("a house <lyco:demo-lora:0.5>", 4) and "1 of 1 network." in told["value"]
    assert "leads outside" in part.save("../x", "<lyco:demo-lora:1>", -1)[2]["value"]
    assert "no stack is chosen" in part.load("../pages")[1]["value"]
    assert "no network called" in part.save("", "<lyco:nothing:1>", -1)[2]["value"]
    assert part.delete("mine")[0]["choices"] == []


def test_results_stay_listed_run_again_and_are_deleted_into_a_folder(context: PageContext) -> None:
    page = ResultsPage(context)
    merged = context.store.checkpoint_folder() / "merged.safetensors"
    options = {"sd_model": context.store.checkpoint_folder() / CHECKPOINT.name, "models": [NETWORKS / "demo-lora.safetensors"],
               "ratios": [0.5], "save_to": merged, "undo_file": merged.with_suffix(".undo")}  # fmt: skip
    job = context.jobs.start("merge", options)
    assert job.wait(60) and job.status == "done"
    assert len(page.history.entries()) == 1 and "merged.safetensors" in [file.name for file in context.store.checkpoints()]  # at once
    again = ResultsPage(context)  # as after a restart
    (entry,) = again.history.entries()
    assert entry.outputs[0] == merged and "merged.safetensors (5.7 MB)" in again.shown()[0]["value"]

    def act(do: str, name: str = entry.id) -> str:
        _, told = again.act(json.dumps({"do": do, "id": name}))
        for other in context.jobs.all():
            assert other.wait(60)
        return str(told["value"])

    used: list[Path] = []
    context.use_checkpoint = lambda path: f"Used: {used.append(path) or path.name}"
    assert "Use as checkpoint" in again.shown()[0]["value"] and "Used: merged.safetensors" in act("use") and used == [merged]
    assert "runs again, as merged-2.safetensors" in act("again")
    assert model_hash(merged.with_name("merged-2.safetensors")) == model_hash(merged)
    assert "as demo-scenes-restored.safetensors" in act("undo")
    assert merged.with_name("demo-scenes-restored.safetensors").read_bytes() == CHECKPOINT.read_bytes()
    assert "Moved to" in act("delete") and not merged.exists() and again.history.deleted()[0] == 2
    assert "not there any more" in act("delete") and "reload the page" in act("rm", "x") and "not in the list" in act("show", "../x")
    assert "not in the folder of images" in act("delete_image", "../pages.json")
    again.emptied()
    assert again.history.deleted() == (0, 0)


def test_what_is_measured_for_a_curve_is_no_result(context: PageContext, tmp_path: Path) -> None:
    page, sizes = ResultsPage(context), tmp_path / "sizes.safetensors"
    tuned = tmp_path / "tuned.safetensors"
    save_file({key: value * 1.5 if value.is_floating_point() else value for key, value in load_file(CHECKPOINT).items()}, tuned)
    job = context.jobs.start("measure", {"model_org": CHECKPOINT, "model_tuned": tuned, "save_to": sizes})
    assert job.wait(60) and job.status == "done" and sizes.is_file()
    page.ended(job)
    assert page.history.entries() == []


def test_images_of_earlier_days_have_name_size_settings_and_a_way_to_go(context: PageContext) -> None:
    page = ResultsPage(context)
    text = infotext(replace(REQUEST, prompt='a "<b>" circle'), 3, "demo-scenes", {})
    image = ImageFolder(page.images.folder, save_png).add(GeneratedImage(Image.new("RGB", (64, 64), "red"), text, 3, (), ()))
    shown = page.shown()[0]["value"]
    assert f"{image.name}, under 0.1 MB" in shown and f'data-lyco-settings="{escape(text)}"' in shown
    assert 'data-lyco-do="show_image"' in shown and "<b>circle" not in shown
    _, told = page.act(json.dumps({"do": "delete_image", "id": image.name}))
    assert "Moved to" in told["value"] and not image.exists() and str(page.history.folder / "deleted") in page.shown()[0]["value"]


def test_presets_are_renamed_imported_and_exported(context: PageContext) -> None:
    part = PresetFilesPart(context, OwnPresets(context.store.kept_folder()))
    twelve = ",".join(["0.5"] * 12)
    _, told = part.take(f"MINE:{twelve}\nALL:{twelve}\n<b>:1,2\n")
    assert "1 preset was added: MINE." in told["value"] and "ALL was left out" in told["value"]
    choices, told = part.rename("MINE", "OTHER")
    assert choices["value"] == "OTHER" and part.own.names() == ("OTHER",)
    assert part.export()[0]["value"].strip() == f"OTHER:{twelve}"
    assert "only those can be renamed" in part.rename("ALL", "X")[1]["value"]
    assert "is a preset already" in part.rename("OTHER", "ALL")[1]["value"] and part.own.names() == ("OTHER",)


def test_dropped_files_are_described_and_copied_once(context: PageContext, tmp_path: Path) -> None:
    part = DroppedFiles(context)
    text = tmp_path / "<b>.txt"
    text.write_text("x")
    source = tmp_path / "new.safetensors"
    source.write_bytes((NETWORKS / "demo-lora.safetensors").read_bytes())
    shown, paths, copy, _ = part.dropped([SimpleNamespace(name=str(source)), str(text)])
    assert paths == [str(source)] and copy["visible"] and "lyco_figures" in shown["value"] and "<b>.txt" not in shown["value"]
    assert "new.safetensors: in" in part.copied(paths)[0]["value"]
    assert (context.store.network_folder() / "new.safetensors").read_bytes() == source.read_bytes()
    assert "is there already" in part.copied(paths)[0]["value"]
    assert part.named(str(source))[1] == [str(source)]
    assert "no such file" in part.named("relative")[3]["value"]
    context.any_path = False
    assert part.named(str(source))[1] == [] and "in the app only" in part.named(str(source))[3]["value"]


def test_a_missing_number_of_a_tool_is_an_error(context: PageContext) -> None:
    from lib_lycoris.ui.parts.tools.fields import OptionFields, devices

    fields = OptionFields(context, "networks_merge", ("density", "device"), "x")
    numbers = [option.name for option in fields.options if option.type is float and option.default is not None]
    if numbers:
        with pytest.raises(LycorisError, match="a number is missing"):
            fields.read([None, "cpu"])
    assert devices()[-1] == "cpu"
