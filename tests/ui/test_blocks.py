"""The page Block weight: what the sliders mean, what the bars say, presets, baking, the analyzer, and the user's way through it."""

from __future__ import annotations

import json
import random
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lib_lycoris.errors import LycorisError, PromptError, ToolError
from lib_lycoris.hosts.embedded.files import FolderStore, demo_checkpoint, open_store
from lib_lycoris.hosts.embedded.host import EmbeddedHost
from lib_lycoris.hosts.library.library import Library
from lib_lycoris.hosts.protocol import GenerationCancelled, GenerationRequest
from lib_lycoris.hosts.webui.folders import FIELDS, PresetFiles, kept_folder
from lib_lycoris.models import FAMILIES, LAYOUTS, UNKNOWN, block_of, layout, layout_of_all, parameter, reference
from lib_lycoris.networks import load
from lib_lycoris.prompt import OwnPresets, Presets, find_tags, parse_weights, resolve
from lib_lycoris.tools.examine.block_norms import BaseWeights, measure, touched
from lib_lycoris.tools.jobs.queue import Jobs
from lib_lycoris.ui.blocks.analysis import (
    FULL,
    OFF,
    Outcome,
    Setup,
    analyse,
    chosen_blocks,
    difference,
    grid,
    heat_map,
    prompts,
    without_tag,
)
from lib_lycoris.ui.blocks.analyzer import ALONE, DROP, NO_GENERATOR, NOT_PLANNED, AnalyzerPart
from lib_lycoris.ui.blocks.bake import NETWORK
from lib_lycoris.ui.blocks.diagram import legend, picture
from lib_lycoris.ui.blocks.layouts import LISTED, SHOWN, Layout, layout_for
from lib_lycoris.ui.blocks.network import Meter
from lib_lycoris.ui.blocks.values import BlockValues, name_of, read_values, rows, tag_of
from lib_lycoris.ui.context import PageContext
from lib_lycoris.ui.pages.blocks import OUTPUTS, BlocksPage, BlockState
from lib_lycoris.ui.parts.tools.live_plan import LivePlan
from tests.ui.test_app import address, tab, wait_until_says  # noqa: F401 - fixtures

SD3, SD3_LARGE = (SHOWN[f"Stable Diffusion 3 {variant}"] for variant in ("medium: all (29)", "3.5-large: all (43)"))
MEASURED = ["demo-lora", "demo-locon-tucker", "demo-loha", "demo-lokr", "demo-glora", "demo-norm", "demo-ia3", "demo-oft", "demo-boft",
            "demo-dora", "demo-tlora", "demo-full"]  # fmt: skip


def parameters_of(shown: Layout) -> dict[str, str]:
    """A parameter of every block of a layout, as its family's models have them."""
    found = {}
    for variant in FAMILIES[shown.family].variants:
        for name in reference(shown.family, variant).layers:
            found.setdefault(block_of(parameter(name, "weight"), shown.family), parameter(name, "weight"))
    return {block: found[block] for block in shown.blocks}


@pytest.mark.parametrize("label", SHOWN)
def test_a_tag_means_what_the_sliders_say(label: str) -> None:
    draw, shown = random.Random(label), SHOWN[label]
    parameters = parameters_of(shown)
    for share in (0.0, 0.3, 1.0):
        sliders = BlockValues(shown).with_values([round(draw.uniform(-1, 2), 2) if draw.random() < share else 1.0 for _ in shown.blocks])
        for moved in (sliders, sliders.all_at(0), sliders.all_at(0.5)):  # the last ones are written as ranges
            text = tag_of(moved, "a style", Presets.default(), te=0.7, unet=-0.5)
            rest, tags = find_tags(text)
            assert rest == "" and len(tags) == 1 and tags[0].name == "a style"
            strengths = resolve(tags[0], shown.family, 0, Presets.default())
            for block, value in zip(moved.blocks, moved.shown):
                assert strengths.ratio(parameters[block]) == value, (text, block)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_sliders_for_every_block_of_each_of_its_variants(family: str) -> None:
    for variant in FAMILIES[family].variants:
        touched = {block: 1 for name in reference(family, variant).layers if (block := block_of(parameter(name, "weight"), family))}
        shown = layout_for(family, {**touched, "-": 1})
        assert set(shown.blocks) == set(layout(family, variant)) == set(touched) and SHOWN[shown.label] == shown
        assert replace(BlockValues(shown), touched=touched).left_out == ()


def test_ranges_run_along_the_blocks_of_the_model() -> None:
    for family, text, inside, outside in (
        ("hunyuan-video", "D18-S01", ("D18", "D19", "S00", "S01"), ("D17", "S02")),  # Flux.1's end at D18
        ("z-image", "N01-C00", ("N01", "C00"), ("N00", "C01", "L00")),
        ("sd3", "J22-J30", ("J22", "J30"), ("J21", "J31")),
    ):
        strengths = resolve(find_tags(f"<lyco:n:1:lbwe={text}::0.25>")[1][0], family, 0, Presets.default())
        parameters = parameters_of(layout_for(family, dict.fromkeys(layout_of_all(family), 1)))
        assert [strengths.ratio(parameters[block]) for block in (*inside, *outside)] == [0.25] * len(inside) + [1.0] * len(outside)


