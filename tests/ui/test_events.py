"""What is yielded to a page: all of it is shown, however late the page looks."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import isgeneratorfunction
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from lib_lycoris.hosts.embedded.files import open_store
from lib_lycoris.hosts.embedded.host import EmbeddedHost
from lib_lycoris.hosts.infotext import save_png
from lib_lycoris.tools.jobs.queue import Jobs
from lib_lycoris.ui.app import build
from lib_lycoris.ui.context import PageContext
from lib_lycoris.ui.events import cumulative

TELLING = cumulative(lambda: iter(())).__code__


@pytest.mark.new_set
def test_an_update_holds_what_those_before_it_told() -> None:
    @cumulative
    def several(text: str) -> Iterator[Any]:
        yield gr.update(value=text), gr.update(), ["a"]
        yield gr.update(), gr.update(visible=True), gr.update()
        yield gr.update(interactive=False), gr.update(value=None), gr.update(value=["b"])

    @cumulative
    def one() -> Iterator[Any]:
        yield gr.update(value="told")
        yield gr.update(visible=False)

    first, second, third = several("x")
    assert first == [gr.update(value="x"), gr.update(), ["a"]]
    assert second == [gr.update(value="x"), gr.update(visible=True), gr.update(value=["a"])]
    assert third == [gr.update(value="x", interactive=False), gr.update(visible=True, value=None), gr.update(value=["b"])]
    assert list(one()) == [gr.update(value="told"), gr.update(value="told", visible=False)]


@pytest.mark.new_set
def test_what_gradio_takes_out_of_an_update_is_in_the_next() -> None:
    @cumulative
    def several() -> Iterator[Any]:
        yield [gr.update(value="x")]
        yield [gr.update()]

    made = several()
    next(made)[0].pop("value")
    assert next(made) == [gr.update(value="x")]


@pytest.mark.new_set
def test_every_event_that_yields_tells_all_each_time(tmp_path: Path) -> None:
    host = EmbeddedHost.open(device="cpu", data=tmp_path)
    blocks, _ = build(host, save_png, PageContext(open_store(host, None, None, tmp_path), Jobs(), host))
    yielding = [event.fn for event in blocks.fns.values() if isgeneratorfunction(event.fn)]
    assert len(yielding) > 10
    assert [function for function in yielding if function.__code__ is not TELLING] == []
