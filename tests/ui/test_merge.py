"""The page Merge without a browser: its table, its options, the plan, a job and what is shown of it; kept settings; the tab."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import torch
from safetensors import safe_open

from lib_lycoris import Patcher, demo, load
from lib_lycoris.errors import LycorisError, PromptError, ToolError
from lib_lycoris.hosts.embedded.files import FolderStore, open_store, use_checkpoint
from lib_lycoris.hosts.embedded.host import EmbeddedHost
from lib_lycoris.hosts.embedded.models import load_model
from lib_lycoris.hosts.protocol import GenerationRequest
from lib_lycoris.tools.jobs.progress import ProgressState
from lib_lycoris.tools.jobs.queue import Job, Jobs
from lib_lycoris.tools.merge.norms import shares
from lib_lycoris.tools.units import megabytes
from lib_lycoris.ui.context import PageContext, fits
from lib_lycoris.ui.pages import HostTab
from lib_lycoris.ui.pages.merge import BASE, CHECKPOINT, INTO_CHECKPOINT, INTO_NETWORK, MergePage, mode_changed
from lib_lycoris.ui.parts.network_table import EMPTY, MOST, NetworkRow, NetworkTable, rows_of_prompt
from lib_lycoris.ui.parts.tools import live_plan
from lib_lycoris.ui.parts.tools.fields import DEFAULT, OptionFields
from lib_lycoris.ui.parts.tools.job_panel import BUSY, JobPanel, words
from lib_lycoris.ui.settings import Settings
from lib_lycoris.ui.style import tag_box
from lib_lycoris.wording import duration

DEMO = demo.CHECKPOINT.name
STEM = demo.CHECKPOINT.stem
STATE, CANCEL, NOTES, RUN, UNDO = range(5)  # the panel's outputs: state, cancel, notes, both buttons; then the result's components
TAG, USE, _, TOLD, PLOT = range(5, 10)


def changed(name: str) -> int:
    """Return how many parameters a demo network changes."""
    model = load_model(demo.CHECKPOINT, torch.device("cpu"), torch.float32)
    return len(load(demo.NETWORKS / f"{name}.safetensors", Patcher(model.parts()).base).patches)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedHost:
    return EmbeddedHost.open(device="cpu", data=tmp_path_factory.mktemp("data"))


@pytest.fixture
def context(host: EmbeddedHost, tmp_path: Path) -> Iterator[PageContext]:
    store = open_store(host, None, None, tmp_path)
    made = PageContext(store, Jobs(), host, Settings(tmp_path / "pages.json"), "Generate", lambda path: use_checkpoint(host, path))
    yield made
    made.jobs.close()


@pytest.fixture
def page(context: PageContext) -> MergePage:
    made = MergePage(context)
    with gr.Blocks(analytics_enabled=False) as blocks:
        with gr.Tab("Merge"):
            made.build()
        context.finish(blocks)
    return made


def values(
    page: MergePage, entries: list[NetworkRow], mode: str = INTO_CHECKPOINT, checkpoint: str | None = DEMO, name: str = "",
    precision: str = DEFAULT, undo: bool = False, rank: float | None = 0, size: float | None = 0,
) -> list[Any]:  # fmt: skip
    """Return the values of all the page's inputs, those that are not named at their defaults."""
    rest = [component.value for component in (*page.more_checkpoint.components, *page.more_network.components)]
    return [mode, checkpoint, name, precision, undo, rank, size, page.table.show(entries)[0]["value"], *rest]


def run(page: MergePage, given: list[Any]) -> tuple[Any, ...]:
    *_, last = page.panel.make_and_run(page.options, given)
    return last


# --- the table


@pytest.fixture
def table(context: PageContext) -> NetworkTable:
    made = NetworkTable(context, "x")
    with gr.Blocks(analytics_enabled=False), gr.Tab("x"):
        made.build()
    return made


