"""What the pages weigh: bytes that every visit sends, and modules that every start of a webui imports. Times are in `bench pages`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr

from lib_lycoris.hosts.embedded.files import open_store
from lib_lycoris.hosts.embedded.host import EmbeddedHost
from lib_lycoris.hosts.infotext import save_png
from lib_lycoris.tools.jobs.queue import Jobs
from lib_lycoris.ui.app import build
from lib_lycoris.ui.context import PageContext
from lib_lycoris.ui.events import on_any
from lib_lycoris.ui.lean import LeanBlocks
from tests.benchmarks import pages


def test_the_pages_keep_to_their_weight(tmp_path: Path) -> None:
    host = EmbeddedHost.open(device="cpu", data=tmp_path)
    blocks, _ = build(host, save_png, PageContext(open_store(host, None, None, tmp_path), Jobs(), host))
    weight, new = pages.weights(json.loads(json.dumps(blocks.get_config_file(), default=str)))
    assert all(1000 < size <= pages.NEW_PAGE_LIMIT for size in new.values()), new
    assert weight - sum(new.values()) <= pages.PAGE_LIMIT


def test_a_start_imports_no_more_modules_than_it_did() -> None:
    assert 100 < pages.started()["modules"] <= pages.MODULES_LIMIT


def test_a_lean_page_says_what_the_browser_has_to_know() -> None:
    with LeanBlocks(analytics_enabled=False) as blocks:
        box = gr.Textbox("x", label="Text", elem_id="a")
        button = gr.Button("Go")
        button.click(lambda text: text, box, box, scroll_to_output=True).then(lambda text: text, box, box)
    config: dict[str, Any] = json.loads(json.dumps(blocks.get_config_file(), default=str))
    part = next(part for part in config["components"] if part["props"].get("elem_id") == "a")
    assert part["type"] == "textbox" and (part["props"]["value"], part["props"]["label"]) == ("x", "Text")
    assert not {"api_info", "example_inputs", "serializer", "skip_api"} & part.keys()
    assert part.get("component_class_id", "textbox") == "textbox"
    first, second = config["dependencies"]
    assert first["scroll_to_output"] is True and "scroll_to_output" not in second and "trigger_after" not in first
    assert second["trigger_after"] in (0, first.get("id")) and first["inputs"] == first["outputs"] == [part["id"]]


def test_many_fields_are_one_event_on_any_gradio() -> None:
    with gr.Blocks(analytics_enabled=False) as blocks:
        boxes = [gr.Textbox(label=str(number)) for number in range(12)]
        on_any([box.input for box in boxes], lambda *_: None, boxes, None)
    events = blocks.config["dependencies"]
    assert len(events) == (1 if hasattr(gr, "on") else 2)  # Gradio 3: the event, and the look behind it
    found = [target[0] if isinstance(target, (list, tuple)) else target for target in events[0]["targets"]]
    assert found == [box._id for box in boxes]