@pytest.mark.parametrize(
    "shown, values, touched_blocks, expected",
    [
        (LISTED[26], [1.0] * 26, None, "<lyco:n:1>"),
        (LISTED[17], [1.0] * 17, None, "<lyco:n:1:lbw=ALL>"),  # a network may change blocks that 17 values leave out
        (LISTED[17], [1.0] * 17, {"IN01": 1, "-": 2}, "<lyco:n:1>"),
        (LISTED[17], [1.0] * 17, {"IN00": 1}, "<lyco:n:1:lbw=ALL>"),
        (LISTED[17], [0.5] * 17, {"IN01": 1}, "<lyco:n:1:lbw=ALL0.5>"),
        (LISTED[17], [0.0] * 17, {"IN01": 1}, "<lyco:n:1:lbw=NONE>"),
        (LISTED[17], [1.0] * 16 + [0.25], {"IN01": 1}, f"<lyco:n:1:lbw={'1,' * 16}0.25>"),
        (LISTED[20], [1.0] + [0.0] * 10 + [1.0] + [0.0] * 8, None, "<lyco:n:1:lbw=SDXL-CONTENT>"),
        (SD3, [1.0] * 29, None, "<lyco:n:1>"),
        (SD3, [1.0] * 4 + [0.5] * 3 + [1.0] * 20 + [0.0] * 2, None, "<lyco:n:1:lbwe=J00-J02::0.5,J23 OUT::0>"),
        (SD3, [0.0] * 29, {"J01": 1, "J02": 1}, "<lyco:n:1:lbwe=J01-J02::0>"),
        (SHOWN["Z-Image: all (37)"], [0.0] * 6 + [1.0] * 31, None, "<lyco:n:1:lbwe=TE IN N00-N01 C00-C01::0>"),
    ],
)
def test_the_tag_is_the_shortest_true_one(shown: Layout, values: list[float], touched_blocks: dict[str, int] | None, expected: str) -> None:
    sliders = replace(BlockValues(shown).with_values(values), touched=touched_blocks)
    assert tag_of(sliders, "n", Presets.default()) == expected


def test_strengths_and_steps_are_in_the_tag_only_where_they_say_something() -> None:
    assert tag_of(BlockValues(), "n", None, start=0, stop=None) == "<lyco:n:1>"
    with pytest.raises(LycorisError, match="need a strength each"):
        tag_of(BlockValues(), "n", None, te=None)
    assert tag_of(BlockValues(), "n", None, te=0.5, unet=0.5, start=3.0, stop=9) == "<lyco:n:0.5:start=3:stop=9>"
    with pytest.raises(LycorisError, match="never on"):
        tag_of(BlockValues(), "n", None, start=9, stop=3)
    assert tag_of(BlockValues(), "a:b", None) == "<lyco:a%3Ab:1>"


def test_a_preset_whose_name_a_tag_cannot_hold_is_written_in_numbers() -> None:
    sliders = BlockValues(LISTED[17]).with_values([0.0] * 16 + [1.0])
    numbers = f"<lyco:n:1:lbw={sliders.text}>"
    for name in ("a>b", "a=b,c", "5"):
        known = Presets(f"{name}:{sliders.text}\n", "")
        assert name_of(sliders, known) == name and tag_of(sliders, "n", known) == numbers
    assert tag_of(sliders, "n", Presets(f"last:{sliders.text}\n", "")) == "<lyco:n:1:lbw=last>"


def test_undo_takes_back_one_change_at_a_time() -> None:
    sliders = BlockValues(LISTED[17])
    moved = sliders.with_values([1.0] * 16 + [0.9]).with_values([1.0] * 16 + [0.8])  # one slider, twice
    again = moved.with_values([0.5] + [1.0] * 15 + [0.8])
    assert again.undone().shown == moved.shown and again.undone().undone().shown == sliders.shown
    assert again.all_at(0).undone().shown == again.shown and sliders.undone() == sliders
    assert sliders.with_values(sliders.shown) is sliders


def test_buttons_invert_and_mirror() -> None:
    sliders = BlockValues(LISTED[26]).with_values([0.1 * i for i in range(26)])
    found = dict(zip(sliders.blocks, sliders.mirrored().shown))
    values = dict(zip(sliders.blocks, sliders.shown))
    assert all(found[f"OUT{11 - i:02}"] == values[f"IN{i:02}"] for i in range(12)) and found["BASE"] == values["BASE"]
    short = BlockValues(LISTED[12]).with_values([0.25] * 5 + [0.75] * 7)
    found = dict(zip(short.blocks, short.mirrored().shown))
    assert [found[f"OUT0{i}"] for i in range(6)] == [0.25, 0.25, 0.75, 0.25, 0.25, 0.75]  # OUT02 and OUT05 have no partner here
    assert BlockValues(LISTED[12]).with_values([0.3] * 12).inverted().shown == (0.7,) * 12


def test_a_change_of_the_layout_and_back_loses_no_value() -> None:
    sliders = BlockValues(LISTED[26]).with_values([0.1 * i for i in range(26)])
    there = replace(sliders, layout=LISTED[17])
    assert dict(zip(there.blocks, there.shown)) == {b: v for b, v in zip(sliders.blocks, sliders.shown) if b in LAYOUTS[17]}
    assert replace(there, layout=LISTED[26]).shown == sliders.shown


@pytest.mark.parametrize(
    "family, blocks, count",
    [
        ("sd1", ["BASE", "IN01", "OUT11"], 17), ("sd2", ["IN00"], 26), ("sdxl", ["IN08", "OUT05"], 12), ("sdxl", ["OUT06"], 20),
        ("sdxl-refiner", ["IN04"], 26), ("flux", ["D00"], 61), ("sd3", ["J23"], 29), ("sd3", ["J24", "CLIPL"], 43), ("sd1", ["-"], 17),
        ("qwen-image", ["T59"], 63), ("chroma", ["S37", "T5"], 60), ("cogvideox", ["B29"], 32), ("cogvideox", ["B30"], 44),
    ],
)  # fmt: skip
def test_a_network_picks_its_layout(family: str, blocks: list[str], count: int) -> None:
    shown = layout_for(family, dict.fromkeys(blocks, 1))
    assert len(shown.blocks) == count and shown.listed == (count in LISTED) and set(shown.blocks) >= set(blocks) - {"-"}


def test_a_model_that_is_not_known_has_no_sliders_and_says_so() -> None:
    with pytest.raises(ToolError, match=r"there are no sliders for the blocks of an unknown base model; choose"):
        layout_for(UNKNOWN.id, {})