def test_networks_are_added_with_labels_of_their_own(table: NetworkTable) -> None:
    picker, rows, shown = table.add("demo-lora", EMPTY)
    assert picker["value"] is None and table.read(rows["value"]) == [NetworkRow("demo-lora")]
    _, rows, shown = table.add("<img src=x onerror=1>", json.dumps([["demo-lora", "0.", "", "", "MIDD"]]))
    assert json.loads(rows["value"]) == [["demo-lora", "0.", "", "", "MIDD"], ["<img src=x onerror=1>", "1", "", "", ""]]
    for label in ("Strength", "Text encoder", "UNet", "Block weights"):
        assert f'aria-label="{label} of demo-lora"' in shown["value"]
    assert "<img" not in shown["value"] and 'aria-label="Remove &lt;img' in shown["value"]
    assert all("value" not in update for update in table.add(None, EMPTY))


def test_no_network_is_dropped_in_silence(table: NetworkTable) -> None:
    text = EMPTY
    for number in range(MOST):
        _, rows, _ = table.add(f"n{number}", text)
        text = rows["value"]
    assert [row.name for row in table.read(text)] == [f"n{number}" for number in range(MOST)]
    _, rows, shown = table.add("one-more", text)
    assert rows["value"] == text and "one-more was not added: a merge takes up to 100 networks" in shown["value"]


def test_networks_that_are_sent_from_elsewhere_are_not_dropped_in_silence(table: NetworkTable) -> None:
    names = [f"n{number}" for number in range(MOST + 2)]
    rows, shown = table.receiver.take(names, EMPTY)
    assert [row.name for row in table.read(rows["value"])] == names[:MOST]
    assert f"n{MOST}, n{MOST + 1} were not added: a merge takes up to 100 networks" in shown["value"]


def test_rows_and_tags_mean_the_same() -> None:
    rows = [NetworkRow("a b", 0.7), NetworkRow("c", 1.0, 0.0, 0.5), NetworkRow("d", -1.0, blocks="MIDD")]
    assert [row.tag for row in rows] == ["<lyco:a b:0.7>", "<lyco:c:0:0.5>", "<lyco:d:-1:lbw=MIDD>"]
    assert rows_of_prompt("x " + " ".join(row.tag for row in rows)) == [rows[0], NetworkRow("c", 0.0, None, 0.5), rows[2]]
    with pytest.raises(ToolError, match="has no tag"):
        rows_of_prompt("a house")
    for tag in ("<lyco:a:1:start=3>", "<lyco:a:0@0,1@1>", "<lyco:a:1:lbwe=:attn:0>"):
        with pytest.raises(ToolError, match="cannot be merged"):
            rows_of_prompt(tag)


def test_strengths_become_options(table: NetworkTable, context: PageContext) -> None:
    paths = {file.name: file.path for file in context.store.networks()}
    one, two = NetworkRow("demo-lora", 0.7), NetworkRow("demo-loha", -1.0, te=0.0, unet=None, blocks="MIDD")
    assert table.options([one]) == {"models": [paths["demo-lora"]], "ratios": [0.7]}
    found = table.options([one, two])
    assert found["ratios"] == [0.7, -1.0] and found["te"] == [0.7, 0.0] and "unet" not in found
    assert found["lbw"] == ["-", context.store.presets().weights("MIDD").format()]
    assert table.options([NetworkRow("demo-lora", blocks="1,0,0,0,1,1,1,1,1,1,1,1")])["lbw"] == ["1,0,0,0,1,1,1,1,1,1,1,1"]
    with pytest.raises(ToolError, match="no network is chosen"):
        table.options([])
    with pytest.raises(ToolError, match='no network called "demo-lara"'):
        table.options([NetworkRow("demo-lara")])
    with pytest.raises(ToolError, match="demo-lora has no strength"):
        table.read('[["demo-lora", "", "", "", ""]]')
    with pytest.raises(ToolError, match='demo-lora: its UNet strength is "x", which is no number'):
        table.read('[["demo-lora", "1", "", "x", ""]]')
    assert table.read("no table") == table.read('{"a": 1}') == []


# --- the page


