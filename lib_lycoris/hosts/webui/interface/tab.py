"""What people see of us in the webui beside the image itself: tab, page of cards, settings, axes of plots, API, pasted texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....tools.jobs.service import JobService
from . import api

Tab = Callable[[], Any]  # returns what adds the tab's components to the webui's page when its render() is called


def register() -> None:
    """Register what belongs to networks in prompts."""
    from modules import script_callbacks  # type: ignore[import-not-found,unused-ignore]

    from . import paste, settings, xyz

    settings.register()
    paste.register()
    xyz.register()
    script_callbacks.on_before_ui(_add_page)


def register_tools(inspect: api.Inspect | None = None, tab: Tab | None = None, service: JobService | None = None) -> None:
    """Register the tools: our tab and our API.

    `inspect` describes one file and is what the API's inspect answers with; `tab` builds our tab; `service` runs the tools for the API.
    """
    from modules import script_callbacks  # type: ignore[import-not-found,unused-ignore]

    api.register(inspect, service)
    if tab is not None:
        script_callbacks.on_ui_tabs(lambda: [(tab(), "LyCORIS", "lycoris")])


def _add_page() -> None:
    """Add the page; the host forgets all pages before it builds its UI."""
    from modules import ui_extra_networks  # type: ignore[import-not-found,unused-ignore]

    from .cards import Page

    ui_extra_networks.register_page(Page())
