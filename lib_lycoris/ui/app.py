"""The standalone app: our pages in the browser, on this machine only."""

from __future__ import annotations

import inspect
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # gradio reads it when it is imported, and asks its makers' server otherwise

import gradio as gr
from starlette.middleware import Middleware

from ..errors import HostError
from ..hosts.protocol import GeneratedImage, Generator
from .context import PageContext
from .lean import LeanBlocks
from .pages import build_pages
from .pages.generate import GeneratePage
from .parts.generation.model_part import about
from .style import APP_CSS, notes, page_css, script, scripted

LOOPBACK = "127.0.0.1"
TRIED = 20  # ports after the one asked for
FONTS = ("system-ui", "sans-serif")  # the theme's own would be fetched from a server
READABLE = {  # the theme's own colours are pale: these have a contrast of 4.5 and more
    "body_text_color_subdued": "*neutral_500", "link_text_color_dark": "*secondary_300",
    "button_primary_background_fill": "*primary_700", "button_primary_background_fill_hover": "*primary_800",
    "button_primary_text_color": "white", "button_primary_border_color": "*primary_700",
    "button_primary_background_fill_dark": "*primary_700", "button_primary_background_fill_hover_dark": "*primary_800",
    "button_primary_text_color_dark": "white", "button_primary_border_color_dark": "*primary_700",
}  # fmt: skip
AT_ONCE = 16  # events that are worked on side by side: each page that follows a job takes one
Routes = Callable[[Any], None]  # adds our HTTP API to the web application
Guard = Callable[[Any], Any]  # wraps an ASGI application: who may talk to it


def build(host: Generator, save: Callable[[GeneratedImage, Path], None], context: PageContext) -> tuple[gr.Blocks, GeneratePage]:
    """Return the app for a host; ``save`` writes an image with its texts to a file."""
    theme = gr.themes.Default(font=list(FONTS), font_mono=["ui-monospace", "monospace"]).set(**READABLE)
    page = GeneratePage(context, save)
    blocks = LeanBlocks(title="LyCORIS", css=page_css() + APP_CSS, theme=theme, analytics_enabled=False)
    with blocks, gr.Column(elem_id="lyco_page"):
        gr.Markdown("# LyCORIS", elem_id="lyco_title")
        line = gr.Markdown(about(host), elem_id="lyco_about")
        _offer_to_move(context)
        with gr.Tabs(elem_id="lyco_tabs"):
            with gr.Tab("Generate", elem_id="lyco_tab_generate") as tab:
                page.build()
            build_pages(context)
        page.follow(tab, line)
        context.finish(blocks)
        run_in_browser(blocks, script())
    return blocks, page


def _offer_to_move(context: PageContext) -> None:
    """Say what an older version left in the cache folder, with a button that moves it to the results."""
    old = getattr(context.store, "old", None)
    if old is None or not old.sentence():
        return
    with gr.Row(elem_classes=["lyco_buttons"]) as row:
        gr.HTML(notes(problems=[old.sentence()]), elem_id="lyco_old")
        button = gr.Button(f"Move them to {context.store.kept_folder().name}", size="sm", elem_id="lyco_old_move", scale=0, min_width=160)
    told = gr.HTML("", elem_id="lyco_old_told")

    def move() -> tuple[dict[str, Any], dict[str, Any]]:
        stay = old.move()
        context.store.refresh()
        return gr.update(visible=False), gr.update(value=notes([f"Your results are in {context.store.kept_folder()} now."], stay))

    button.click(move, None, [row, told], show_progress="hidden")


def run_in_browser(blocks: gr.Blocks, code: str) -> None:
    """Have a script of ours run once when the page is opened."""
    blocks.load(None, None, None, **{scripted(blocks.load): f"() => {{ {code} }}"})


def launch(
    host: Generator, save: Callable[[GeneratedImage, Path], None], context: PageContext, routes: Routes, guard: Guard, port: int,
    browser: bool,
) -> None:  # fmt: skip
    """Open the app on this machine's loopback address and stay until Ctrl-C; raise HostError if no port is free.

    The server still runs afterwards, in threads that may be inside torch: the caller ends the process.
    """
    blocks, page = build(host, save, context)
    chosen, asked = free_port(port), _asked_to_end()
    folders = (context.store.kept_folder(), context.store.network_folder(), context.store.checkpoint_folder())  # results to download
    try:
        app, *_ = queued(blocks).launch(
            server_name=LOOPBACK, server_port=chosen, share=False, inbrowser=browser, quiet=True, show_api=False,
            allowed_paths=[str(folder) for folder in folders], prevent_thread_lock=True,
            app_kwargs={"docs_url": None, "redoc_url": None, "middleware": [Middleware(guard)]},
        )  # fmt: skip
        outermost(app, guard)
        routes(app)
        print(f"LyCORIS is at http://{LOOPBACK}:{chosen} - stop it with Ctrl-C", file=sys.stderr, flush=True)  # it answers now
        _stay(asked)
    finally:
        page.maker.stop()
        context.jobs.close()


def _asked_to_end() -> list[int]:
    """Return where Ctrl-C and SIGTERM are noted from now on; they come twice where a terminal and whoever started us send them.

    A plain list: a signal comes in the middle of anything, and a lock may be held then.
    """
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: asked.append(number))
    return asked


def _stay(asked: list[int]) -> None:
    """Wait for the end. Gradio's own waiting closes its server then, which waits without end for requests that still compute."""
    while not asked:
        time.sleep(0.2)


def outermost(app: Any, guard: Guard) -> None:
    """Put the guard before what Gradio adds around it at its start: a middleware that lets in pages of other sites."""
    app.user_middleware.sort(key=lambda one: one.cls is not guard)
    app.middleware_stack = app.build_middleware_stack()


def queued(blocks: gr.Blocks) -> gr.Blocks:
    """Let events run side by side, so that a page that waits for its job holds up no other; Gradio 4 renamed the keyword for it."""
    known = inspect.signature(blocks.queue).parameters
    keyword = "default_concurrency_limit" if "default_concurrency_limit" in known else "concurrency_count"
    return blocks.queue(**{keyword: AT_ONCE})


def free_port(port: int) -> int:
    """Return the first free port from this one on."""
    for candidate in range(port, port + TRIED):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, candidate))
            except (OSError, OverflowError):
                continue
            return candidate
    raise HostError(f"no port from {port} to {port + TRIED - 1} is free on this machine; choose another one with --port")
