"""What the wiring of every page needs: what an event returns, how quick ones are done, and the tab that a component is in."""

from __future__ import annotations

from typing import Any

import gradio as gr

Update = dict[str, Any]  # as gr.update() returns it
QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden"}  # of events that take no time: none waits, nothing flickers


def tab_of(component: Any) -> Any:
    """Return the tab that a component is in; the whole UI for one that is in none."""
    block = component.parent
    while not isinstance(block, (gr.Tab, gr.Blocks)):
        block = block.parent
    return block
