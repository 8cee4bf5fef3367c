"""What people see of us in the webui beside the image itself: tab, page of cards, settings, axes of plots, API, pasted texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...jobs_api import Service
from . import api as a1111_api
from . import paste as a1111_paste
from . import settings as a1111_settings
from . import xyz as a1111_xyz

Tab = Callable[[], Any]  # builds the tab's gr.Blocks


def register(inspect: a1111_api.Inspect | None = None, tab: Tab | None = None, service: Service | None = None) -> None:
    """Register all of it with the running webui.

    `inspect` describes one file and is what the API's inspect answers with; `tab` builds our tab; `service` runs the tools for the API.
    """
    from modules import script_callbacks  # type: ignore[import-not-found,unused-ignore]

    a1111_settings.register()
    a1111_paste.register()
    a1111_xyz.register()
    a1111_api.register(inspect, service)
    script_callbacks.on_before_ui(_add_page)
    if tab is not None:
        script_callbacks.on_ui_tabs(lambda: [(tab(), "LyCORIS", "lycoris")])


def _add_page() -> None:
    """Add the page; the host forgets all pages before it builds its UI."""
    from modules import ui_extra_networks  # type: ignore[import-not-found,unused-ignore]

    from .cards import Page

    ui_extra_networks.register_page(Page())
