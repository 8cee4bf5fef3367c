"""What people see of us in the webui beside the image itself: tab, page of cards, settings, axes of plots, API, pasted texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....tools.jobs.service import JobService
from ..callbacks import listen
from . import api

Tab = Callable[[], Any]  # returns what adds the tab's components to the webui's page when its render() is called


def register() -> None:
    """Register what belongs to networks in prompts; the webui forgets all pages of cards before it builds its UI."""
    from modules import ui_extra_networks  # type: ignore[import-not-found,unused-ignore]

    from . import paste, xyz
    from .cards import Page

    paste.register()
    xyz.add_axes()
    ui_extra_networks.register_page(Page())


def register_settings() -> None:
    """Register our settings, which the webui wants while it reads scripts."""
    from . import settings

    settings.register()


def register_tools(inspect: api.Inspect | None = None, tab: Tab | None = None, service: JobService | None = None) -> None:
    """Register the tools: our tab and our API.

    `inspect` describes one file and is what the API's inspect answers with; `tab` builds our tab; `service` runs the tools for the API.
    """
    api.register(inspect, service)
    if tab is not None:
        listen("ui_tabs", lambda: [(tab(), "LyCORIS", "lycoris")])
