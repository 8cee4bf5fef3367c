"""A page without what only Gradio's description of its own API reads: we offer none, and it is a third of the page."""

from __future__ import annotations

from typing import Any

import gradio as gr

DESCRIBED = ("api_info", "example_inputs", "serializer", "skip_api")  # of a component
UNREAD: dict[str, Any] = {"_selectable": False, "delete_callback": None}  # properties: left out with this value, None with any
AS_USUAL: dict[str, Any] = {  # of an event: what the browser takes for granted
    "every": None, "max_batch_size": 4, "cancels": [], "rendered_in": None, "zerogpu": False, "scroll_to_output": False,
    "collects_event_data": False, "trigger_only_on_success": False, "trigger_after": None, "show_api": False, "batch": False, "js": None,
}  # fmt: skip


class LeanBlocks(gr.Blocks):  # type: ignore[misc,unused-ignore]
    """A UI whose description for the browser holds what the browser reads, and no more."""

    def get_config_file(self) -> Any:
        """Return the description of components and events that a page is made of."""
        config: dict[str, Any] = super().get_config_file()
        return {
            **config,
            "components": [_component(facts) for facts in config["components"]],
            "dependencies": [_event(facts) for facts in config["dependencies"]],
        }


def _component(facts: dict[str, Any]) -> dict[str, Any]:
    """Return a component's facts; where its class has an id, 64 digits that tell classes apart, its type does so too."""
    found = {name: value for name, value in facts.items() if name not in DESCRIBED and (name, value) != ("key", None)}
    found["props"] = {name: value for name, value in facts["props"].items() if name not in UNREAD or UNREAD[name] not in (None, value)}
    return {**found, "component_class_id": facts["type"]} if "component_class_id" in facts else found


def _event(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name not in AS_USUAL or AS_USUAL[name] != value}