def test_rows_join_what_skip_connections_join() -> None:
    assert rows(LISTED[26])[0] == ("IN00", "OUT11") and rows(LISTED[26])[-1] == ("IN11", "OUT00")
    assert rows(LISTED[12]) == [("", "OUT05"), ("IN04", "OUT04"), ("IN05", "OUT03"), ("", "OUT02"), ("IN07", "OUT01"), ("IN08", "OUT00")]
    assert rows(LISTED[61]) == [] and {block for pair in rows(LISTED[17]) for block in pair if block} == set(LAYOUTS[17]) - {"BASE", "M00"}


@pytest.mark.parametrize("label", SHOWN)
def test_the_picture_has_every_block_once(label: str) -> None:
    shown = SHOWN[label]
    count = len(shown.blocks)
    sliders = replace(BlockValues(shown).with_values([0.01 * i for i in range(count)]), touched={shown.blocks[1]: 3})
    html = picture(sliders)
    assert sorted(re.findall(r'data-block="(\w+)"', html)) == sorted(sliders.blocks)
    order = re.search(r'data-order="([\w ]+)"', html)
    assert order is not None and tuple(order[1].split()) == sliders.blocks
    for block, value in zip(sliders.blocks, sliders.shown):
        part = html[html.index(f'data-block="{block}"') :].split("</div>", 1)[0]
        numbers = re.findall(r'value="([^"]+)"', part)
        assert [float(number) for number in numbers] == [value, value]
    assert html.count("lyco_untouched") == count - 1 and html.count('type="range"') == html.count('type="number"') == count


def test_typed_values_are_read_or_refused() -> None:
    assert read_values(",".join(["0.5"] * 12), LISTED[17]) == (LISTED[12], [0.5] * 12)
    assert read_values("1;" * 16 + "2\n", LISTED[17]) == (LISTED[17], [1.0] * 16 + [2.0])
    assert read_values(",".join(["0.5"] * 29), SD3) == (SD3, [0.5] * 29)
    for text, said in (
        ("1,2", "2 values given; this layout needs 17"),
        ("x," * 16 + "1", "is not a block weight"),
        ("", "1 value given; this layout needs 17"),
    ):
        with pytest.raises(PromptError, match=said):
            read_values(text, LISTED[17])


# --- how much a network changes each block


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedHost:
    return EmbeddedHost.open(device="cpu", data=tmp_path_factory.mktemp("data"))


def path_of(host: EmbeddedHost, name: str) -> Path:
    return host.library.find(name).path


@pytest.mark.parametrize("name", MEASURED)
def test_norms_are_those_of_the_deltas(host: EmbeddedHost, name: str) -> None:
    network = load(path_of(host, name), host.base)
    *_, (done, total, norms) = measure(network, host.base, BaseWeights(host.weight))
    assert done == total == len(network.patches) and touched(network) == {block: norm.changes for block, norm in norms.items()}
    delta: dict[str, float] = {}
    base: dict[str, float] = {}
    for patched, algorithm in network.patches.items():
        block = block_of(patched, "sd1") or "-"
        weight = host.weight(patched).float()
        delta[block] = delta.get(block, 0.0) + float(algorithm.delta(weight).double().square().sum())
        base[block] = base.get(block, 0.0) + float(weight.double().square().sum())
    assert norms.keys() == delta.keys()
    for block, norm in norms.items():
        assert norm.norm == pytest.approx(delta[block] ** 0.5, rel=1e-4) and norm.norm > 0
        assert norm.relative == pytest.approx((delta[block] / base[block]) ** 0.5, rel=1e-4) and norm.size == norm.relative


def test_without_a_base_model_the_rest_is_measured_and_the_others_are_counted(host: EmbeddedHost) -> None:
    plain = load(path_of(host, "demo-lora"), host.base)
    with_base = list(measure(plain, host.base, BaseWeights(host.weight)))[-1][2]
    alone = list(measure(plain, host.base))[-1][2]
    assert {block: norm.norm for block, norm in alone.items()} == {block: norm.norm for block, norm in with_base.items()}
    assert all(norm.relative is None and norm.size == norm.norm for norm in alone.values())
    rotations = load(path_of(host, "demo-oft"), host.base)
    norms = list(measure(rotations, host.base))[-1][2]
    assert all(norm.norm is None and norm.measured == 0 for norm in norms.values())
    assert f"Not in the bars: {len(rotations.patches)} layers whose change depends on a base model" in legend(norms)


