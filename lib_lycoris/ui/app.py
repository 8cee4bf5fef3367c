"""The standalone app: our pages in the browser, on this machine only."""
from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # gradio reads it when it is imported, and asks its makers' server otherwise

import gradio as gr

from ..errors import HostError
from ..hosts.protocol import Painter, Picture
from .generate import GeneratePage
from .look import CSS

LOOPBACK = "127.0.0.1"
TRIED = 20  # ports after the one asked for
FONTS = ("system-ui", "sans-serif")  # the theme's own would be fetched from a server


def build(host: Painter, save: Callable[[Picture, Path], None]) -> tuple[gr.Blocks, GeneratePage]:
    """Return the app for a host; ``save`` writes a picture with its texts to a file."""
    theme = gr.themes.Default(font=list(FONTS), font_mono=["ui-monospace", "monospace"])
    page = GeneratePage(host, save)
    blocks = gr.Blocks(title="LyCORIS", css=CSS, theme=theme, analytics_enabled=False)
    with blocks, gr.Column(elem_id="lyco_page"):
        gr.Markdown("# LyCORIS", elem_id="lyco_title")
        gr.Markdown(host.about(), elem_id="lyco_about")
        with gr.Tab("Generate"):
            page.build()
    return blocks, page


def launch(host: Painter, save: Callable[[Picture, Path], None], port: int, browser: bool) -> None:
    """Open the app on this machine's loopback address and stay until Ctrl-C; raise HostError if no port is free."""
    blocks, page = build(host, save)
    chosen = free_port(port)
    print(f"LyCORIS is at http://{LOOPBACK}:{chosen} - stop it with Ctrl-C", file=sys.stderr, flush=True)
    try:
        blocks.queue().launch(
            server_name=LOOPBACK, server_port=chosen, share=False, inbrowser=browser, quiet=True, show_api=False,
            allowed_paths=[page.folder.name],
        )  # fmt: skip
    finally:
        page.cancel.set()
        page.folder.cleanup()


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