def test_fields_become_options_of_the_right_tool(page: MergePage, context: PageContext) -> None:
    one = [NetworkRow("demo-lora", 0.7)]
    tool, options = page.options(*values(page, one, undo=True, precision="fp16"))
    folder = context.store.checkpoint_folder()
    assert tool == "merge" and options["sd_model"] == folder / DEMO and options["save_precision"] == "fp16"
    assert options["save_to"] == folder / f"{STEM}+demo-lora.safetensors" and options["undo_file"] == folder / f"{STEM}+demo-lora.undo"
    tool, options = page.options(*values(page, one, INTO_NETWORK, None, name="both", rank=8, size=0.5))
    assert tool == "networks_merge" and options["save_to"] == context.store.network_folder() / "both.safetensors"
    assert (options["dim"], options["size"]) == (8, 0.5) and "base_model" not in options and "no_hash" not in options
    assert page.options(*values(page, one, INTO_NETWORK))[1]["base_model"] == folder / DEMO


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"checkpoint": None}, "no checkpoint is chosen"),
        ({"checkpoint": "nothing"}, 'no checkpoint called "nothing"'),
        ({"entries": []}, "no network is chosen"),
        ({"name": "../x"}, "leads outside"),
        ({"name": STEM}, "is there already"),
        ({"mode": INTO_NETWORK, "precision": "fp8_e5m2"}, "is for checkpoints"),
        ({"mode": INTO_NETWORK, "rank": None}, "Rank: a number is missing"),
        ({"mode": INTO_NETWORK, "size": None}, "Size: a number is missing"),
    ],
)
def test_wrong_fields_are_a_sentence_in_the_panel(page: MergePage, changes: dict[str, Any], words: str) -> None:
    given = {"entries": [NetworkRow("demo-lora")], **changes}
    last = run(page, values(page, **given))
    assert words in unescape(last[NOTES]["value"]) and 'class="lyco_note worse"' in last[NOTES]["value"]
    assert last[RUN]["interactive"] is True and page.context.jobs.all() == []


def test_networks_go_into_a_checkpoint_that_paints_as_the_prompt_did(page: MergePage, context: PageContext, host: EmbeddedHost) -> None:
    before = host.model
    asked = host.generate(
        GenerationRequest("a red house <lyco:demo-lokr:0.7> <lyco:demo-lora:-0.5>", seed=3, steps=4, width=64, height=64)
    ).image
    given = values(page, [NetworkRow("demo-lokr", 0.7), NetworkRow("demo-lora", -0.5)], undo=True, name="merged", precision="fp32")
    updates = list(page.panel.make_and_run(page.options, given))
    assert updates[0][RUN]["interactive"] is False and updates[0][CANCEL]["interactive"] is True
    last = updates[-1]
    assert "Done" in last[STATE]["value"] and last[RUN]["interactive"] is True and "432" not in last[NOTES]["value"]
    assert f" - {changed('demo-lora')} layers, all keys used" in last[NOTES]["value"]
    assert last[TAG]["value"] == "" and last[USE]["visible"] is True and last[6 + 1]["visible"] is True
    assert re.findall(r"(\d\. [\w-]+) most in", last[PLOT]["value"]) == ["1. demo-lokr", "2. demo-lora"]
    try:
        assert f"Images are made with merged now ({host.base.label})" in page.result.use()[0]["value"]
        merged = host.generate(GenerationRequest("a red house", seed=3, steps=4, width=64, height=64)).image
        assert max(abs(a - b) for a, b in zip(asked.tobytes(), merged.tobytes(), strict=True)) <= 3
        told, back = page.result.use_the_one_before()
        assert "demo-scenes" in told["value"] and host.model.name == before.name and back["visible"] is False
    finally:
        host.use(before)
    *_, undone = page.panel.make_and_run(page.result.undo_options, [])
    folder = context.store.checkpoint_folder()
    assert "to the byte" in undone[NOTES]["value"]
    assert (folder / f"{STEM}-restored.safetensors").read_bytes() == (folder / DEMO).read_bytes()
    assert [file.name for file in context.store.checkpoints()] == [f"{STEM}-restored.safetensors", DEMO, "merged.safetensors"]


def test_networks_become_one_network_with_its_tag(page: MergePage, context: PageContext) -> None:
    last = run(page, values(page, [NetworkRow("demo-lora", 0.7), NetworkRow("demo-loha", 0.5)], INTO_NETWORK))
    assert "exactly their sum" in last[NOTES]["value"], last[NOTES]["value"]
    made = context.store.network_folder() / "demo-lora+demo-loha.safetensors"
    with safe_open(made, "pt") as file:
        assert len(list(file.keys())) > 100
    assert 'data-lyco-copy="&lt;lyco:demo-lora+demo-loha:1&gt;"' in last[TAG]["value"] and "Send to Generate" in last[TAG]["value"]
    assert last[USE]["visible"] is False
    assert (
        page.options(*values(page, [NetworkRow("demo-lora"), NetworkRow("demo-loha")], INTO_NETWORK))[1]["save_to"].stem
        == "demo-lora+demo-loha-2"
    )