def test_a_network_is_measured_once_and_again_when_its_file_changes(host: EmbeddedHost, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(path_of(host, "demo-lora").read_bytes())
    meter = Meter(host)
    before = meter.facts(copy)
    assert before.norms == {} and before.family == "sd1" and before.touched["IN01"] > 0 and "IN00" not in before.touched
    assert [step.done for step in meter.measure(copy)] == list(range(1, 217))
    expected = list(measure(load(copy, host.base), host.base, BaseWeights(host.weight)))[-1][2]
    assert meter.facts(copy).norms["IN01"].relative == pytest.approx(expected["IN01"].relative, rel=1e-6)
    assert list(meter.measure(copy)) == []
    copy.write_bytes(path_of(host, "demo-full").read_bytes())
    assert meter.facts(copy).norms == {}
    copy.unlink()
    with pytest.raises(LycorisError, match="cannot be read"):
        meter.facts(copy)


# --- the page's own logic


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_checkpoint(tmp_path_factory.mktemp("checkpoints")).parent


@pytest.fixture
def context(host: EmbeddedHost, checkpoints: Path, tmp_path: Path) -> Iterator[PageContext]:
    """A context whose new files and presets are of one test alone."""
    library, jobs = host.library, Jobs()
    host.session.library = Library([*library.folders, tmp_path / "networks"])
    store = FolderStore(host.library, checkpoints, tmp_path)
    host.session.presets = store.presets
    yield PageContext(store, jobs, host, send="Generate")
    jobs.close()
    host.session.library, host.session.presets = library, Presets.default


@pytest.fixture
def page(context: PageContext) -> BlocksPage:
    made = BlocksPage(context)
    with gr.Blocks() as blocks:
        made.build()
        context.finish(blocks)
    return made


def value(updates: tuple[Any, ...], name: str) -> Any:
    update = updates[OUTPUTS.index(name)]
    return update if isinstance(update, BlockState) else update.get("value")


def tag_in(updates: tuple[Any, ...]) -> str:
    found = re.search(r"&lt;(lyco:[^&]*)&gt;", value(updates, "tag"))
    return f"<{found[1]}>" if found else ""


NUMBERS = (1, 1, 0, 0)


def test_a_chosen_network_shows_its_blocks_then_its_norms(page: BlocksPage) -> None:
    shown = page.choose(BlockState(), "demo-locon", *NUMBERS)
    state = value(shown, "state")
    assert state.sliders.layout == LISTED[26] and value(shown, "layout") == LISTED[26].label and tag_in(shown) == "<lyco:demo-locon:1>"
    assert all(state.sliders.is_touched(block) for block in ("BASE", "IN00", "IN10")) and "Bars" not in value(shown, "legend")
    assert sum("value" in update for update in page.measure("demo-locon")) > 5
    moved = page.typed(",".join(["1"] * 25 + ["0.5"]), state, "demo-locon", *NUMBERS)  # a slider while it was measured
    late = page.show_norms(value(moved, "state"))["value"]
    measured = json.loads(unescape(re.search(r'data-bars="([^"]*)"', late)[1]))
    assert "Grey bars" in late and measured.keys() == set(LAYOUTS[26]) and max(measured.values())[0] == 100
    again = page.typed(",".join(["1"] * 17), value(moved, "state"), "demo-locon", *NUMBERS)  # another layout: a new image
    assert "width:100%" in value(again, "picture") and measured["IN01"][1] in value(again, "picture")
    unet = value(page.choose(BlockState(), "demo-dora", *NUMBERS), "state").sliders
    assert not unet.is_touched("BASE") and unet.is_touched("IN10")
    short = page.choose(BlockState(), "demo-lora", *NUMBERS)
    assert value(short, "state").sliders.layout == LISTED[17] and value(short, "preset") == "ALL" and tag_in(short) == "<lyco:demo-lora:1>"


def test_a_network_of_another_family_has_its_own_sliders_and_its_tag_is_baked(page: BlocksPage) -> None:
    folder, name = page.context.store.network_folder(), "diffusion_model.layers.{}.attention.out"
    tensors = {f"{name.format(number)}.lora_{side}.weight": torch.rand(shape) for number in (0, 1, 29)
               for side, shape in (("A", (2, 3840)), ("B", (3840, 2)))}  # fmt: skip
    save_file(tensors, folder / "zed.safetensors")
    page.context.store.refresh()
    shown = page.choose(BlockState(), "zed", *NUMBERS)
    state = value(shown, "state")
    assert value(shown, "layout") == "Z-Image: all (37)" and tag_in(shown) == "<lyco:zed:1>"
    assert [block for block in state.sliders.blocks if state.sliders.is_touched(block)] == ["L00", "L01", "L29"]
    moved = page.typed(",".join(["0.5"] * 35 + ["-1", "0"]), state, "zed", *NUMBERS)
    assert tag_in(moved) == "<lyco:zed:1:lbwe=L00-L01::0.5,L29::-1>"
    tool, options = page.bake.make("baked", None, value(moved, "state"), "zed", 1.0, 1.0, 0, None)
    job = page.context.jobs.start(tool, options)
    assert job.wait(60) and job.status == "done", job.error
    old, new = (load(folder / f"{file}.safetensors").patches for file in ("zed", "baked"))
    for number, ratio in ((0, 0.5), (1, 0.5), (29, -1.0)):
        ours, theirs = (patches[f"{name.format(number)}.weight"].delta(torch.zeros(3840, 3840)) for patches in (new, old))
        torch.testing.assert_close(ours, ratio * theirs, rtol=1e-6, atol=1e-6)


def test_a_file_that_is_no_network_is_a_sentence(page: BlocksPage) -> None:
    folder = page.context.store.network_folder()
    (folder / "broken.safetensors").write_bytes(b"nothing")
    page.context.store.refresh()
    shown = page.choose(BlockState(), "broken", *NUMBERS)
    assert "broken" in value(shown, "notes") and value(shown, "state").sliders.touched is None and tag_in(shown) == ""
    assert list(page.measure("broken"))[-1] == gr.update(value="")
    assert "there is no network called" in value(page.choose(BlockState(), "<b>", *NUMBERS), "notes")
    assert "<b>" not in value(page.choose(BlockState(), "<b>", *NUMBERS), "notes")


def test_typed_values_move_what_has_to_move(page: BlocksPage) -> None:
    state = value(page.choose(BlockState(), "demo-lora", *NUMBERS), "state")
    text = ",".join(["1"] * 16 + ["0.25"])
    same = page.typed(text, state, "demo-lora", 0.5, 1, 0, 0)
    assert tag_in(same) == f"<lyco:demo-lora:0.5:1:lbw={text}>" and value(same, "picture") is None and value(same, "values") is None
    assert f'data-understood="{text}|0.5|1|0|0"' in value(same, "tag")
    other = page.typed(",".join(["0"] * 26), state, "demo-lora", *NUMBERS)
    assert value(other, "layout") == LISTED[26].label and value(other, "picture").count('value="0"') == 52
    bad = page.typed("1,2,x", state, "demo-lora", *NUMBERS)
    assert (
        "3 values given; this layout needs 17." in value(bad, "notes")
        and value(bad, "state") is None
        and 'data-understood="1,2,x|' in value(bad, "tag")
    )
    assert "never on" in value(page.retag(text, state, "demo-lora", 1, 1, 9, 3), "notes")


def test_presets_of_the_layout_are_offered_and_loaded(page: BlocksPage) -> None:
    state = BlockState(BlockValues(LISTED[17]))
    offered = page.offer(state)["choices"]
    assert "MIDD" in offered and "SDXL-ALL" not in offered and "SDXL-ALL" in page.offer(BlockState(BlockValues(LISTED[20])))["choices"]
    loaded = page.load("MIDD", state, "demo-lora", *NUMBERS)
    assert tag_in(loaded) == "<lyco:demo-lora:1:lbw=MIDD>" and value(loaded, "preset") == "MIDD"
    assert value(loaded, "state").sliders.shown == tuple(Presets.default().weights("MIDD").ratios(0).values())
    assert "there is no preset" in value(page.load("nothing", state, "demo-lora", *NUMBERS), "notes")
    page.own.save("lots", parse_weights("R," + ",".join(["1"] * 16)))
    assert "random values" in value(page.load("lots", state, "demo-lora", *NUMBERS), "notes")


@pytest.mark.parametrize(
    "count, name", [(17, "MIDD"), (26, "MIDD"), (26, "ALL0.5"), (12, "SDXL-STYLE"), (20, "SDXL-STYLE"), (61, "FLUX-DOUBLE")]
)
def test_every_list_of_a_model_offers_its_presets_which_mean_what_the_tag_means(page: BlocksPage, count: int, name: str) -> None:
    """Also where they are lists of other lengths: a block that a preset lacks is off, one that the layout lacks changes the layout."""
    state = BlockState(BlockValues(LISTED[count]))
    assert name in page.offer(state)["choices"]
    loaded = page.load(name, state, "demo-lora", *NUMBERS)
    assert value(loaded, "preset") == name and tag_in(loaded) == f"<lyco:demo-lora:1:lbw={name}>"
    sliders, meant = value(loaded, "state").sliders, Presets.default().weights(name).ratios(0)
    assert {block: weight for block, weight in zip(sliders.blocks, sliders.shown) if weight} == {b: w for b, w in meant.items() if w}
    assert sliders.layout == LISTED[20 if count == 12 else count]


def test_a_saved_preset_works_in_a_prompt_at_once_and_goes_again(page: BlocksPage) -> None:
    sliders = BlockValues(LISTED[17]).with_values([0.0] * 8 + [1.0] * 9)
    *shown, emptied = page.save(" mine ", BlockState(sliders), "demo-lora", *NUMBERS)
    assert emptied == gr.update(value="") and value(tuple(shown), "preset") == "mine"
    assert page.own.path.read_text(encoding="utf-8") == f"mine:{sliders.text}\n"
    assert page.own.path == page.context.store.kept_folder() / "lbwpresets.txt"
    request = GenerationRequest("a house <lyco:demo-lora:1:lbw=mine>", seed=1, steps=1, width=64, height=64)
    generator = page.context.generator
    assert generator is not None
    named = generator.generate(request)
    numbers = generator.generate(replace(request, prompt=f"a house <lyco:demo-lora:1:lbw={sliders.text}>"))
    assert named.problems == () and np.array_equal(np.asarray(named.image), np.asarray(numbers.image))
    gone = page.delete("mine", BlockState(sliders), "demo-lora", *NUMBERS)
    assert "Deleted: mine" in value(gone, "notes") and page.own.names() == ()
    assert 'no preset "mine"' in " ".join(generator.generate(request).problems).replace("&quot;", '"')


@pytest.mark.parametrize(
    "name, said",
    [("", "Give the preset a name"), ("a:b", "or contain"), ("a>b", "or contain"), ("0.5", "cannot be a number"), ("MIDD", "already")],
)
def test_a_name_that_cannot_be_a_preset_is_refused(page: BlocksPage, name: str, said: str) -> None:
    *shown, kept = page.save(name, BlockState(BlockValues(LISTED[17])), "demo-lora", *NUMBERS)
    assert said in value(tuple(shown), "notes") and kept == gr.update() and not page.own.path.exists()


def test_only_own_presets_are_deleted_and_sd3_has_none(page: BlocksPage) -> None:
    assert "no preset is chosen" in value(page.delete(None, BlockState(), "", *NUMBERS), "notes")
    assert "was not saved on this page" in value(page.delete("MIDD", BlockState(), "", *NUMBERS), "notes")
    *shown, _ = page.save("mine", BlockState(BlockValues(SD3)), "", *NUMBERS)
    assert "weights of Stable Diffusion 3 medium are element filters" in value(tuple(shown), "notes")


def test_own_presets_keep_what_else_is_in_the_file(tmp_path: Path) -> None:
    own = OwnPresets(tmp_path / "new")
    own.path.parent.mkdir()
    own.path.write_text("# my own\nold:" + ",".join(["1"] * 12) + "\n", encoding="utf-8")
    own.save("new", parse_weights(",".join(["0"] * 12)))
    own.save("new", parse_weights(",".join(["0.5"] * 12)))
    assert own.names() == ("old", "new")
    own.delete("old")
    assert own.path.read_text(encoding="utf-8") == "# my own\nnew:" + ",".join(["0.5"] * 12) + "\n"
    with pytest.raises(PromptError, match='no preset "old" to delete'):
        own.delete("old")
    joined = own.added_to(Presets("new:" + ",".join(["1"] * 12) + "\n", ""))
    assert joined.weights("new") == parse_weights(",".join(["0.5"] * 12))


def test_the_app_opens_with_own_presets_in_its_prompts(tmp_path: Path) -> None:
    tiny = EmbeddedHost.tiny()
    tiny.session.library = Library([tmp_path])
    store = open_store(tiny, tmp_path / "model.safetensors", tmp_path, tmp_path / "data")
    weights = parse_weights(",".join(["0.5"] * 12))
    OwnPresets(store.kept_folder()).save("mine", weights)
    assert tiny.session.presets().weights("mine") == store.presets().weights("mine") == weights


def test_the_webui_reads_own_presets_beside_the_extensions_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "lbw"
    (folder / "scripts").mkdir(parents=True)
    theirs = folder / "scripts" / "lbwpresets.txt"
    theirs.write_text("THEIRS:" + ",".join(["1"] * 17) + "\n", encoding="utf-8")
    paths = SimpleNamespace(data_path=str(tmp_path))
    extensions = SimpleNamespace(extensions=[SimpleNamespace(path=str(folder), enabled=True)])
    modules = {"modules": SimpleNamespace(paths=paths, extensions=extensions), "modules.paths": paths, "modules.extensions": extensions}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    presets, own = PresetFiles(), OwnPresets(tmp_path / "lycoris")
    assert "THEIRS" in presets().weight_names and "MINE" not in presets().weight_names and "ALL" not in presets().weight_names
    own.save("MINE", parse_weights(",".join(["0.5"] * 12)))
    assert presets().weights("MINE") == parse_weights(",".join(["0.5"] * 12)) and "THEIRS" in presets().weight_names
    own.delete("MINE")
    assert "MINE" not in presets().weight_names and theirs.read_text(encoding="utf-8").startswith("THEIRS:1,")


def test_what_people_made_leaves_the_webuis_cache_where_older_versions_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = SimpleNamespace(data_path=str(tmp_path))
    for name, module in {"modules": SimpleNamespace(paths=paths), "modules.paths": paths}.items():
        monkeypatch.setitem(sys.modules, name, module)
    cache = tmp_path / "cache" / "lycoris"
    cache.mkdir(parents=True)
    for name in ("lbwpresets.txt", FIELDS, "index.json"):
        (cache / name).write_text(name, encoding="utf-8")
    kept = kept_folder()
    assert kept == tmp_path / "lycoris" and sorted(path.name for path in kept.iterdir()) == ["lbwpresets.txt", FIELDS]
    assert [path.name for path in cache.iterdir()] == ["index.json"]
    (cache / FIELDS).write_text("older", encoding="utf-8")
    assert (kept_folder() / FIELDS).read_text(encoding="utf-8") == FIELDS  # nothing is written over


# --- baking


def test_what_is_baked_does_at_strength_1_what_the_tag_does(page: BlocksPage, context: PageContext) -> None:
    state = value(page.choose(BlockState(), "demo-lora", *NUMBERS), "state")
    state = replace(state, sliders=state.sliders.with_values([0.0] * 8 + [0.5] * 9))
    base = context.store.checkpoints()[0].name
    tool, options = page.bake.make("baked", base, state, "demo-lora", 0.8, 1.0, 0, None)
    job = context.jobs.start(tool, options)
    assert job.wait(60) and job.status == "done", job.error
    assert job.result is not None and job.result.outputs == (context.store.network_folder() / "baked.safetensors",)
    assert isinstance(context.generator, EmbeddedHost)
    tag = find_tags(tag_of(state.sliders, "demo-lora", None, 0.8, 1.0))[1][0]
    strengths = resolve(tag, "sd1", 0, Presets.default())
    old, new = load(path_of(context.generator, "demo-lora"), context.generator.base), load(job.result.outputs[0], context.generator.base)
    assert new.patches.keys() == {name for name in old.patches if strengths(name) != 0}
    for name, algorithm in new.patches.items():
        weight = context.generator.weight(name).float()
        torch.testing.assert_close(algorithm.delta(weight), strengths(name) * old.patches[name].delta(weight), rtol=1e-5, atol=1e-6)


def test_what_a_file_cannot_hold_is_refused(page: BlocksPage) -> None:
    with pytest.raises(ToolError, match="every step"):
        page.bake.make("x", None, BlockState(), "demo-lora", 1, 1, 5, 0)
    with pytest.raises(ToolError, match="no network is chosen"):
        page.bake.make("x", None, BlockState(), None, 1, 1, 0, 0)
    with pytest.raises(ToolError, match="leads outside"):
        page.bake.make("../x", None, BlockState(), "demo-lora", 1, 1, 0, 0)


# --- the analyzer


def setup_for(host: EmbeddedHost, name: str, blocks: tuple[str, ...], alone: bool = False) -> Setup:
    sliders = BlockValues().for_network("sd1", touched(load(path_of(host, name), host.base)))
    request = GenerationRequest("a house <lyco:other:1>", seed=5, steps=2, width=64, height=64)
    return Setup(request, name, replace(sliders, layout=LISTED[26]), NUMBERS, alone, blocks)


def last(host: EmbeddedHost, setup: Setup) -> Outcome:
    told: list[tuple[float, str]] = []
    *_, outcome = analyse(host, setup, lambda *state: told.append(state), Event())
    assert [share for share, _ in told] == sorted(share for share, _ in told) and told[-1][0] == 1.0 and "finishing" in told[-1][1]
    return outcome


def test_a_block_that_the_network_does_not_touch_makes_no_difference(host: EmbeddedHost) -> None:
    outcome = last(host, setup_for(host, "demo-lora", ("IN00", "OUT10")))
    amounts = {trial.block: trial.amount for trial in outcome.trials}
    assert amounts["IN00"] == 0.0 and amounts["OUT10"] > 1.0 and outcome.ranking[0].block == "OUT10"


@pytest.mark.parametrize("alone", [False, True], ids=["drop", "alone"])
def test_the_difference_is_that_of_the_real_pictures(host: EmbeddedHost, alone: bool) -> None:
    setup = setup_for(host, "demo-locon", ("M00", "BASE"), alone)
    outcome = last(host, setup)

    def weights(**changed: float) -> str:
        return ",".join(f"{changed.get(block, 0.0 if alone else 1.0):g}" for block in LAYOUTS[26])

    def real(text: str) -> Any:
        return np.asarray(host.generate(replace(setup.request, prompt=f"a house <lyco:demo-locon:1:lbw={text}>")).image, dtype=np.float64)

    for trial in outcome.trials:
        one, other = real(weights(**{trial.block: 1.0 if alone else 0.0})), real(weights())
        assert trial.amount == pytest.approx(np.abs(one - other).mean(), rel=1e-5) and trial.amount > 0
        assert np.array_equal(np.asarray(trial.image, dtype=np.float64), one)
    assert "no network called" in " ".join(outcome.problems)  # <lyco:other:1> of the prompt stays, and is told about


def test_every_picture_has_the_tag_that_it_stands_for() -> None:
    sliders = BlockValues(LISTED[12]).with_values([0.5] * 12)
    request = GenerationRequest("a <lyco:n:0.3:lbw=MIDD> house <lyco:m:1>", seed=1)
    drop = prompts(Setup(request, "n", sliders, (1, 1, 0, 0), False, ("M00",)))
    assert [label for label, _ in drop] == [FULL, "M00"] and drop[0][1] == f"a house <lyco:m:1> <lyco:n:1:lbw={sliders.text}>"
    assert drop[1][1].endswith("lbw=0.5,0.5,0.5,0.5,0.5,0,0.5,0.5,0.5,0.5,0.5,0.5>")
    alone = prompts(Setup(request, "n", sliders, (1, 1, 0, 0), True, ("M00",)))
    assert [label for label, _ in alone] == [FULL, OFF, "M00"] and alone[2][1].endswith("lbw=0,0,0,0,0,0.5,0,0,0,0,0,0>")
    assert without_tag("<lyco:nn:1> x", "n") == "<lyco:nn:1> x"


def test_blocks_are_chosen_by_name_range_and_not() -> None:
    sliders = BlockValues(LISTED[17], touched={"IN01": 1, "M00": 2, "IN00": 1, "-": 1})
    assert chosen_blocks("", sliders) == ("IN01", "M00")
    assert chosen_blocks("in04-in08, mid", sliders) == ("IN04", "IN05", "IN07", "IN08", "M00")
    assert chosen_blocks("NOT BASE-IN08 OUT03-OUT11", sliders) == ("M00",)
    for text, said in (("IN03", "is no block of this layout"), ("I-X", "not a range"), ("IN09-IN11", "no block of this layout is left")):
        with pytest.raises(PromptError, match=said):
            chosen_blocks(text, sliders)


def test_heat_maps_share_one_scale_and_the_grid_holds_all(host: EmbeddedHost) -> None:
    outcome = last(host, setup_for(host, "demo-lora", ("OUT10", "M00")))
    brightest = [np.asarray(heat_map(trial.map, outcome.largest), dtype=int).sum(axis=2).max() for trial in outcome.ranking]
    assert brightest[0] == 252 + 255 + 164 and brightest[1] < brightest[0]
    assert difference(outcome.full, outcome.full).max() == 0
    assert grid(outcome, False).size == (3 * (128 + 8) - 8, 64 + 18 + 6)


def analyzer_values(
    state: BlockState, mode: str = DROP, steps: int = 1, blocks: str = "M00", network: str | None = "demo-lora"
) -> tuple[Any, ...]:
    return ("a house", mode, 1, steps, 64, 64, 7, blocks, state, network, *NUMBERS)


def test_the_part_shows_ranking_grid_and_pictures(page: BlocksPage, context: PageContext) -> None:
    state = value(page.choose(BlockState(), "demo-lora", *NUMBERS), "state")
    part = AnalyzerPart(context)
    first, *_, done = part.run(*analyzer_values(state, ALONE, blocks="M00 OUT10"))
    assert first[5]["interactive"] is False and first[6]["interactive"] is True
    assert "Done, seed 1: 2 blocks" in done[0]["value"] and done[5]["interactive"] is True
    assert re.findall(r'<th scope="row">(\w+)', done[2]["value"]) == ["OUT10", "M00"]
    assert done[3]["visible"] is True and done[4]["value"][0][1] == f"{FULL} | {OFF}" and len(done[4]["value"]) == 3


def test_the_analysis_stops_within_a_second(page: BlocksPage, context: PageContext) -> None:
    state = value(page.choose(BlockState(), "demo-lora", *NUMBERS), "state")
    part = AnalyzerPart(context)
    run = part.run(*analyzer_values(state, steps=500))
    assert any("image 1 of 2 (all blocks), step" in shown[0]["value"] for shown in run)  # on a busy machine not the second state yet
    assert "running" in next(part.run(*analyzer_values(state)))[0]["value"]
    context.maker.stop()
    began = time.monotonic()
    *_, ended = run
    assert time.monotonic() - began < 1 and "Cancelled." in ended[0]["value"] and ended[5]["interactive"] is True


def test_an_analysis_goes_on_when_its_page_is_closed_and_is_followed_when_it_is_opened_again(
    page: BlocksPage, context: PageContext
) -> None:
    state = value(page.choose(BlockState(), "demo-lora", *NUMBERS), "state")
    part = AnalyzerPart(context)
    run = part.run(*analyzer_values(state, steps=30))
    next(run)
    run.close()
    *found, following = part.found()
    assert "role=" in found[0]["value"] and found[5]["interactive"] is False and following["value"]
    *_, done = part.resume()
    assert "Done, seed 1: 1 block," in done[0]["value"]
    *_, late = part.resume()  # it ended between the opening and the following
    assert late[:4] == done[:4]
    *again, following = part.found()
    assert again[0] == done[0] and again[4]["visible"] is True and "value" not in following


def test_what_cannot_be_analyzed_is_a_sentence(page: BlocksPage, context: PageContext) -> None:
    part = AnalyzerPart(context)
    state = BlockState(BlockValues(LISTED[17]))
    assert "no network is chosen" in next(part.run(*analyzer_values(state, network=None)))[1]["value"]
    assert "no block of this layout" in next(part.run(*analyzer_values(state, blocks="IN00")))[1]["value"]
    *_, ended = part.run(*analyzer_values(state, network="gone"))
    assert "no network called" in ended[1]["value"] and ended[5]["interactive"] is True


def test_a_cancelled_generator_ends_the_analysis(host: EmbeddedHost) -> None:
    stop = Event()

    def tell(share: float, text: str) -> None:
        stop.set()

    with pytest.raises(GenerationCancelled):
        list(analyse(host, setup_for(host, "demo-lora", ("M00",)), tell, stop))


def test_without_a_generator_the_page_says_so_and_the_rest_works(context: PageContext) -> None:
    bare = PageContext(context.store, context.jobs)
    made = BlocksPage(bare)
    with gr.Blocks() as blocks:
        made.build()
        bare.finish(blocks)
    shown = [component["props"].get("value") for component in blocks.config["components"]]
    assert any(NO_GENERATOR in str(text) for text in shown)
    assert tag_in(made.load("MIDD", BlockState(BlockValues(LISTED[17])), "demo-lora", *NUMBERS)) == "<lyco:demo-lora:1:lbw=MIDD>"


# --- in a browser


def open_blocks(tab: Any, network: str, tag: str = "") -> None:  # noqa: F811 - the fixture's value
    """Choose a network and wait for its bars."""
    tab.locator("#lyco_tabs button", has_text="Block weight").first.click()
    tab.click("#lyco_blocks_network input")
    tab.wait_for_selector("#lyco_blocks_network ul.options li")
    tab.keyboard.press("Control+A")  # over the name of the last visit
    tab.keyboard.type(network)
    tab.wait_for_function("document.querySelectorAll('#lyco_blocks_network ul.options li').length < 4")
    tab.keyboard.press("Enter")
    wait_until_says(tab, "#lyco_blocks_legend", "Grey bars")
    wait_until_says(tab, "#lyco_blocks_tag", f"<lyco:{network}:1{tag or '>'}")


@pytest.mark.browser
@pytest.mark.new_set
def test_a_person_moves_sliders_by_keyboard_and_sends_the_tag(tab: Any) -> None:  # noqa: F811
    open_blocks(tab, "demo-locon")
    tab.focus('[data-block="IN04"] input[type="range"]')
    for _ in range(10):
        tab.keyboard.press("ArrowLeft")
    expected = ",".join("0.5" if block == "IN04" else "1" for block in LAYOUTS[26])
    wait_until_says(tab, "#lyco_blocks_tag", f"<lyco:demo-locon:1:lbw={expected}>")
    assert tab.input_value("#lyco_blocks_values textarea").strip() == expected
    assert tab.input_value('[data-block="IN04"] input[type="number"]') == "0.5"
    assert tab.evaluate("document.activeElement.closest('[data-block]').dataset.block") == "IN04"  # the image was not replaced
    tab.fill('[data-block="OUT11"] input[type="number"]', "-0.25")
    wait_until_says(tab, "#lyco_blocks_tag", expected[:-1] + "-0.25>")
    tab.click("#lyco_blocks_undo")
    wait_until_says(tab, "#lyco_blocks_tag", f"lbw={expected}>")
    tab.locator("#lyco_blocks_te input").press("Control+a")
    tab.keyboard.type("0.755", delay=10)
    wait_until_says(tab, "#lyco_blocks_tag", f"<lyco:demo-locon:0.755:1:lbw={expected}>")
    tab.click("#lyco_blocks_tag [data-lyco-send]")
    tab.wait_for_function("document.querySelector('#lyco_prompt textarea').value.includes('0.755:1:lbw=1,')")


@pytest.mark.browser
@pytest.mark.new_set
def test_a_person_pastes_values_and_the_picture_follows(tab: Any) -> None:  # noqa: F811
    open_blocks(tab, "demo-lora")
    tab.fill("#lyco_blocks_values textarea", ",".join(["0"] * 16 + ["1"]))
    tab.wait_for_function("document.querySelector('[data-block=IN01] input[type=range]').value === '0'")
    wait_until_says(tab, "#lyco_blocks_tag", "lbw=0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1>")
    tab.fill("#lyco_blocks_values textarea", ",".join(["0.5"] * 12))
    tab.wait_for_selector("[data-block=IN05]")
    tab.wait_for_function("document.querySelectorAll('#lyco_blocks_picture [data-block]').length === 12")
    tab.fill("#lyco_blocks_values textarea", "1,2,3")
    wait_until_says(tab, "#lyco_blocks_notes", "3 values given")


@pytest.mark.browser
@pytest.mark.new_set
def test_a_network_that_is_chosen_right_after_a_slider_keeps_its_own_layout(tab: Any) -> None:  # noqa: F811
    tab.locator("#lyco_tabs button", has_text="Block weight").first.click()
    tab.wait_for_selector("#lyco_blocks_picture:not([inert])")  # the network of the last visit is there
    tab.focus('[data-block="IN04"] input[type="range"]')
    tab.keyboard.press("ArrowLeft")
    open_blocks(tab, "demo-lora", ":lbw=")
    tab.wait_for_timeout(2000)  # longer than the script looks whether it was understood
    assert tab.locator("#lyco_blocks_picture [data-block]").count() == 17
    assert len(tab.input_value("#lyco_blocks_values textarea").split(",")) == 17


def test_the_tools_of_the_page_say_what_they_will_do(page: BlocksPage, context: PageContext) -> None:
    state, network, text = BlockState(), "demo-lora", BlockValues().text
    asked = ("a <lyco:demo-lora:1> house", DROP, 1, 6, 64, 64, 7, "IN04 M00", state)
    part = AnalyzerPart(context)
    assert "3 images of 64 x 64, 6 steps each: all blocks, IN04, M00." in part.planned(*asked, network, 1, 1, 0, 0, text)["value"]
    assert NOT_PLANNED in part.planned(*asked, None, 1, 1, 0, 0, text)["value"]
    assert "is no block of this layout" in part.planned(*asked[:7], "XX01", state, network, 1, 1, 0, 0, text)["value"]
    given = ("", context.store.checkpoints()[0].name, state, network, 1, 1, 0, 0, text)
    plan = LivePlan(context, "blocks_bake", "nothing")
    assert "216" in plan.update(page.bake.planned, lambda *values: bool(values[NETWORK]), given, 0.0)["value"]
    assert "nothing" in plan.update(page.bake.planned, lambda *values: bool(values[NETWORK]), (*given[:3], None, *given[4:]), 0.0)["value"]