def test_a_cancelled_merge_leaves_nothing(page: MergePage, context: PageContext) -> None:
    networks = [NetworkRow(file.name, 0.1) for file in context.store.networks()][:MOST]
    job = page.panel.make_and_run(page.options, values(page, networks, name="half"))
    next(job)
    began = time.monotonic()
    page.panel.cancel()
    assert page.panel._now(context.jobs.all()[0]).count("stopping ...") == 1
    *_, last = job
    assert time.monotonic() - began < 2  # the job ends within a second; the panel looks five times a second
    assert "Cancelled. Nothing was written." in last[STATE]["value"] and last[RUN]["interactive"] is True
    assert [path.name for path in context.store.checkpoint_folder().iterdir()] == [DEMO]


def test_a_page_that_is_opened_again_shows_its_job(page: MergePage, context: PageContext) -> None:
    assert all("value" not in update for update in page.panel.found())
    given = values(page, [NetworkRow("demo-lora")], INTO_NETWORK, name="again")
    running = page.panel.make_and_run(page.options, given)
    next(running)
    running.close()  # the browser's window is gone
    job = context.jobs.latest("lyco_merge")
    assert job is not None
    *_, last = page.panel.resume()
    assert job.status == "done" and "Done" in last[STATE]["value"]
    found = page.panel.found()
    assert found[NOTES]["value"] == last[NOTES]["value"] and "again" in found[TAG]["value"] and "value" not in found[-1]
    for update in found:
        update.clear()  # as Gradio 4 does
    assert "again" in page.panel.found()[TAG]["value"]


def test_two_clicks_start_one_job(page: MergePage, context: PageContext) -> None:
    given = values(page, [NetworkRow("demo-lora")], INTO_NETWORK, name="once")
    first, second = (page.panel.make_and_run(page.options, given) for _ in range(2))
    next(first)
    *_, said = second  # from another window: it is told, and sees what came of the one that runs
    list(first)
    assert len(context.jobs.all()) == 1
    assert (
        BUSY.replace("'", "&#x27;") in said[NOTES]["value"]
        and "once.safetensors" in said[NOTES]["value"]
        and "Done" in said[STATE]["value"]
    )


def test_the_plan_tells_what_will_happen(page: MergePage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_plan, "PAUSE", 0.0)
    given = values(page, [NetworkRow("demo-lora"), NetworkRow("demo-lokr", 0.3)])
    shown = page.plan.update(page.planned, page.ready, given)["value"]
    for name, value in (("layers changed", "216 of 1004"), ("file", megabytes(demo.CHECKPOINT.stat().st_size))):
        assert f"<dt>{name}</dt><dd>{value}</dd>" in shown
    assert "<dt>time</dt>" in shown and "<dt>memory</dt>" in shown
    assert "Choose a checkpoint and a network" in page.plan.update(page.planned, page.ready, values(page, []))["value"]
    wrong = page.plan.update(page.planned, page.ready, values(page, [NetworkRow("demo-lora", blocks="NOSUCH")]))
    assert "NOSUCH" in wrong["value"] and 'class="lyco_note bad"' in wrong["value"]
    assert page.context.settings.get("merge", "networks") == [["demo-lora", 1.0, None, None, "NOSUCH"]]


def test_only_the_last_of_many_changes_is_planned(page: MergePage, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(live_plan, "PAUSE", 0.0)

    def make(number: int) -> tuple[str, dict[str, Any]]:
        made.append(number)
        if number == 1:
            page.plan._newest += 1  # another change came while this one was looked at
        raise ToolError(f"change {number}")

    page.plan.update(make, lambda *_: True, [1])
    with page.plan._count:
        page.plan._newest += 1
    assert "change 2" in page.plan.update(make, lambda *_: True, [2])["value"] and made == [1, 2]
    page.plan._busy.acquire()
    monkeypatch.setattr(live_plan.time, "sleep", lambda _: setattr(page.plan, "_newest", 99))
    assert "value" not in page.plan.update(make, lambda *_: True, [3]) and made == [1, 2]
    page.plan._busy.release()


def test_the_mode_shows_its_own_fields() -> None:
    checkpoint, undo, limits, one, other = mode_changed(INTO_NETWORK)
    assert (checkpoint["label"], undo["visible"], limits["visible"], one["visible"], other["visible"]) == (BASE, False, True, False, True)
    assert mode_changed(INTO_CHECKPOINT)[0]["label"] == CHECKPOINT


def test_the_table_of_the_last_visit_comes_back(page: MergePage, context: PageContext) -> None:
    context.settings.keep("merge", "networks", [["demo-lora", 0.5, None, 1, "ALL"]])
    assert page.table.read(page.restored()[0]["value"]) == [NetworkRow("demo-lora", 0.5, None, 1.0, "ALL")]
    for broken in ([["a", 1, 2]] * 2 + [3], "x", [["a", 1, 2, 3, 4, 5, 6]]):
        context.settings.keep("merge", "networks", broken)
        assert isinstance(page.restored(), list)


def test_what_a_merge_changes_is_measured_with_its_strengths(context: PageContext) -> None:
    path = next(file.path for file in context.store.networks() if file.name == "demo-lora")
    base = context.store.checkpoint_folder() / DEMO
    (full,), (half,) = (shares([path], base, ratios=[ratio]) for ratio in (1.0, -0.5))
    assert len(full.energies) == changed("demo-lora") and full.left_out == 0
    assert [name for name, _ in half.energies] == [name for name, _ in full.energies]
    assert sum(e for _, e in half.energies) == pytest.approx(0.25 * sum(e for _, e in full.energies), rel=1e-6)
    (unet,) = shares([path], base, te=[0.0])
    assert 0 < len(unet.energies) < changed("demo-lora") and all("encoder.layers" not in name for name, _ in unet.energies)


# --- the parts that all pages use


def test_kept_settings_outlive_a_broken_file(tmp_path: Path) -> None:
    path = tmp_path / "data" / "pages.json"
    Settings(path).keep("merge", "mode", INTO_NETWORK)
    again = Settings(path)
    assert again.get("merge", "mode") == INTO_NETWORK and again.get("merge", "other", 3) == 3
    again.keep("merge", "bad", {1, 2})
    assert again.get("merge", "bad") is None and [file.name for file in path.parent.iterdir()] == ["pages.json"]
    for text in ("{", "[]", '{"merge": 3}', "\x00"):
        path.write_text(text)
        assert Settings(path).get("merge", "mode", "none") == "none"
    Settings(path).keep("x", "y", 1)
    assert Settings(path).get("x", "y") == 1


def test_settings_that_cannot_be_written_stop_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").touch()
    settings = Settings(tmp_path / "taken" / "pages.json")
    settings.keep("a", "b", 1)
    settings.keep("a", "b", 2)
    assert settings.get("a", "b") == 2 and capsys.readouterr().err.count("cannot be written") == 1


def test_a_choice_that_is_gone_is_not_put_back() -> None:
    with gr.Blocks(analytics_enabled=False):
        assert fits(gr.Dropdown(["a", "b"]), "a") and not fits(gr.Dropdown(["a", "b"]), "c")
        assert fits(gr.Dropdown(["a"], allow_custom_value=True), "c") and fits(gr.Number(), 3)


def test_options_have_fields_of_their_kind(context: PageContext) -> None:
    fields = OptionFields(context, "networks_merge", ("dim", "rule", "density", "style", "device"), "x")
    with gr.Blocks(analytics_enabled=False):
        fields.build(context)
    assert [type(part).__name__ for part in fields.components] == ["Textbox", "Dropdown", "Number", "Dropdown", "Dropdown"]
    assert fields.read(["", "fixed", 0.5, DEFAULT, "cpu"]) == {"rule": "fixed", "density": 0.5, "device": "cpu"}
    assert fields.read([" 4 ", "fixed", 1, "kohya", ""]) == {"dim": 4, "rule": "fixed", "density": 1.0, "style": "kohya"}


def test_progress_is_told_in_words() -> None:
    assert words(ProgressState(2_000_000, 8_000_000, "merging", "B", 2.0)) == "25 % - 2 of 8 MB - 1 MB/s - 6 s left"
    assert words(ProgressState(3, 12, "style", "modules", 1.5)) == "25 % - 3 of 12 modules - 2.0 modules/s - 4 s left"
    assert words(ProgressState(0, 0, "reading", "steps", 1.0)) == "reading"
    assert words(ProgressState(1, 1, "reading a.safetensors", "networks", 2.0)) == "100 % - reading a.safetensors - finishing ..."
    many = words(ProgressState(64_000, 1_098_084, "layer", "weights", 32.0))
    assert many == "6 % - 64,000 of 1,098,084 weights - 2,000 weights/s - 9 min left"
    assert [duration(s) for s in (4.4, 89, 600, 7200)] == ["4 s", "89 s", "10 min", "2.0 h"]


def test_a_panel_tells_what_it_waits_for(context: PageContext) -> None:
    panel = JobPanel(context, "waiting")
    with gr.Blocks(analytics_enabled=False):
        panel.build()
    other = Job(context.jobs.tool("verify"), {})
    mine = Job(context.jobs.tool("verify"), {})
    context.jobs._jobs, context.jobs._order = {other.id: other, mine.id: mine}, [other, mine]
    assert "waiting for 1 other job" in panel._now(mine) and "starting" in panel._now(other)
    context.jobs.move_up(mine.id)
    assert context.jobs.waiting() == [mine, other] and "waiting for 1 other job" in panel._now(other)


def test_a_tag_is_shown_escaped_with_its_buttons() -> None:
    shown = tag_box('<lyco:a"b:1>', "txt2img")
    assert "<lyco" not in shown and 'data-lyco-copy="&lt;lyco:a&quot;b:1&gt;"' in shown and "Send to txt2img" in shown
    assert "data-lyco-send" not in tag_box("<lyco:a:1>", "")


def test_the_tab_keeps_out_of_the_webuis_own_settings(context: PageContext) -> None:
    tab = HostTab(context)
    with gr.Blocks(analytics_enabled=False) as host:
        theirs = gr.Textbox(elem_id="theirs")
        theirs.change(lambda text: text, theirs, theirs, api_name="theirs")
        with gr.Tab("LyCORIS"):
            tab.render()
    assert tab.children == ()  # the webui looks there for values to keep
    ids = {component["props"].get("elem_id") for component in host.config["components"]} - {None, "theirs"}
    assert ids and all(name.startswith("lyco_") for name in ids)
    first, *ours = host.config["dependencies"]
    assert first["api_name"] == "theirs" and {event["api_name"] for event in ours} == {False}
    loads = [event for event in ours if "'load'" in str(event["targets"]) or event.get("trigger") == "load"]
    assert loads and [event for event in loads if event["queue"] is not False] == []  # Gradio 3 drops some of many that start at once


def test_a_fault_in_our_pages_keeps_no_webui_from_starting(context: PageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MergePage, "build", lambda self: 1 / 0)
    with gr.Blocks(analytics_enabled=False) as host, gr.Tab("LyCORIS"):
        HostTab(context).render()
    assert "could not be made, its tags work: ZeroDivisionError" in json.dumps(host.config, default=str)


def test_a_shelf_offers_models_and_not_what_is_beside_them(host: EmbeddedHost, tmp_path: Path) -> None:
    for name in ("b.safetensors", "A.ckpt", "notes.txt", ".hidden.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "diffusers").mkdir()
    (tmp_path / "diffusers" / "model_index.json").write_text("{}")
    store = FolderStore(host.library, tmp_path, tmp_path / "data")
    assert [file.name for file in store.checkpoints()] == ["A.ckpt", "b.safetensors", "diffusers"]
    assert [file.name for file in store.networks()] == sorted((file.name for file in store.networks()), key=str.lower)
    (tmp_path / "c.ckpt").touch()
    store.refresh()
    assert len(store.checkpoints()) == 4
    with pytest.raises(LycorisError):
        use_checkpoint(host, tmp_path / "b.safetensors")
    with pytest.raises(PromptError):
        store.presets().weights("NOSUCH")
